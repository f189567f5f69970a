"""The wheel: what it installs, and that it works without the checkout."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what git knows, so that nothing lying about in the checkout gets into the wheel or is written to it."""
    source = tmp_path_factory.mktemp("checkout")
    files = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=_ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in files.stdout.splitlines():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        if (_ROOT / name).is_symlink():
            (source / name).symlink_to((_ROOT / name).readlink())
        elif (_ROOT / name).is_file():
            (source / name).write_bytes((_ROOT / name).read_bytes())
    return source


@pytest.fixture(scope="module")
def wheel(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(folder), str(checkout)]
    subprocess.run(command, check=True, capture_output=True)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` folder of a clean environment that holds the wheel; its dependencies come from this environment."""
    environment = tmp_path_factory.mktemp("environment")
    venv.create(environment, with_pip=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel], check=True)
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True,
        capture_output=True,
        text=True,
    )
    # A path added by a .pth file gives its packages, but not its own .pth files: not the editable install.
    Path(packages.stdout.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return environment / "bin"


def test_the_wheel_installs_no_generic_package(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"hydra_plugins", "multi_attempt", "verl_ext"}


def test_the_wheel_holds_every_config_and_template(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {f"verl_ext/config/{path.relative_to(_ROOT / 'config')}" for path in _ROOT.glob("config/**/*.yaml")} <= names
    assert {f"multi_attempt/evaluation/{path.name}" for path in _ROOT.glob("eval/*.j2")} <= names
    tables = (path for package in ("multi_attempt", "verl_ext") for path in (_ROOT / package).rglob("*.yaml"))
    assert {str(path.relative_to(_ROOT)) for path in tables} <= names


def test_the_wheel_holds_every_module(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    folders = {"multi_attempt": "multi_attempt", "verl_ext": "verl_ext", "eval": "multi_attempt/evaluation"}
    assert {
        f"{installed}/{path.relative_to(_ROOT / folder)}"
        for folder, installed in folders.items()
        for path in _ROOT.glob(f"{folder}/**/*.py")
    } <= names


def test_verl_finds_the_installed_config_from_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    command = [
        str(installed / "python"),
        "-m",
        "verl.trainer.main_ppo",
        "--config-name",
        "multi_attempt",
        "--cfg",
        "job",
    ]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "default_agent_loop: multi_attempt" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_verl_finds_the_config_in_a_checkout_whose_package_is_installed_elsewhere(
    installed: Path, checkout: Path
) -> None:
    # `python -m` puts the folder that it is started in before what is installed.
    program = [str(installed / "python"), "-m"]
    command = [*program, "verl.trainer.main_ppo", "--config-name", "multi_attempt", "--cfg", "job"]
    result = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    assert "default_agent_loop: multi_attempt" in result.stdout
    where = "import verl_ext.config, multi_attempt.evaluation as part; print(part.__path__[0])"
    result = subprocess.run([program[0], "-c", where], cwd=checkout, check=True, capture_output=True, text=True)
    assert Path(result.stdout.strip()).is_relative_to(checkout)
    command = [*program, "multi_attempt.cli", "eval", "--help"]
    result = subprocess.run(command, cwd=checkout, check=True, capture_output=True, text=True)
    assert "--protocols" in result.stdout


def test_verl_loads_the_installed_plugin(installed: Path, tmp_path: Path) -> None:
    program = (
        "import verl, verl_ext.plugin, pathlib\n"
        "from verl.experimental.agent_loop.agent_loop import _agent_loop_registry\n"
        "assert 'multi_attempt' in _agent_loop_registry\n"
        "print(pathlib.Path(verl_ext.plugin.__file__).parent)"
    )
    result = subprocess.run(
        [installed / "python", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True
    )
    assert Path(result.stdout.splitlines()[-1]).is_relative_to(installed.parent)


def test_the_command_line_is_installed(installed: Path, tmp_path: Path) -> None:
    result = subprocess.run(
        [installed / "multi-attempt", "grade"],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        input='{"prediction": "\\\\boxed{3}", "gold": "3"}\n',
    )
    assert '"correct": true' in result.stdout
