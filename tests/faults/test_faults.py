"""The table of faults: each row is a real run on CPU that is hurt, looked at, and gone on with by the next.

All runs have one folder of checkpoints: each also shows that the same command goes on after the fault before it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import psutil
import pytest
from harness import (
    END_SECONDS,
    GONE_SECONDS,
    KILLS,
    Row,
    Run,
    end,
    finished_steps,
    kill_in_a_rollout,
    message,
    start,
    title,
)
from training_run import free_port, make_toy

pytestmark = pytest.mark.engine

_EPISODE_TIMEOUT = 30
_STALL_TIMEOUT = 200
_TIME_LEFT = 3600
_DISK_BYTES = 2**30
_STEP = "the step under way"

# More than a run of the toy model takes at its start, when its engine compiles.
_RUN_BYTES = 10 * 2**30
_TAKEN_BYTES = 2**28
_LOOK_SECONDS = 0.1
_TAKER = "import sys; taken = [b'1' * int(size) for size in sys.stdin]"


class Work:
    """What the runs share: the toy task, and a folder of checkpoints, on a disk of its own if one can be mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.toy = folder, folder / "toy"
        self.disk = folder / "disk"
        self.checkpoints = self.disk / "checkpoints"
        make_toy(self.toy)
        self.disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={_DISK_BYTES}", "tmpfs", str(self.disk)]
        self.mounted = subprocess.run(mount, capture_output=True).returncode == 0

    def run(self, *overrides: str, **environment: str) -> Run:
        return Run(self.toy, self.checkpoints, self.folder, overrides, environment)

    def resize(self, size: int) -> None:
        """Give the disk another size, in bytes."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.disk)], check=True)

    def close(self) -> None:
        if self.mounted:
            subprocess.run(["umount", str(self.disk)], check=True)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Work]:
    work = Work(tmp_path_factory.mktemp("faults"))
    try:
        yield work
    finally:
        work.close()


def test_kill_of_the_driver(work: Work, rows: Path) -> None:
    with work.run() as run:
        step = start(run)
        begin = time.monotonic()
        run.process.kill()
        run.process.wait()
        assert run.gone_within(GONE_SECONDS) == []
        over = time.monotonic() - begin
        assert finished_steps(run.checkpoints)[-1] >= step
    sees = "the shell's `Killed`; all other processes end with it"
    Row("`kill -9` of the command itself", sees, 0, over, _STEP).write(rows, "01-driver")


@pytest.mark.parametrize("name", KILLS)
def test_kill_in_the_middle_of_a_rollout(work: Work, rows: Path, name: str) -> None:
    fault, process, pattern = KILLS[name]
    with work.run() as run:
        Row(fault, *kill_in_a_rollout(run, process, pattern), _STEP).write(rows, name)


def test_kill_of_a_ray_node(work: Work, rows: Path) -> None:
    """Two nodes on one machine: training and rollout on the first, one of two agent loop workers on the second."""
    port = free_port()
    overrides = ["~ray_kwargs.ray_init.num_cpus", "~ray_kwargs.ray_init.num_gpus"]
    overrides.append("actor_rollout_ref.rollout.agent.num_workers=2")
    # Ray asks for a token where the user has one, so this cluster has one in any case.
    cluster = {"RAY_ADDRESS": f"127.0.0.1:{port}", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": uuid4().hex}
    with work.run(*overrides, **cluster) as run:
        head = ["--head", f"--port={port}", "--num-cpus=32", "--num-gpus=1", "--disable-usage-stats"]
        run.ray("start", *head, "--node-ip-address=127.0.0.1")
        first = raylets(run)
        run.start()
        run.wait_for(lambda: run.said("dataloader initialized"))  # by now the trainer has its place on the first
        other = [f"--address=127.0.0.1:{port}", "--num-cpus=2", "--num-gpus=0", "--disable-usage-stats"]
        run.ray("start", *other, "--node-ip-address=127.0.0.2")
        [second] = raylets(run) - first
        step = run.wait_for_a_step()
        assert any("ray::AgentLoopWorker" in title(process) for process in second.children())
        second.kill()
        seen, over = run.end_with("(PartDied|TooManyFailedEpisodes): ", END_SECONDS)
        sees = message(run, "(PartDied|TooManyFailedEpisodes): ")
        assert finished_steps(run.checkpoints)[-1] >= step
    Row("`kill -9` of a Ray node that holds an agent loop worker", sees, seen, over, _STEP).write(rows, "07-node")


def raylets(run: Run) -> set[psutil.Process]:
    return {process for process in run.processes() if "raylet/raylet" in title(process).split(" ")[0]}


def test_a_kill_by_ray_for_memory(work: Work, rows: Path) -> None:
    """Ray's bound leaves room for the run, and then something else on the machine takes it."""
    bound = memory_used() + _RUN_BYTES
    total = psutil.virtual_memory().total
    if bound > total:
        pytest.skip(f"a run and what else is here need {bound >> 20} MiB, and this machine has {total >> 20}")
    with work.run(RAY_memory_usage_threshold=str(bound / total)) as run, memory_taker() as take:
        step = start(run)
        while memory_used() < bound:
            take(_TAKEN_BYTES)
            time.sleep(_LOOK_SECONDS)
        found = end(run, "KilledForMemory: ", step)
        run.seen("To hold less, lower the tokens of a pass")
    fault = "another process takes the node's memory, and Ray kills (`RAY_memory_usage_threshold`, by default 0.95)"
    Row(fault, *found, _STEP).write(rows, "06-memory")


