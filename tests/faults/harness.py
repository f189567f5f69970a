"""A real run of ``main_ppo`` on CPU that gets hurt: started, watched, and looked at when it has ended."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import torch

from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

_START_SECONDS = 400.0
_POLL_SECONDS = 0.05
_MARK = "FAULT_RUN"
_REPOSITORY = Path(__file__).parents[2]


def make_toy(folder: Path) -> None:
    """The toy task with a model that has learned nothing."""
    settings = ToySettings(steps=0, max_attempts=2)
    build_toy(folder, train_questions=128, heldout_questions=8, settings=settings)


class Run:
    """A ``main_ppo`` process; one in a folder with checkpoints goes on from them.

    Runs on one machine take turns, by the file that ``RUN_LOCK`` names, if it does: verl names the sockets of its
    weight transfer by Ray's job id, which is the same in each.

    Args:
        toy: folder of the toy task.
        checkpoints: ``trainer.default_local_dir``.
        logs: folder of its log and metrics.
        overrides: of the config; ``~key`` removes one.
        environment: what it has beside this process's.
    """

    def __init__(
        self,
        toy: Path,
        checkpoints: Path,
        logs: Path,
        overrides: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.checkpoints, self._logs, self._mark = checkpoints, logs, uuid4().hex
        self.log, self._metrics = logs / f"{self._mark}.log", logs / f"{self._mark}.jsonl"
        self._command = [
            *(sys.executable, "-m", "verl.trainer.main_ppo", "--config-name", "multi_attempt_cpu"),
            f"toy={toy}",
            "data.train_batch_size=16",
            "actor_rollout_ref.actor.ppo_mini_batch_size=16",
            "trainer.total_training_steps=1000",
            "trainer.total_epochs=1000",
            "trainer.save_freq=1",
            "trainer.logger=[console,file]",
            f"trainer.default_local_dir={checkpoints}",
            f"hydra.run.dir={logs / 'hydra'}",
            *overrides,
        ]
        own = {_MARK: self._mark, "VERL_FILE_LOGGER_PATH": str(self._metrics), **(environment or {})}
        # A folder of its own: in the shared one Ray notes a cluster that it would have the next run join.
        self._ray_folder = tempfile.mkdtemp(prefix="ray-")
        # Ray's titles would overwrite the environment, by which the processes are found.
        self._environment = {**os.environ, "SPT_NOENV": "1", "RAY_TMPDIR": self._ray_folder, **own}
        self._lock = os.open(os.environ["RUN_LOCK"], os.O_RDWR | os.O_CREAT) if os.environ.get("RUN_LOCK") else None

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

    def __enter__(self) -> Run:
        if self._lock is not None:
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()
        shutil.rmtree(self._ray_folder, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)

    def ray(self, *arguments: str) -> None:
        """Run Ray's command line as a part of this run."""
        subprocess.run([ray_command(), *arguments], env=self._environment, check=True, stdout=subprocess.DEVNULL)

    def steps(self) -> list[int]:
        """The steps that it has logged."""
        if not self._metrics.is_file():
            return []
        lines = self._metrics.read_text().split("\n")[:-1]
        return [json.loads(line)["step"] for line in lines]

    def metrics(self) -> dict[str, Any]:
        """verl's metrics of the last step."""
        metrics: dict[str, Any] = json.loads(self._metrics.read_text().split("\n")[-2])["data"]
        return metrics

    def wait_for(self, condition: Callable[[], Any], seconds: float = _START_SECONDS) -> None:
        """Wait until something holds, while the run goes on."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"the run did not get there; its log ends:\n{self.tail(60)}")
            time.sleep(_POLL_SECONDS)

    def wait_for_a_step(self) -> int:
        """Wait until it has done another step, and return that; the rollout of the next has then just begun."""
        before = len(self.steps())
        self.wait_for(lambda: len(self.steps()) > before)
        return self.steps()[-1]

    def part(self, name: str) -> psutil.Process:
        """The one process of the run whose name or command line begins with, or has, this text."""
        found = [process for process in self.processes() if name in title(process)]
        assert len(found) == 1, f"{name}: {[title(process) for process in self.processes()]}"
        return found[0]

    def processes(self) -> list[psutil.Process]:
        """All that the run started and that lives, whoever is its parent by now."""
        return [process for process in psutil.process_iter() if _environment(process).get(_MARK) == self._mark]

    def end_with(self, pattern: str, seconds: float) -> tuple[float, float]:
        """Wait until the driver has ended, with an error.

        Returns:
            Seconds until the pattern was in the log, and until the driver had ended.
        """
        begin = time.monotonic()
        seen = None
        while self.process.poll() is None or seen is None:
            passed = time.monotonic() - begin
            if seen is None and self.said(pattern):
                seen = passed
            elif passed > seconds or self.process.poll() is not None:
                raise AssertionError(f"no {pattern} and no end within {seconds} s; the log ends:\n{self.tail(60)}")
            time.sleep(_POLL_SECONDS)
        assert self.process.returncode != 0
        return seen, time.monotonic() - begin

    def finish(self, seconds: float) -> None:
        """Wait until the driver has ended, without an error."""
        assert self.process.wait(seconds) == 0, self.tail(60)

    def gone_within(self, seconds: float) -> list[str]:
        """Wait until no process of the run is left; those that are left after these seconds."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return [title(process) for process in left]

    def tail(self, lines: int) -> str:
        """The end of what the user saw."""
        return "\n".join(self._text().splitlines()[-lines:])

    def said(self, pattern: str) -> bool:
        """Whether the log has this pattern."""
        return re.search(pattern, self._text()) is not None

    def seen(self, pattern: str) -> str:
        """The last line of the log with this pattern, which must be there."""
        lines = [line for line in self._text().splitlines() if re.search(pattern, line)]
        assert lines, f"{pattern} is not in the log, which ends:\n{self.tail(60)}"
        return lines[-1]

    def _text(self) -> str:
        return self.log.read_text(errors="replace")

    def end(self) -> None:
        """End all that is left of the run."""
        for process in self.processes():
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue


