"""A real run of ``main_ppo`` on CPU that gets hurt: started, watched, and looked at when it has ended."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
import torch
from training_run import TrainingRun

END_SECONDS = 150.0
"""What a hurt run may take to end."""

GONE_SECONDS = 150.0
"""What its processes may take to be gone then."""

KILLS = {
    "02-trainer": ("`kill -9` of the trainer (Ray's `TaskRunnerV1`)", "ray::TaskRunnerV1", r"\.ActorDiedError: "),
    "03-worker": (
        "`kill -9` of a training process",
        "ray::WorkerDict",
        r"(PartDied: trainer worker 0|ActorDiedError: )",
    ),
    "04-server": ("`kill -9` of a rollout server", "ray::CPUvLLMHttpServer", "(PartDied|TooManyFailedEpisodes): "),
    "05-engine": ("`kill -9` of a rollout engine", "VLLM::EngineCore", "(PartDied|TooManyFailedEpisodes): "),
    "06-agent": ("`kill -9` of an agent loop worker", "ray::AgentLoopWorker", "PartDied: agent loop worker 0"),
}
"""Of each part that is killed: what the table says of it, a text in its title, and what the run's log then says."""

_POLL_SECONDS = 0.05


class Run(TrainingRun):
    """A long run that saves after every step, and is looked at from outside while it is hurt."""

    settings = (
        "actor_rollout_ref.actor.ppo_mini_batch_size=16",
        "trainer.total_training_steps=1000",
        "trainer.total_epochs=1000",
        "trainer.save_freq=1",
    )

    def ray(self, *arguments: str) -> None:
        """Run Ray's command line as a part of this run."""
        subprocess.run([ray_command(), *arguments], env=self._environment, check=True, stdout=subprocess.DEVNULL)

    def last_step(self) -> int:
        """The last step that it has logged; 0 if there is none."""
        return max(self.steps(), default=0)

    def wait_for_a_step(self) -> int:
        """Wait until it has done another step, and return that; the rollout of the next has then just begun."""
        before = self.last_step()
        self.wait_for(lambda: self.last_step() > before)
        return self.last_step()

    def part(self, name: str) -> psutil.Process:
        """The one process of the run whose name or command line begins with, or has, this text."""
        found = [process for process in self.processes() if name in title(process)]
        assert len(found) == 1, f"{name}: {[title(process) for process in self.processes()]}"
        return found[0]

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

    def gone_within(self, seconds: float) -> list[str]:
        """Wait until no process of the run is left; those that are left after these seconds."""
        end = time.monotonic() + seconds
        while (left := self.processes()) and time.monotonic() < end:
            time.sleep(_POLL_SECONDS)
        return [title(process) for process in left]

    def said(self, pattern: str) -> bool:
        """Whether the log has this pattern."""
        return re.search(pattern, self.text()) is not None

    def seen(self, pattern: str) -> str:
        """The last line of the log with this pattern, which must be there."""
        lines = [line for line in self.text().splitlines() if re.search(pattern, line)]
        assert lines, f"{pattern} is not in the log, which ends:\n{self.tail(60)}"
        return lines[-1]


def title(process: psutil.Process) -> str:
    """A process's name as ``ps`` shows it."""
    try:
        return " ".join(process.cmdline()) or process.name()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return ""


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


def start(run: Run) -> int:
    """Start a run, and wait until it has done a step: the one after the last checkpoint of the runs before."""
    before = max(finished_steps(run.checkpoints), default=0)
    run.start()
    step = run.wait_for_a_step()
    assert min(run.steps()) == before + 1
    return step


def end(run: Run, pattern: str, step: int, limit: float = END_SECONDS) -> tuple[str, float, float]:
    """Wait for a hurt run's end, and look at what is left: its checkpoints, and nothing else.

    Returns:
        What the user sees, the seconds until then, and the seconds until nothing of the run was left.
    """
    begin = time.monotonic()
    seen, _ = run.end_with(pattern, limit)
    left = run.gone_within(GONE_SECONDS)
    assert left == []
    over = time.monotonic() - begin
    assert finished_steps(run.checkpoints)[-1] >= step
    return message(run, pattern), seen, over


def kill_in_a_rollout(run: Run, process: str, pattern: str) -> tuple[str, float, float]:
    """Start a run, kill one of its processes in the middle of a rollout, and look at its end as :func:`end` does."""
    start(run)
    engine, victim = run.part("VLLM::EngineCore"), run.part(process)
    step = run.wait_for_a_step()
    engine.suspend()  # so that the rollout is under way whatever the machine's speed
    time.sleep(1)
    victim.kill()
    if victim != engine:
        engine.resume()
    return end(run, pattern, step)


def message(run: Run, pattern: str) -> str:
    """What the user sees: the exception in the log, up to the end of its first sentence, without folders."""
    line = re.sub(r"^.*?(\w*(Died|Error|Episodes|Killed|Stalled)\w*: )", r"\1", run.seen(pattern).strip())
    return f"`{re.sub(r'/[^ ]*/', '', re.split(r'[.;]( |$)', line)[0])}`"


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


def ray_command() -> str:
    """Ray's own command line, of this environment."""
    found = shutil.which("ray", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    assert found is not None
    return found
