"""Notes what each phase of a step holds. verl loads it where ``VERL_USE_EXTERNAL_MODULES`` names it.

A thread in the training worker looks many times a second at which of its methods runs, by the title that Ray gives the
process, and at its memory. torch's own peaks are begun anew with each look, so that none is missed between two of them.
Each change of the method is a line, in a file of the process's own in the folder that ``MEMORY_WATCH`` names:

- ``method``: what ran; empty while the worker waits, as during generation;
- ``allocated``: the most bytes of torch's tensors in this process;
- ``reserved``: the most bytes that torch's allocator had then;
- ``device``: the most bytes of the GPU that all processes together had taken.

Without CUDA all three are the process's resident memory, so that the rest can be tried.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import psutil
import torch

FOLDER = "MEMORY_WATCH"
"""The environment variable that names the folder."""

_POLL_SECONDS = 0.02
_WORKER = "ray::WorkerDict"

Held = dict[str, int]


def method_of(command: str) -> str | None:
    """The method in a process's title; None for a process that trains nothing."""
    return command.removeprefix(_WORKER).strip(".() ") if command.startswith(_WORKER) else None


def _held() -> Held:
    if not torch.cuda.is_initialized():
        resident = psutil.Process().memory_info().rss
        return {"allocated": resident, "reserved": resident, "device": resident}
    allocated, reserved = torch.cuda.max_memory_allocated(0), torch.cuda.max_memory_reserved(0)
    torch.cuda.reset_peak_memory_stats(0)
    free, total = torch.cuda.mem_get_info(0)
    return {"allocated": allocated, "reserved": reserved, "device": total - free}


def _watch(file: Path) -> None:
    now, most = "", dict.fromkeys(("allocated", "reserved", "device"), 0)
    while True:
        time.sleep(_POLL_SECONDS)
        # The first argument of a titled process is all of its title.
        method = method_of(Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode())
        if method is None:
            continue
        held = _held()
        device = held.pop("device")
        # torch's peaks are those since the last look, so that a method's last ones are seen when it has ended.
        most |= {name: max(size, most[name]) for name, size in held.items()}
        if method != now:
            with file.open("a") as sink:
                sink.write(json.dumps({"method": now, **most}) + "\n")
            now, most = method, dict.fromkeys(most, 0)
        most["device"] = max(device, most["device"])


def peaks(folder: Path) -> dict[str, Held]:
    """By method, the most of each of its runs."""
    found: dict[str, Held] = {}
    for file in folder.iterdir():
        for line in map(json.loads, file.read_text().splitlines()):
            before = found.setdefault(line.pop("method"), dict.fromkeys(line, 0))
            before.update({name: max(size, before[name]) for name, size in line.items()})
    return found


if FOLDER in os.environ:
    _file = Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl"
    threading.Thread(target=_watch, args=(_file,), daemon=True).start()
