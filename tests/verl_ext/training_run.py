"""A real run of ``main_ppo`` as tests see it: a process that is started, watched, and ended with all its own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Self
from uuid import uuid4

import psutil

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

START_SECONDS = 400.0
"""What a run may take to get somewhere; most of it is its start."""

FINISH_SECONDS = 900.0
"""What a whole run may take."""

_POLL_SECONDS = 0.05

# What tests/side_by_side.sh says of threads; the config's own would win over it.
_THREADS = [
    f"++ray_kwargs.ray_init.runtime_env.env_vars.{name}='{os.environ[name]}'"
    for name in ("OMP_NUM_THREADS", "VLLM_CPU_OMP_THREADS_BIND")
    if name in os.environ
]
_MARK = "TRAINING_RUN"


def make_toy(folder: Path, *, tied: bool = True) -> None:
    """The toy task with a model that has learned nothing."""
    settings = ToySettings(steps=0, tie_word_embeddings=tied, max_attempts=2)
    build_toy(folder, train_questions=128, heldout_questions=8, settings=settings)


class TrainingRun:
    """A ``main_ppo`` process; one in a folder with checkpoints goes on from them. As a context, it ends all of itself.

    Args:
        toy: folder of the toy task; None for a run on another task.
        checkpoints: ``trainer.default_local_dir``.
        logs: folder of its log and metrics.
        overrides: of the config; ``~key`` removes one.
        environment: what it has beside this process's.
        config: the config's name.

    Attributes:
        process: the command's own.
        checkpoints: as given.
        settings: overrides of a kind of run, before those of one.
        overrides: all that it has.
        log: the file with what the user sees.
    """

    settings: ClassVar[Sequence[str]] = ()

    def __init__(
        self,
        toy: Path | None,
        checkpoints: Path,
        logs: Path,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        config: str = "multi_attempt_cpu",
    ) -> None:
        self.checkpoints, self._logs, self._mark = checkpoints, logs, uuid4().hex
        self.log, self._metrics = logs / f"{self._mark}.log", logs / f"{self._mark}.jsonl"
        self.overrides = [
            *([f"toy={toy}"] if toy else []),
            "data.train_batch_size=16",
            "trainer.logger=[console,file]",
            f"trainer.default_local_dir={checkpoints}",
            f"hydra.run.dir={logs / 'hydra'}",
            *_THREADS,
            *self.settings,
            *overrides,
        ]
        command = (sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", config)
        self._command = [*command, *self.overrides]
        # A folder of its own: in the shared one Ray notes a cluster that others would join.
        self._ray_folder = tempfile.mkdtemp(prefix="ray-")
        own = {_MARK: self._mark, "VERL_FILE_LOGGER_PATH": str(self._metrics), "RAY_TMPDIR": self._ray_folder}
        # Ray's titles would overwrite the environment, by which the processes are found.
        self._environment = {**os.environ, "SPT_NOENV": "1", **own, **(environment or {})}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        shutil.rmtree(self._ray_folder, ignore_errors=True)

    def start(self) -> None:
        """Start it."""
        with self.log.open("wb") as sink:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._logs,
                env=self._environment,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait_for(self, condition: Callable[[], Any], seconds: float = START_SECONDS) -> None:
        """Wait until something holds, while the run goes on."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the run did not get there; its log ends:\n{self.tail(60)}")
            time.sleep(_POLL_SECONDS)

    def finish(self, seconds: float = FINISH_SECONDS) -> None:
        """Wait until the command has ended, without an error."""
        assert self.process.wait(seconds) == 0, self.tail(60)

    def kill(self) -> None:
        """``kill -9`` of all that is left of the run."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        if hasattr(self, "process"):
            self.process.wait()

    def processes(self) -> list[psutil.Process]:
        """All that the run started and that lives, whoever is its parent by now."""
        return [process for process in psutil.process_iter() if _environment(process).get(_MARK) == self._mark]

    def steps(self) -> dict[int, dict[str, Any]]:
        """verl's metrics of each step that it has logged, in order."""
        if not self._metrics.is_file():
            return {}
        lines = [json.loads(line) for line in self._metrics.read_text().split("\n")[:-1]]
        return {line["step"]: line["data"] for line in lines}

    def text(self) -> str:
        """What the user has seen."""
        return self.log.read_text(errors="replace")

    def tail(self, lines: int) -> str:
        """The end of what the user has seen."""
        return "\n".join(self.text().splitlines()[-lines:])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return {}
