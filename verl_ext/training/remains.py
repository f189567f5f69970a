"""What engines leave behind on a machine when they are killed: shared memory in /dev/shm, and sockets.

A run of its own cluster ends with its engines being killed: Ray ends its actors, and what vLLM's processes had is never
given back (the ring buffers of ``vllm/distributed/device_communicators/shm_broadcast.py``, line 321, as psm_*, with
semaphores as sem.mp-*; the sockets of ``vllm/utils/network_utils.py``, line 159; verl's segments for weights as
verl_weights_*). Only what processes of the run held is removed, and nothing that any process still has.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ray

_logger = logging.getLogger(__name__)

_PROC = Path("/proc")
_SHARED = re.compile(r"/dev/shm/(?:psm_|sem\.mp-|verl_weights_)[^/]+")
# vLLM names a socket by a UUID alone; verl's for weights has a name.
_SOCKET = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}|rl-colocate-zmq-.+\.sock")

# For the processes of a cluster to end, after Ray has told them to.
_PATIENCE_SECONDS = 30.0

# Between two looks at whether a process is still there.
_LOOK_SECONDS = 0.1


@dataclass
class Held:
    """Processes, and what they hold that would stay behind.

    Attributes:
        processes: by id, with when each was started: an id alone may be another process's later.
        files: segments of shared memory, and sockets.
    """

    processes: dict[int, str] = field(default_factory=dict)
    files: set[Path] = field(default_factory=set)


def end_cluster() -> None:
    """End the cluster that this process started, and remove what its engines leave on this machine."""
    if not ray.is_initialized():
        return
    held = held_by_children(os.getpid())
    ray.shutdown()
    if removed := remove(held, _PATIENCE_SECONDS):
        _logger.info("removed what engines left behind: %s", ", ".join(map(str, removed)))


def held_by_children(parent: int) -> Held:
    """What all processes below one hold now; not what it holds itself."""
    below = _below(parent)
    return Held(below, _segments(below) | _sockets(below))


def remove(held: Held, patience: float) -> list[Path]:
    """Remove what processes held once they have ended, and no other process has it.

    Args:
        held: the processes, and what they held.
        patience: seconds to wait for their end.

    Returns:
        What was removed.
    """
    end = time.monotonic() + patience
    while _alive(held.processes) and time.monotonic() < end:
        time.sleep(_LOOK_SECONDS)
    running = _numbers()
    in_use = _segments(running) | _sockets(running)
    left = sorted(path for path in held.files - in_use if path.exists())
    for path in left:
        path.unlink(missing_ok=True)
    return left


def _numbers() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _stat(process: int) -> list[str] | None:
    """What /proc says of a process, from its state on; None where it is no more."""
    try:
        text = (_PROC / str(process) / "stat").read_text(errors="replace")
    except OSError:
        return None
    return text.rpartition(")")[2].split()  # its name, before it, may hold anything


# Places in that: the parent's id, and the start, in clock ticks since boot (proc_pid_stat(5), from the third field).
_PARENT, _START = 1, 19


def _below(parent: int) -> dict[int, str]:
    found = {number: stat for number in _numbers() if (stat := _stat(number))}
    below: dict[int, str] = {}
    layer = {parent}
    while layer:
        layer = {number for number, stat in found.items() if int(stat[_PARENT]) in layer} - set(below)
        below.update((number, found[number][_START]) for number in layer)
    return below


def _alive(processes: dict[int, str]) -> bool:
    return any(
        (stat := _stat(number)) and stat[0] != "Z" and stat[_START] == start for number, start in processes.items()
    )


def _lines(path: Path) -> Iterator[str]:
    try:
        yield from path.read_text(errors="replace").splitlines()
    except OSError:  # the process has ended, or is another user's
        return


def _segments(processes: Collection[int]) -> set[Path]:
    """The segments that processes have mapped."""
    lines = (line for number in processes for line in _lines(_PROC / str(number) / "maps"))
    return {Path(match.group()) for line in lines if (match := _SHARED.search(line)) and " (deleted)" not in line}


def _sockets(processes: Collection[int]) -> set[Path]:
    """The sockets with a name that processes have open."""
    named = {}
    for line in _lines(_PROC / "net" / "unix"):
        *_, inode, path = line.split(maxsplit=7) if line.count("/") else ("", "")
        if _SOCKET.fullmatch(os.path.basename(path)):
            named[f"socket:[{inode}]"] = Path(path)
    return {named[link] for number in processes for link in _links(number) if link in named}


def _links(process: int) -> Iterator[str]:
    try:
        descriptors = list((_PROC / str(process) / "fd").iterdir())
    except OSError:
        return
    for descriptor in descriptors:
        try:
            yield os.readlink(descriptor)
        except OSError:
            continue  # closed since
