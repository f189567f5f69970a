"""``launch/slurm.sbatch`` on a real SLURM with two nodes: training, time limit, preemption, lost nodes."""

from __future__ import annotations

import ast
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurm_cluster import SlurmCluster, environment_of, processes_with
from training_run import make_toy

ROOT = Path(__file__).parents[2]
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "PREEMPTED")

# On a machine that does other things too, an engine on each of two nodes takes minutes to start.
_TRAINING_SECONDS = 600
_STAND_IN_SECONDS = 180


class Job:
    """A submitted job, with its own folder of logs and checkpoints.

    Args:
        cluster: where it runs.
        name: of its folder.
        overrides: for the training, beside those for CPU.
        options: for sbatch.
        environment: settings of the launcher; by default it trains with ``stand_in``.
    """

    def __init__(
        self,
        cluster: SlurmCluster,
        name: str,
        overrides: tuple[str, ...],
        *,
        options: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
    ) -> None:
        self.cluster = cluster
        self.folder = cluster.folder / name
        settings = {
            "LAUNCH_ENVIRONMENT": f"venv:{Path(sys.prefix)}",
            "LAUNCH_LOGS": str(self.folder),
            "LAUNCH_RAY_OPTIONS": "--object-store-memory=500000000",
            "LAUNCH_MODULE": "stand_in",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        self.id = cluster.submit(
            *("--nodes=2", "--gres=none", f"--chdir={ROOT}", f"--output={self.folder}.out", *options),
            str(ROOT / "launch" / "slurm.sbatch"),
            *overrides,
            f"trainer.default_local_dir={self.folder / 'checkpoints'}",
            f"hydra.run.dir={self.folder / 'hydra'}",
            environment=settings | (environment or {}),
        )

    @property
    def output(self) -> str:
        """What the batch script printed, over all tries."""
        path = self.folder.with_suffix(".out")
        return path.read_text(errors="replace") if path.exists() else ""

    @property
    def saved(self) -> int:
        """The step of the last checkpoint, 0 without one."""
        path = self.folder / "checkpoints" / "latest_checkpointed_iteration.txt"
        return int(path.read_text() or 0) if path.exists() else 0

    def log(self, attempt: int, name: str = "driver") -> str:
        """A log of a try."""
        return (self.folder / f"job-{self.id}" / f"try-{attempt}" / f"{name}.log").read_text(errors="replace")

    def ranks(self) -> dict[str, str]:
        """The training processes: the node of each rank."""
        found = {}
        for process in processes_with("SLURM_JOB_ID", str(self.id)):
            if b"WorkerDict" in Path(f"/proc/{process}/cmdline").read_bytes():
                variables = environment_of(process)
                found[variables["RANK"]] = variables["SLURMD_NODENAME"]
        return found

    def trained(self, attempt: int) -> list[int]:
        """The steps that a try trained, in order."""
        return [int(step) for step in re.findall(r"\bstep:(\d+) - ", self.log(attempt))]

    def seen_by_a_worker(self, attempt: int, node: str) -> dict[str, str]:
        """What ``stand_in`` found in the environment of a Ray worker on a node."""
        line = next(line for line in self.log(attempt).splitlines() if line.startswith(f"{node} {{"))
        seen: dict[str, str] = ast.literal_eval(line.removeprefix(node).strip())
        return seen

    def wait_for_text_in_log(self, pattern: str, seconds: float) -> None:
        """Until the training of the first try has printed something that a regular expression finds."""
        log = self.folder / f"job-{self.id}" / "try-0" / "driver.log"
        self.cluster.wait_until(
            lambda: (log.exists() and bool(re.search(pattern, self.log(0)))) or self._ended(),
            seconds,
            f"{pattern} in {log}",
        )
        assert re.search(pattern, self.log(0)), self.output

    def wait_for_text(self, pattern: str, seconds: float) -> None:
        """Until the batch script has printed something that a regular expression finds."""
        self.cluster.wait_until(lambda: bool(re.search(pattern, self.output)), seconds, f"{pattern}\n{self.output}")

    def wait_for_step(self, step: int, seconds: float) -> None:
        """Until a checkpoint of this step is there."""
        self.cluster.wait_until(lambda: self.saved >= step or self._ended(), seconds, f"step {step}\n{self.output}")
        assert self.saved >= step, self.output

    def wait_for_end(self, seconds: float) -> str:
        """Until the batch script has ended for good; the job's state."""
        self.cluster.wait_until(self._ended, seconds, f"the job to end\n{self.output}")
        return self.cluster.state(self.id)

    def _ended(self) -> bool:
        return self.cluster.state(self.id) in ENDED


@pytest.fixture(autouse=True)
def idle(cluster: SlurmCluster) -> Iterator[None]:
    """Each test leaves two idle nodes, and no job."""
    yield
    cluster.clear()


def stand_in(steps: int, **trainer: int) -> tuple[str, ...]:
    """The overrides with which ``stand_in`` counts to a step."""
    return (f"trainer.total_training_steps={steps}", *(f"trainer.{key}={value}" for key, value in trainer.items()))


def raylet_on(node: str) -> int:
    """Ray's process on a node."""
    (raylet,) = (
        process
        for process in processes_with("SLURMD_NODENAME", node)
        if Path(f"/proc/{process}/exe").resolve().name == "raylet"
    )
    return raylet


def test_two_ranks_on_two_nodes_train_and_go_on_after_a_requeue(cluster: SlurmCluster) -> None:
    toy, wandb = cluster.folder / "toy", cluster.folder / "wandb-files"
    make_toy(toy)
    wandb.mkdir()
    overrides = (
        *("--config-name", "multi_attempt_cpu", f"toy={toy}", "trainer.logger=[console,wandb]"),
        *("trainer.total_training_steps=5", "trainer.critic_warmup=0"),
        # Only the last step is saved for its number: the others because the time limit is near, as this makes it seem.
        *("trainer.save_freq=100", "trainer.esi_redundant_time=100000"),
        *(
            "data.train_batch_size=16",
            "actor_rollout_ref.actor.ppo_mini_batch_size=16",
            "multi_attempt.keep_best=false",
        ),
    )
    settings = {"LAUNCH_MODULE": "verl.trainer.main_ppo", "WANDB_MODE": "offline", "WANDB_DIR": str(wandb)}
    job = Job(cluster, "training", overrides, options=("--time=60",), environment=settings)
    job.wait_for_text_in_log(r"step:2 - ", _TRAINING_SECONDS)
    ranks = job.ranks()
    assert set(ranks) == {"0", "1"}
    assert set(ranks.values()) == {"n1", "n2"}
    cluster.run("scontrol", "requeue", str(job.id))
    saved = job.saved
    assert job.wait_for_end(_TRAINING_SECONDS) == "COMPLETED", job.output
    assert "from step 0" in job.output
    assert f"from step {saved}" in job.output
    assert job.trained(0)[:2] == [1, 2]
    assert saved >= 2
    assert job.trained(1) == list(range(saved + 1, 6))
    assert len(list(wandb.glob(f"wandb/offline-run-*-test-{job.id}"))) == 2


def test_before_the_time_limit_the_job_requeues_itself_and_goes_on(cluster: SlurmCluster) -> None:
    job = Job(cluster, "limit", stand_in(300), options=("--time=30",))
    job.wait_for_step(2, _STAND_IN_SECONDS)
    seen = {node: job.seen_by_a_worker(0, node) for node in cluster.nodes}
    cluster.run("scancel", "--batch", "--signal=USR1", str(job.id))  # as --signal=B:USR1@300 does
    cluster.wait_until(lambda: job.output.count("all 2 nodes have joined") == 2, _STAND_IN_SECONDS, "the second try")
    resumed_from = job.saved
    job.wait_for_step(resumed_from + 2, _STAND_IN_SECONDS)
    assert "the time limit is near: ending, to go on from step" in job.output
    assert "ended in order" in job.log(0)
    assert f"step {resumed_from + 1}\n" in job.log(1)
    assert "step 1\n" not in job.log(1)
    for values in seen.values():
        assert values["WANDB_RUN_ID"] == f"test-{job.id}"
        assert values["WANDB_RESUME"] == "allow"
        assert values["GLOO_SOCKET_IFNAME"] == "eth0"
        assert values["RAY_AUTH_MODE"] == "token"
        # In 30 minutes, less the 300 s before which the job ends itself.
        assert 20 * 60 < int(values["MLP_CURRENT_CAPACITY_BLOCK_EXPIRATION_TIMESTAMP"]) - time.time() < 25 * 60
    assert job.seen_by_a_worker(1, "n2")["WANDB_RUN_ID"] == f"test-{job.id}"

    cluster.run("scancel", str(job.id))  # a person's wish to end it is no reason to begin again
    assert job.wait_for_end(_STAND_IN_SECONDS) == "CANCELLED"
    token = job.folder / f"job-{job.id}" / "ray-token"
    cluster.wait_until(lambda: not token.exists(), _STAND_IN_SECONDS, f"{token} to be deleted")


def test_the_gpus_of_the_allocation_are_rays(cluster: SlurmCluster) -> None:
    job = Job(cluster, "gpus", (*stand_in(300), "trainer.device=cuda"), options=("--gres=gpu:1",))
    job.wait_for_step(1, _STAND_IN_SECONDS)
    for node in cluster.nodes:
        assert environment_of(raylet_on(node))["CUDA_VISIBLE_DEVICES"] == "0"
        assert job.seen_by_a_worker(0, node)["CUDA_VISIBLE_DEVICES"] == "0"


def test_a_try_that_saved_nothing_is_not_repeated(cluster: SlurmCluster) -> None:
    job = Job(cluster, "unsaved", stand_in(300, save_freq=-1))
    cluster.wait_until(lambda: "all 2 nodes have joined" in job.output, _STAND_IN_SECONDS, "the nodes to join")
    cluster.run("scancel", "--batch", "--signal=USR1", str(job.id))
    assert job.wait_for_end(_STAND_IN_SECONDS) == "FAILED"
    assert "no checkpoint was saved since step 0" in job.output
    assert "trainer.save_freq" in job.output


def test_a_preempted_job_goes_on_when_the_nodes_are_free_again(cluster: SlurmCluster) -> None:
    job = Job(cluster, "preempted", stand_in(300))
    job.wait_for_step(2, _STAND_IN_SECONDS)
    other = cluster.submit("--nodes=2", "--partition=high", "--output=/dev/null", "--wrap=sleep 1")
    cluster.wait_until(lambda: cluster.state(other) == "COMPLETED", _STAND_IN_SECONDS, "the other job")
    cluster.wait_until(lambda: job.output.count("all 2 nodes have joined") == 2, _STAND_IN_SECONDS, "the second try")
    assert "preempted: ending, to go on from step" in job.output
    assert "ERROR" not in job.output
    assert "ended in order" in job.log(0)


def test_a_node_that_dies_ends_the_job_with_its_name(cluster: SlurmCluster) -> None:
    job = Job(cluster, "dead", stand_in(300))
    job.wait_for_step(1, _STAND_IN_SECONDS)
    cluster.kill_node("n2")
    job.wait_for_text(r"ERROR: (nodes lost: n2|Ray ended on node n2); logs: ", 90)


def test_ray_that_ends_on_a_node_ends_the_job_with_its_log(cluster: SlurmCluster) -> None:
    job = Job(cluster, "ray", stand_in(300))
    job.wait_for_step(1, _STAND_IN_SECONDS)
    os.kill(raylet_on("n2"), signal.SIGKILL)
    assert job.wait_for_end(90) == "FAILED"
    assert re.search(r"ERROR: (Ray ended on node n2|nodes lost: n2); logs: ", job.output)
    assert "node-n2.log" in job.output
    assert "raylet" in job.output  # Ray's own words on what ended


def test_a_node_that_does_not_join_is_named(cluster: SlurmCluster) -> None:
    # A ray that hangs on one node, before the real one on PATH.
    ray = cluster.folder / "hanging" / "ray"
    ray.parent.mkdir()
    real = Path(sys.prefix) / "bin"
    ray.write_text(f'#!/bin/sh\nif [ "$(hostname)" = n2 ]; then sleep 600; fi\nexec {real}/ray "$@"\n')
    ray.chmod(0o755)
    settings = {
        "LAUNCH_ENVIRONMENT": "",
        "PATH": f"{ray.parent}:{real}:{os.environ['PATH']}",
        "LAUNCH_JOIN_SECONDS": "25",
    }
    job = Job(cluster, "absent", stand_in(1), environment=settings)
    assert job.wait_for_end(_STAND_IN_SECONDS) == "FAILED"
    assert "ERROR: nodes have not joined within LAUNCH_JOIN_SECONDS = 25: n2; logs: " in job.output


def test_a_training_that_fails_ends_the_job_with_its_log(cluster: SlurmCluster) -> None:
    job = Job(cluster, "failing", stand_in(9, fails_at=2))
    assert job.wait_for_end(_STAND_IN_SECONDS) == "FAILED"
    assert "RuntimeError: step 2 fails, as it was told to" in job.output
    assert "ERROR: training ended with exit status 1; logs: " in job.output
