"""Real sizes: SmolLM2 where its folder is named, and a random model of Qwen2.5-Math-1.5B's shape, whose step is taken
apart, and whose memory is compared with ``multi-attempt check``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import memory_watch
import pytest
from gpu_machine import Machine
from random_model import QWEN2_5_MATH_1_5B, SMALL, write_random_model

from multi_attempt.word_problems.build import Settings, build_word_problems

Report = Callable[[str, float, str], None]

SMOLLM2 = "GPU_TESTS_SMOLLM2"
"""The environment variable that names SmolLM2-135M-Instruct's folder (``launch/smollm2.py`` writes one)."""

WORD_PROBLEMS = Settings(train=128, validation=8, test=8, other_wordings=8)
"""The questions that it trains on."""

_DEADLINE_SECONDS = 540
_LEAST_CORRELATION = 0.95
_GIB = 2**30
_TOLERANCE = 0.1

# By the plan's name of a phase: the end of the name of the worker's method that it is.
_PHASES = {
    "generation": "",
    "old log-probs": "compute_log_prob",
    "reference log-probs": "compute_ref_log_prob",
    "values": "infer_batch",
    "critic update": "train_mini_batch",
    "actor update": "update_actor",
    "weight sync": "update_weights",
}

# In these the rollout's process holds most of the memory that is made, or some; the others are the training worker's.
_SHARED = ("generation", "weight sync")

# What a phase of the plan has beside what the training worker holds.
_OTHERS = ("total", "moment", "rollout", "reserve", "processes")


def agreement(steps: dict[int, dict[str, Any]], report: Report) -> None:
    """Two steps, in each of which rollout and actor agree."""
    assert set(steps) == {1, 2}
    for number, step in steps.items():
        correlation = step["training/rollout_actor_probs_pearson_corr"]
        report("correlation of rollout and actor", correlation, f"(bfloat16, step {number})")
        report("largest difference of probabilities", step["training/rollout_probs_diff_max"], f"(step {number})")
        assert step["multi_attempt/episode_errors"] == 0
        assert step["actor/grad_norm"] > 0


def smollm2_settings(machine: Machine, model: str, words: Path) -> list[str]:
    """Two steps on word problems."""
    return [
        *("model=smollm2_135m", f"smollm2={model}", f"word_problems={words}"),
        *machine.dtype("bfloat16", _LEAST_CORRELATION),
        *("trainer.total_training_steps=2", "trainer.save_freq=-1"),
        *machine.of(
            ["data.train_batch_size=64"],
            ["data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8"],
        ),
    ]


def test_smollm2_trains(machine: Machine, tmp_path: Path, report: Report) -> None:
    """Two minutes."""
    model = os.environ.get(SMOLLM2)
    if model is None:
        pytest.skip(f"{SMOLLM2} names no folder")
    words = tmp_path / "word_problems"
    build_word_problems(words, WORD_PROBLEMS)
    with machine.run(tmp_path / "checkpoints", tmp_path, smollm2_settings(machine, model, words)) as run:
        run.start()
        run.finish(machine.deadline(_DEADLINE_SECONDS))
        steps = run.steps()
    agreement(steps, report)
    assert steps[2]["training/rollout_actor_probs_pearson_corr"] >= _LEAST_CORRELATION
    report("success", steps[2]["multi_attempt/success"], "of the episodes of step 2")


@dataclass(frozen=True)
class Trained:
    """Two steps of the random model.

    Attributes:
        steps: their metrics, by step.
        held: by method of the training worker, the most bytes that there were.
        plan: what ``multi-attempt check`` says of the same settings.
    """

    steps: dict[int, dict[str, Any]]
    held: dict[str, memory_watch.Held]
    plan: dict[str, Any]


def random_model_settings(machine: Machine, model: Path, toy: Path) -> list[str]:
    """Two steps with responses of 512 tokens: random tokens end no attempt. Passes of 8,192 tokens are nearly full."""
    return [
        f"actor_rollout_ref.model.path={model}",
        *(f"data.train_files={toy / 'train.parquet'}", f"data.val_files={toy / 'validation.parquet'}"),
        *("multi_attempt.prompts=toy", "multi_attempt.max_tokens_per_attempt=null", "data.max_prompt_length=64"),
        *("trainer.total_training_steps=2", "trainer.save_freq=-1"),
        *machine.of(
            [
                "data.max_response_length=512",
                *("data.train_batch_size=64", "actor_rollout_ref.actor.ppo_mini_batch_size=32"),
                *("actor_rollout_ref.actor.ppo_max_token_len_per_gpu=8192", "critic.ppo_max_token_len_per_gpu=8192"),
                *(
                    "actor_rollout_ref.rollout.gpu_memory_utilization=0.35",
                    "+actor_rollout_ref.rollout.max_model_len=576",
                ),
            ],
            [
                "data.max_response_length=128",
                *("data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8"),
                *machine.dtype("bfloat16", _LEAST_CORRELATION),
            ],
        ),
    ]


