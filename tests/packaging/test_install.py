"""The set-up's script: which Python it takes, and where torch's CPU wheel comes from. pip and uv are stand-ins."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]

# A Python as far as the script sees it: says its version, makes environments with copies of itself, and notes what its
# pip is asked for. Its pip finds torch only where FINDS_TORCH says so; with uv comes a stand-in that notes as well.
_PYTHON = """#!/usr/bin/env bash
case "$*" in
  *version_info*) [ "{version}" = none ] && exit 127; echo {version} ;;
  "-m venv "*) mkdir -p "$3/bin"; cp "$0" "$3/bin/python" ;;
  *) asked="$*"
     echo "pip ${{asked#-m pip --disable-pip-version-check install --quiet }}" >>"$NOTES"
     case "$*" in
       *"installer.lock")
               printf '#!/usr/bin/env bash\\necho "uv $*" >>"$NOTES"; [ -n "$UV_FINDS_TORCH" ]\\n' >"${{0%python}}uv"
               chmod +x "${{0%python}}uv" ;;
       *"torch=="*) [ -n "${{FINDS_TORCH:-}}" ] ;;
     esac ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What the script reads, and an empty folder of commands."""
    shutil.copytree(_ROOT / "requirements", tmp_path / "checkout" / "requirements")
    (tmp_path / "commands").mkdir()
    return tmp_path / "checkout"


def add_python(checkout: Path, version: str, name: str | None = None) -> Path:
    command = checkout.parent / "commands" / (name or f"python{version}")
    command.write_text(_PYTHON.format(version=version))
    command.chmod(0o755)
    return command


def install(checkout: Path, *names: str, **environment: str) -> tuple[int, str, list[str]]:
    """Run the script; its exit status, what it said, and what was asked of pip and uv."""
    commands, notes = checkout.parent / "commands", checkout.parent / "notes"
    # No Python but the stand-ins.
    for tool in ("bash", "env", "dirname", "grep", "mkdir", "cp", "chmod"):
        if not (commands / tool).exists():
            (commands / tool).symlink_to(str(shutil.which(tool)))
    finished = subprocess.run(
        [checkout / "requirements" / "install.sh", *names],
        env={"PATH": str(commands), "NOTES": str(notes), "UV_FINDS_TORCH": ""} | environment,
        capture_output=True,
        text=True,
    )
    return finished.returncode, finished.stderr, notes.read_text().splitlines() if notes.exists() else []


_THIS_PACKAGE = "pip --no-deps --no-build-isolation --editable ."


def by_hash(name: str) -> str:
    return f"pip --no-deps --require-hashes -r requirements/{name}.lock"


def versions_of(lock: Path) -> dict[str, str]:
    """The lock's packages and versions, each of which must be followed by hashes."""
    [*packages] = re.findall(
        r"^([\w.-]+)==(\S+)(?: ;[^\\\n]*)?((?: \\\n +--hash=sha256:[0-9a-f]{64})*)$", lock.read_text(), re.M
    )
    lines = [line for line in lock.read_text().splitlines() if line and line[0] not in " #"]
    assert [name for name, _, _ in packages] == [line.split("==")[0] for line in lines]
    assert [name for name, _, hashes in packages if not hashes] == []
    return {name: version for name, version, _ in packages}


def torch_of(checkout: Path) -> str:
    lines = (checkout / "requirements" / "torch_cpu.txt").read_text().splitlines()
    [torch] = [line for line in lines if not line.startswith("#")]
    return torch


@pytest.mark.parametrize(
    ("there", "taken"), [(["3.11", "3.12"], "3.11"), (["3.12"], "3.12"), (["3.10", "3.12", "3.13"], "3.12")]
)
def test_the_python_that_is_there_is_taken(checkout: Path, there: list[str], taken: str) -> None:
    for version in there:
        add_python(checkout, version)
    status, said, _ = install(checkout, FINDS_TORCH="yes")
    assert (status, said) == (0, "")
    assert f"echo {taken} ;;" in (checkout / ".venv" / "bin" / "python").read_text()


def test_a_command_that_does_not_run_is_no_python(checkout: Path) -> None:
    add_python(checkout, "none", "python3.11")
    add_python(checkout, "3.12")
    assert install(checkout, FINDS_TORCH="yes")[0] == 0


