"""Parts of a run killed in the middle of a rollout: it ends by itself, frees the GPU, and goes on where it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from gpu_machine import Machine
from harness import KILLS, finished_steps, kill_in_a_rollout

Report = Callable[[str, float, str], None]

_DEADLINE_SECONDS = 300

# What the driver may hold of the GPU after a run more than before it, in MiB: nothing of a run's.
_LEFT_MEBIBYTES = 512


def settings(machine: Machine) -> list[str]:
    """The toy with the runs' own dtypes."""
    return ["model=tiny", "trainer.max_actor_ckpt_to_keep=2", "trainer.max_critic_ckpt_to_keep=2"]


@pytest.fixture(autouse=True)
def one_rank(tmp_path: Path) -> Iterator[None]:
    """FSDP 1, which the GPU's config trains by, may save tensors that only a process group can load."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of all runs, so that each also shows that the same command goes on after the fault before it."""
    return tmp_path_factory.mktemp("faults") / "checkpoints"


@pytest.mark.parametrize("name", ["05-engine", "03-worker"])
def test_a_killed_part_ends_the_run_and_frees_the_gpu(
    name: str, toy: Path, machine: Machine, checkpoints: Path, tmp_path: Path, report: Report
) -> None:
    """A minute and a half for each; the second goes on after the first."""
    fault, process, pattern = KILLS[name]
    before = machine.used_mebibytes()
    with machine.long_run(checkpoints, tmp_path, settings(machine), toy=toy) as run:
        _, seen, over = kill_in_a_rollout(run, process, pattern)
        # While the run's folder is there: what is left of it would be seen.
        assert run.processes() == []
        left = machine.used_mebibytes() - before
    report("the user sees it after", seen, f"s ({fault})")
    report("nothing of the run is left after", over, f"s ({fault})")
    report("of the GPU's memory is left taken", left, f"MiB ({fault})")
    assert left < _LEFT_MEBIBYTES


def test_a_killed_run_goes_on_at_the_next_step(
    toy: Path, machine: Machine, checkpoints: Path, tmp_path: Path, report: Report
) -> None:
    """``kill -9`` of the command itself, unless a run before has been hurt already; then one more step: two minutes."""
    if not finished_steps(checkpoints):
        with machine.long_run(checkpoints, tmp_path, settings(machine), toy=toy) as run:
            run.start()
            run.wait_for_a_step()
            run.process.kill()
            assert run.gone_within(_DEADLINE_SECONDS) == []
    last = finished_steps(checkpoints)[-1]
    steps = [f"trainer.total_training_steps={last + 1}"]
    with machine.long_run(checkpoints, tmp_path, [*settings(machine), *steps], toy=toy) as run:
        run.start()
        run.finish(machine.deadline(_DEADLINE_SECONDS))
        assert list(run.steps()) == [last + 1]
    assert finished_steps(checkpoints)[-1] == last + 1
    report("the step that it went on with", last + 1, f"(after {last} that were saved)")
