"""Two processes that do the same work together, as the ranks of a training run on two GPUs do, with Megatron on CPU."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

MEGATRON = Path(sys.prefix) / "megatron"
"""Where Megatron is installed: beside the environment and not in it, since only these tests use it on a CPU."""

COUNT = 2

# A rank that waits for one that has failed gives up after so many seconds.
_PATIENCE = 60

Result = TypeVar("Result")


class Ranks:
    """The processes, started with the first work. After a failure the next work gets new ones."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started = 0
        self._executors: list[ProcessPoolExecutor] = []

    def run(self, work: Callable[..., Result], *args: Any) -> list[Result]:
        """Call a function of ``work.py`` on every rank at once.

        Returns:
            What each rank's call returned, by rank.

        Raises:
            Exception: what the first rank to fail raised.
        """
        if not self._executors:
            self._start()
        futures = [executor.submit(work, *args) for executor in self._executors]
        try:
            return [future.result() for future in futures]
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for executor in self._executors:
            executor.shutdown(wait=True, cancel_futures=True)
        self._executors = []

    def _start(self) -> None:
        self._started += 1
        meeting = self._folder / f"ranks-{self._started}"
        self._executors = [
            ProcessPoolExecutor(1, get_context("spawn"), initializer=_join, initargs=(rank, meeting))
            for rank in range(COUNT)
        ]


def _join(rank: int, meeting: Path) -> None:
    """Make this process a rank."""
    sys.path.insert(0, str(MEGATRON))
    os.environ.update(
        VERL_PLATFORM="cpu",
        RANK=str(rank),
        WORLD_SIZE=str(COUNT),
        LOCAL_RANK=str(rank),
        LOCAL_WORLD_SIZE=str(COUNT),
        # verl's workers ask for these, but the ranks meet at a file.
        MASTER_ADDR="localhost",
        MASTER_PORT="0",
    )
    import torch

    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "cpu:gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=COUNT,
        timeout=timedelta(seconds=_PATIENCE),
    )
    import cuda_names

    cuda_names.install()
