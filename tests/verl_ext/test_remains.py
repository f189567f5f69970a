"""What killed processes leave behind is removed: theirs alone, and nothing that is in use."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn
from omegaconf import OmegaConf

from verl_ext.checks.startup import StartupCheck
from verl_ext.training import remains

# As an engine that is killed: it has a segment and a socket, and neither has a tracker that would give it back.
ENGINE = """
import socket, sys, time, uuid
from multiprocessing import resource_tracker
from multiprocessing.shared_memory import SharedMemory
segment = SharedMemory(create=True, size=100)
resource_tracker.unregister(segment._name, "shared_memory")
path = f"{sys.argv[1]}/{uuid.uuid4()}"
listener = socket.socket(socket.AF_UNIX)
listener.bind(path)
listener.listen()
print(segment.name, path, flush=True)
time.sleep(600)
"""

# The engine is not the run's own child.
ACTOR = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1], sys.argv[2]])"


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimpleNamespace]:
    """A process that has children with something to leave behind."""
    command = [sys.executable, "-c", ACTOR, ENGINE, str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    segment, socket = process.stdout.readline().split()
    found = SimpleNamespace(process=process, segment=Path("/dev/shm", segment), socket=Path(socket))
    yield found
    kill(found)
    for path in (found.segment, found.socket):
        path.unlink(missing_ok=True)


def kill(engine: Any) -> None:
    """The whole session of the process, which is its own."""
    if engine.process.poll() is None:
        os.killpg(engine.process.pid, 9)
        engine.process.wait()
    engine.process.stdout.close()


def attached(path: Path) -> SharedMemory:
    segment = SharedMemory(path.name)
    resource_tracker.unregister(f"/{path.name}", "shared_memory")
    return segment


def test_what_killed_processes_held_is_removed(engine: Any) -> None:
    held = remains.held_by_children(os.getpid())
    assert {engine.segment, engine.socket} <= held.files
    kill(engine)
    assert engine.segment.exists()
    assert engine.socket.exists()
    assert set(remains.remove(held, patience=10)) >= {engine.segment, engine.socket}
    assert not engine.segment.exists()
    assert not engine.socket.exists()


def test_nothing_that_is_in_use_is_removed(engine: Any) -> None:
    held = remains.held_by_children(os.getpid())
    remains.remove(held, patience=0)  # it lives
    assert engine.segment.exists()
    assert engine.socket.exists()
    segment = attached(engine.segment)
    kill(engine)
    removed = remains.remove(held, patience=10)
    assert engine.segment.exists()
    assert engine.socket in removed
    segment.close()


def test_what_is_not_of_a_child_stays(engine: Any, tmp_path: Path) -> None:
    other = SharedMemory(create=True, size=100)
    other_file = tmp_path / "0a1b2c3d-0000-4000-8000-000000000000"
    other_file.touch()
    try:
        held = remains.held_by_children(os.getpid())
        kill(engine)
        other.close()  # nobody has it, and it was no child's
        remains.remove(held, patience=10)
        assert Path("/dev/shm", other.name).exists()
        assert other_file.exists()
    finally:
        other.unlink()


@pytest.mark.parametrize(("address", "ends"), [("local", True), (None, True), ("head:6379", False)])
def test_a_run_ends_its_own_cluster_alone(
    engine: Any, monkeypatch: pytest.MonkeyPatch, address: str | None, ends: bool
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    # Other tests' children, which are this process's too, live on.
    monkeypatch.setattr(remains, "_PATIENCE_SECONDS", 3.0)
    monkeypatch.setattr(remains.ray, "is_initialized", lambda: True)
    monkeypatch.setattr(remains.ray, "shutdown", lambda: kill(engine))
    config = OmegaConf.create({"ray_kwargs": {"ray_init": {"address": address}}})
    StartupCheck().on_job_end(config, job_return=JobReturn())
    assert engine.segment.exists() is not ends
