"""What the tests on a GPU share. Without CUDA each is collected and skipped, with the reason.

No test needs another to have run before it, nor a network. Each prints its figures and adds them to
``outputs/gpu/figures.jsonl``, of which ``docs/gpu.md`` is made. With ``GPU_TESTS_REHEARSED_ON_CPU=1`` the same bodies
run on CPU cores, with small sizes: they show that a test's own code works, and nothing of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import torch
from gpu_figures import ROOT, Figure
from gpu_machine import HELD_OUT, REHEARSED, Machine, this_machine

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

Report = Callable[[str, float, str], None]

# A hook sees the tests of all other folders as well.
_FOLDER = Path(__file__).parent

# Enough to end most attempts with an answer.
_WARM_UP_STEPS = 120


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if this_machine() is not None:
        return
    reason = f"torch {torch.__version__} sees no CUDA device, and {REHEARSED} is not set"
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def machine() -> Machine:
    """What the tests run on."""
    found = this_machine()
    assert found is not None
    return found


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy task, with a model that has learned the format and little more."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(
        folder,
        train_questions=256,
        validation_questions=8,
        heldout_questions=HELD_OUT,
        hard_questions=1,
        settings=ToySettings(steps=_WARM_UP_STEPS),
    )
    return folder


@pytest.fixture
def report(machine: Machine, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Report:
    """Print a figure past pytest's capture, and keep it: its name, value and unit."""
    file = ROOT / "outputs" / "gpu" / machine.of("figures.jsonl", "rehearsal.jsonl")

    def say(name: str, value: float, unit: str) -> None:
        figure = Figure(f"{datetime.now(UTC):%Y-%m-%d}", request.node.name, machine.name, name, float(value), unit)
        figure.write(file)
        with capsys.disabled():
            print(f"\n{figure}")

    return say