def title(process: psutil.Process) -> str:
    """A process's name as ``ps`` shows it."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except (psutil.NoSuchProcess, psutil.AccessDenied, psutil.ZombieProcess, OSError):
        return {}


def finished_steps(checkpoints: Path) -> list[int]:
    """The steps of the finished checkpoints, each of which can be loaded; and the last is what verl goes on from."""
    steps = sorted(int(path.parent.name.rsplit("_", 1)[1]) for path in checkpoints.glob("global_step_*/complete.json"))
    for step in steps:
        files = list((checkpoints / f"global_step_{step}").rglob("*.pt"))
        assert {file.parent.name for file in files} == {"actor", "critic", f"global_step_{step}"}
        for file in files:
            torch.load(file, weights_only=False, map_location="cpu")
    if steps:
        assert int((checkpoints / "latest_checkpointed_iteration.txt").read_text()) == steps[-1]
    return steps


@dataclass
class Row:
    """A row of the table.

    Attributes:
        fault: what was done.
        sees: what the user sees.
        seen: seconds until it was there to be seen; None if nothing is.
        over: seconds until nothing of the run was left; None if it goes on.
        lost: what was lost.
    """

    fault: str
    sees: str
    seen: float | None
    over: float | None
    lost: str

    def write(self, folder: Path, name: str) -> None:
        """Keep it for the table."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(vars(self), indent=2, ensure_ascii=False) + "\n")


def table(folder: Path) -> str:
    """The rows in Markdown, in the order of their files' names."""
    lines = ["| fault | what the user sees | seen after | over after | lost |", "|---|---|--:|--:|---|"]
    for file in sorted(folder.glob("*.json")):
        row = Row(**json.loads(file.read_text()))
        times = ("" if seconds is None else f"{seconds:.0f} s" for seconds in (row.seen, row.over))
        lines.append(f"| {row.fault} | {row.sees} | {' | '.join(times)} | {row.lost} |")
    return "\n".join(lines)


def repository() -> Path:
    """Where ``outputs/`` is."""
    return _REPOSITORY


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def ray_command() -> str:
    """Ray's own command line, of this environment."""
    found = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None
    return found
