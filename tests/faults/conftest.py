"""Tests that hurt real runs: 25 minutes, so only where they are asked for (``make test-faults``)."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from harness import table

if not os.environ.get("TEST_FAULTS"):
    collect_ignore_glob = ["test_*.py"]

ROWS = Path(__file__).parents[2] / "outputs" / "faults"


@pytest.fixture(scope="session")
def rows() -> Path:
    """Where the rows of the README's table go."""
    return ROWS


def pytest_configure() -> None:
    """Told to end, end as by Ctrl-C: with all that was started."""
    if os.environ.get("TEST_FAULTS"):
        signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Print the table."""
    if os.environ.get("TEST_FAULTS"):
        print(f"\n\n{table(ROWS)}\n")