@pytest.mark.parametrize(
    ("names", "python", "parts"),
    [
        ((), None, ["no Python 3.11 3.12 on PATH", "make PYTHON="]),
        ((), "3.13", ["is Python 3.13", "pins wheels for Python 3.11 3.12"]),
        (("gpu",), "3.11", ["is Python 3.11", "pins wheels for Python 3.12"]),
        (("sglang",), "3.12", ["is Python 3.12", "pins wheels for Python 3.11"]),
        (("tpu",), "3.11", ["NAME=tpu is not a set-up"]),
    ],
)
def test_a_wrong_python_is_told(checkout: Path, names: tuple[str, ...], python: str | None, parts: list[str]) -> None:
    environment = {} if python is None else {"PYTHON": str(add_python(checkout, python, "mine"))}
    status, said, asked = install(checkout, *names, **environment)
    assert (status, asked) == (1, [])
    assert [part for part in parts if part not in said] == [], said


def test_torch_comes_from_where_pip_is_configured_to_look(checkout: Path) -> None:
    add_python(checkout, "3.11")
    status, _, asked = install(checkout, FINDS_TORCH="yes")
    assert status == 0
    assert [line for line in asked if "torch==" in line] == [f"pip --no-deps {torch_of(checkout)}"]
    assert not any(line.startswith("uv") for line in asked)


def test_without_a_wheel_there_uv_takes_it_from_pytorchs_own_index(checkout: Path) -> None:
    add_python(checkout, "3.12")
    status, _, asked = install(checkout, UV_FINDS_TORCH="yes")
    assert status == 0
    torch, python = torch_of(checkout), ".venv/bin/python"
    assert asked[:3] == [
        f"pip --no-deps {torch}",
        "pip --no-deps --require-hashes -r requirements/installer.lock",
        f"uv pip install --quiet --python {python} --no-deps --torch-backend cpu {torch}",
    ]
    assert asked[-1].endswith("--editable .")


def test_where_even_that_index_has_none_the_remedy_is_told(checkout: Path) -> None:
    add_python(checkout, "3.11")
    status, said, asked = install(checkout)
    assert status == 1
    assert "cannot be had from PyTorch's CPU index" in said
    assert "set TORCH_INDEX" in said
    assert not any("--editable" in line for line in asked)


@pytest.mark.parametrize("has_torch", [True, False])
def test_an_index_that_is_named_is_the_only_one_asked(checkout: Path, has_torch: bool) -> None:
    add_python(checkout, "3.11")
    status, said, asked = install(checkout, TORCH_INDEX="file:///index", FINDS_TORCH="yes" if has_torch else "")
    assert asked[0] == f"pip --no-deps --index-url file:///index {torch_of(checkout)}"
    assert not any(line.startswith("uv") for line in asked)
    assert (status == 0) is has_torch
    assert has_torch or "TORCH_INDEX=file:///index does not give" in said


def test_the_gpu_set_up_is_its_lock_by_hash_and_nothing_else(checkout: Path) -> None:
    add_python(checkout, "3.12")
    status, _, asked = install(checkout, "gpu")
    assert status == 0
    assert asked == [by_hash("gpu"), _THIS_PACKAGE]
    assert (checkout / ".venv-gpu").is_dir()


@pytest.mark.parametrize("name", ["cpu", "sglang"])
def test_a_cpu_set_up_is_torch_and_its_lock_by_hash(checkout: Path, name: str) -> None:
    add_python(checkout, "3.11")
    status, _, asked = install(checkout, name, FINDS_TORCH="yes")
    assert status == 0
    assert asked == [f"pip --no-deps {torch_of(checkout)}", by_hash(name), _THIS_PACKAGE]


def test_megatron_is_its_lock_by_hash() -> None:
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", ".venv/megatron/complete"], cwd=_ROOT, capture_output=True, text=True
    )
    [line] = [line for line in made.stdout.replace("\\\n", "").splitlines() if "megatron.lock" in line]
    assert "--require-hashes" in line.split()


_LOCKS = sorted(_ROOT.glob("requirements/*.lock"))


@pytest.mark.parametrize("lock", _LOCKS, ids=lambda path: path.name)
def test_no_lock_names_an_index(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not any(line.startswith("-") for line in text.splitlines())


@pytest.mark.parametrize("lock", _LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_has_hashes(lock: Path) -> None:
    versions = versions_of(lock)
    assert versions
    assert "torch" not in versions or lock.name == "gpu.lock", "torch's CPU wheel has no hash that holds everywhere"
    assert os.path.getsize(lock) < 2**20


@pytest.mark.parametrize(("lock", "extra"), [("gpu", "vllm"), ("sglang", "sglang"), ("megatron", "megatron")])
def test_a_lock_has_what_the_extra_names(lock: str, extra: str) -> None:
    versions = versions_of(_ROOT / "requirements" / f"{lock}.lock")
    named = (_ROOT / "pyproject.toml").read_text().split(f"\n{extra} = [")[1].split("]")[0]
    for package in named.replace('"', "").split(", "):
        name, version = package.split("==")
        assert versions[name] == version
