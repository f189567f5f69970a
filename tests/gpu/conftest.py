"""What the tests on a GPU share. Without CUDA each is collected and skipped, with the reason.

No test needs another to have run before it, nor a network. Each prints its figure; ``docs/gpu.md`` is made of
these.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

Report = Callable[[str, float, str], None]

# A hook sees the tests of all other folders as well.
_FOLDER = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    reason = f"torch {torch.__version__} sees no CUDA device"
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Report:
    """Print a figure: its name, value and unit, with the test's and the GPU's name, past pytest's capture."""

    def say(name: str, value: float, unit: str) -> None:
        with capsys.disabled():
            device = torch.cuda.get_device_name()
            print(f"\n{request.node.name} | {device} | {name} | {value:.6g} {unit}")

    return say
