"""Notes when a process of a run talks to TransferQueue. verl loads it where ``VERL_USE_EXTERNAL_MODULES`` names it.

Each process appends lines with ``call``, ``process``, ``start`` and ``stop`` (seconds since the epoch) to a file of its
own, in the folder that ``TRANSFER_SPANS`` names.
"""

from __future__ import annotations

import functools
import json
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
from transfer_queue.client import AsyncTransferQueueClient

FOLDER = "TRANSFER_SPANS"
"""The environment variable that names the folder."""

_inside: ContextVar[bool] = ContextVar("inside", default=False)


def _noted(method: Callable[..., Awaitable[Any]], file: Path) -> Callable[..., Awaitable[Any]]:
    @functools.wraps(method)
    async def noted(*arguments: Any, **keywords: Any) -> Any:
        if _inside.get():  # called by another of these methods
            return await method(*arguments, **keywords)
        token = _inside.set(True)
        span = {"call": method.__name__, "process": role(psutil.Process().cmdline()), "start": time.time()}
        try:
            return await method(*arguments, **keywords)
        finally:
            _inside.reset(token)
            with file.open("a") as sink:
                sink.write(json.dumps(span | {"stop": time.time()}) + "\n")

    return noted


def role(command: Sequence[str]) -> str:
    """What Ray calls the process with this command line: ``ray::WorkerDict.update_actor`` is a WorkerDict."""
    return command[0].removeprefix("ray::").split(".")[0]


def _install() -> None:
    file = Path(os.environ[FOLDER]) / f"{os.getpid()}.jsonl"
    for name, method in list(vars(AsyncTransferQueueClient).items()):
        if name.startswith("async_"):
            setattr(AsyncTransferQueueClient, name, _noted(method, file))


if FOLDER in os.environ:
    _install()