def planned(machine: Machine, settings: list[str]) -> dict[str, Any]:
    """``multi-attempt check`` of a run, in bytes."""
    # Only the memory counts here: the operations and the bandwidth are of an H100.
    device = machine.of(
        ["--gpu-memory", f"{machine.gibibytes:.3f}", "--gpu-tflops", "989", "--gpu-bandwidth", "3350"]
        if not machine.rehearsal
        else [],
        ["--memory", "24"],
    )
    command = [sys.executable, "-m", "multi_attempt.cli", "check", "--config-name", machine.config, "--json", *device]
    done = subprocess.run([*command, *machine.settings, *settings], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.fixture(scope="module")
def trained(machine: Machine, toy: Path, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("random_model")
    watched = folder / "watched"
    watched.mkdir()
    write_random_model(folder / "model", machine.of(QWEN2_5_MATH_1_5B, SMALL), machine.device)
    settings = random_model_settings(machine, folder / "model", toy)
    watch = {
        "VERL_USE_EXTERNAL_MODULES": memory_watch.__name__,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        memory_watch.FOLDER: str(watched),
    }
    toy_of = machine.of(None, toy)
    with machine.run(folder / "checkpoints", folder, settings, toy=toy_of, environment=watch) as run:
        run.start()
        run.finish(machine.deadline(_DEADLINE_SECONDS))
        steps = run.steps()
    return Trained(steps, memory_watch.peaks(watched), planned(machine, settings))


def test_a_model_of_the_papers_size_trains(trained: Trained, report: Report) -> None:
    """Four minutes."""
    agreement(trained.steps, report)
    step = trained.steps[2]
    report("tokens of a response", step["response_length/mean"], "")
    report("tokens generated", step["multi_attempt/generated_tokens"], "")
    report("tokens a second and GPU", step["perf/throughput"], "(prompts and responses, the whole step)")


def test_its_step_is_taken_apart(trained: Trained, report: Report) -> None:
    """Of the run above."""
    step = trained.steps[2]  # the first also compiles
    seconds = {name.removeprefix("timing_s/"): value for name, value in step.items() if name.startswith("timing_s/")}
    for name, value in sorted(seconds.items(), key=lambda item: -item[1]):
        report(name, value, "s of step 2")
    for name in sorted(name for name in step if name.startswith(("perf/mfu", "perf/max_memory"))):
        report(name, step[name], "")
    parts = ("gen", "old_log_prob", "ref", "values", "adv", "update_critic", "update_actor")
    assert set(parts) <= set(seconds)
    assert sum(seconds[part] for part in parts) <= seconds["step"]


@pytest.mark.parametrize("phase", _PHASES)
def test_its_memory_is_what_the_check_says(phase: str, trained: Trained, machine: Machine, report: Report) -> None:
    """Of the run above: in training phases the tensors of the training worker, else all that the GPU holds."""
    end = _PHASES[phase]
    seen = [held for method, held in trained.held.items() if (method.endswith(end) if end else not method)]
    if machine.rehearsal and not seen:
        pytest.skip("a pass of a model so small may be over between two looks")
    [held] = seen
    plan = trained.plan["phases"][phase]
    if phase in _SHARED:
        measured, expected = held["device"], plan["total"]
    else:
        measured, expected = held["allocated"], sum(size for part, size in plan.items() if part not in _OTHERS)
    report("measured", measured / _GIB, f"GiB ({phase})")
    report("planned", expected / _GIB, f"GiB ({phase})")
    report(
        "all of the GPU that is taken",
        held["device"] / _GIB,
        f"GiB ({phase}; planned with the reserve {plan['total'] / _GIB:.1f})",
    )
    assert measured > 0
    if not machine.rehearsal:
        assert measured == pytest.approx(expected, rel=_TOLERANCE)