def memory_used() -> int:
    """Of the machine, as Ray counts."""
    memory = psutil.virtual_memory()
    return int(memory.total - memory.available)


@contextmanager
def memory_taker() -> Iterator[Callable[[int], None]]:
    """A process that takes so many bytes with each call, and gives all back in the end."""
    taker = subprocess.Popen([sys.executable, "-c", _TAKER], stdin=subprocess.PIPE, text=True)

    def take(size: int) -> None:
        print(size, file=taker.stdin, flush=True)

    try:
        yield take
    finally:
        taker.kill()
        taker.wait()


def test_a_hung_engine(work: Work, rows: Path) -> None:
    with work.run(f"multi_attempt.episode.timeout={_EPISODE_TIMEOUT}") as run:
        step = start(run)
        run.part("VLLM::EngineCore").suspend()
        fault = (
            f"an engine that hangs in a rollout (`multi_attempt.episode.timeout={_EPISODE_TIMEOUT}`, by default 1800)"
        )
        Row(fault, *end(run, "TooManyFailedEpisodes: ", step), _STEP).write(rows, "08-hung-rollout")


def test_an_engine_that_hangs_while_it_takes_new_weights(work: Work, rows: Path) -> None:
    # A trainer in a blocking call is told in vain, and ended.
    with work.run(f"multi_attempt.stall_timeout={_STALL_TIMEOUT}") as run:
        start(run)
        engine = run.part("VLLM::EngineCore")
        step = run.wait_for_a_step()
        saving = work.checkpoints / f"global_step_{step + 1}" / "actor"  # verl saves, and then it syncs the weights
        run.wait_for(saving.is_dir)
        engine.suspend()
        fault = (
            f"an engine that hangs in a weight sync (`multi_attempt.stall_timeout={_STALL_TIMEOUT}`, by default 3600)"
        )
        found = end(run, "RunStalled: ", step, _STALL_TIMEOUT + END_SECONDS)
        Row(fault, *found, _STEP).write(rows, "09-hung-sync")


def test_a_full_disk_at_a_checkpoint(work: Work, rows: Path) -> None:
    if not work.mounted:
        pytest.skip("no file system can be mounted here: not root, or no permission")
    with work.run() as run:
        step = start(run)
        run.wait_for_a_step()
        used = os.statvfs(work.disk)
        work.resize((used.f_blocks - used.f_bfree) * used.f_frsize + 2**20)
        found = end(run, "CheckpointError: the checkpoint .* could not be written", step)
        for part in ("MiB were free", "is whole, and the same command goes on from it"):
            run.seen(part)
    assert not list(work.checkpoints.glob("*.former"))
    work.resize(_DISK_BYTES)
    Row("a full disk at a checkpoint", *found, "the step that could not be saved").write(rows, "10-full-disk")


def test_a_killed_grader_worker_and_sigterm_at_the_time_limit(work: Work, rows: Path) -> None:
    """The scheduler has told when the time ends: it counts as near from the first step on, and each step is saved."""
    ends = {"MLP_CURRENT_CAPACITY_BLOCK_EXPIRATION_TIMESTAMP": str(time.time() + _TIME_LEFT)}
    with work.run("trainer.save_freq=100000", f"trainer.esi_redundant_time={_TIME_LEFT}", **ends) as run:
        step = start(run)
        assert finished_steps(work.checkpoints)[-1] >= step
        worker = run.part("multi_attempt.grading.worker")
        worker.kill()
        run.wait_for(lambda: run.last_step() >= step + 2)
        assert run.steps()[run.last_step()]["multi_attempt/episode_errors"] == 0
        sees = "nothing: a new one is started, and asked the same again"
        Row("`kill -9` of a grader worker", sees, None, None, "nothing").write(rows, "11-grader")

        step = run.last_step()
        begin = time.monotonic()
        run.process.terminate()
        status = run.process.wait(END_SECONDS)
        seen = time.monotonic() - begin
        assert status != 0
        run.seen(r"\*\*\* SIGTERM received")
        assert run.gone_within(GONE_SECONDS) == []
        over = time.monotonic() - begin
        assert finished_steps(work.checkpoints)[-1] >= step
    sees = f"`*** SIGTERM received ***`, exit status {status if status > 0 else 128 - status}"
    Row("SIGTERM at the time limit", sees, seen, over, _STEP).write(rows, "12-sigterm")


def test_a_truncated_checkpoint(work: Work, rows: Path) -> None:
    *_, former, last = finished_steps(work.checkpoints)
    [file] = (work.checkpoints / f"global_step_{last}" / "critic").glob("model_*.pt")
    os.truncate(file, file.stat().st_size // 2)
    with work.run() as run:
        begin = time.monotonic()
        run.start()
        seen, _ = run.end_with("CheckpointError: ", END_SECONDS)
        assert run.gone_within(GONE_SECONDS) == []
        over = time.monotonic() - begin
        line = run.seen("CheckpointError: ")
        sees = message(run, "CheckpointError: ")
    assert file.name in line
    remedy = re.findall(r"trainer\.resume_\w+=\S+", line)
    assert remedy[-1].endswith(f"/global_step_{former}")

    # The remedy in the message works: on from the one before, and the damaged one is written anew.
    with work.run(*remedy, f"trainer.total_training_steps={last}") as run:
        run.start()
        run.finish()
        assert list(run.steps()) == list(range(former + 1, last + 1))
    assert finished_steps(work.checkpoints)[-1] == last
    lost = f"the steps since the checkpoint before it, {last - former} here"
    Row("a truncated checkpoint", sees, seen, over, lost).write(rows, "13-truncated")
