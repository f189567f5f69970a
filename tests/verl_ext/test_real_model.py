"""A real language model, SmolLM2-135M-Instruct, trained, exported, evaluated and served on CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from training_run import TrainingRun
from vllm_server import ENVIRONMENT, served

from multi_attempt.data import make_row, write_parquet
from multi_attempt.word_problems.build import Settings, build_word_problems

pytestmark = pytest.mark.engine

MODEL = Path(__file__).parents[2] / ".venv" / "vocabularies" / "smollm2_135m"
_SECONDS = 1200.0
_SUMS = 24


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of two steps, with its checkpoints."""
    folder = tmp_path_factory.mktemp("smollm2")
    build_word_problems(folder / "word_problems", Settings(train=32, validation=8, test=8, other_wordings=8))
    overrides = [
        "model=smollm2_135m",
        f"smollm2={MODEL}",
        f"word_problems={folder / 'word_problems'}",
        # In fp32 the guard is at its strictest.
        *("cpu.dtype=float32", "cpu.least_correlation=0.9999"),
        *("data.train_batch_size=8", "actor_rollout_ref.actor.ppo_mini_batch_size=8"),
        *("multi_attempt.max_tokens_per_attempt=24", "trainer.critic_warmup=0"),
        *("trainer.total_training_steps=2", "trainer.save_freq=2"),
    ]
    with TrainingRun(None, folder / "checkpoints", folder, overrides) as run:
        run.start()
        run.finish(_SECONDS)
        (folder / "steps.json").write_text(json.dumps(run.steps()))
    return folder


def test_it_trains_with_rollout_and_actor_in_agreement(trained: Path) -> None:
    steps = json.loads((trained / "steps.json").read_text())
    assert set(steps) == {"1", "2"}
    for data in steps.values():
        assert data["training/rollout_actor_probs_pearson_corr"] > 0.9999
        assert data["multi_attempt/episode_errors"] == 0
        assert data["multi_attempt/generated_tokens"] > 0
    assert steps["2"]["actor/grad_norm"] > 0


def exported(trained: Path) -> Path:
    return trained / "checkpoints" / "global_step_2" / "actor" / "huggingface"


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simple sums, as a file of questions."""
    rows = [
        make_row(f"What is {a} + {b}?", str(a + b), data_source="sums", index=a * 10 + b, split="test")
        for a, b in ((1 + number % 8, 2 + number // 4) for number in range(_SUMS))
    ]
    path = tmp_path_factory.mktemp("sums") / "sums.parquet"
    write_parquet(rows, path)
    return path


def evaluate(questions: Path, output: Path, *arguments: str) -> dict[str, Any]:
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "eval", "--output", str(output), "--data", str(questions)),
        *("--attempts", "2", "--prompts", "plain", "--max-tokens-per-attempt", "48", *arguments),
    ]
    subprocess.run(command, env={**os.environ, **ENVIRONMENT}, check=True, timeout=_SECONDS)
    found: dict[str, Any] = json.loads((output / "eval.json").read_text())
    return found


def said(output: Path) -> dict[tuple[Any, ...], list[str]]:
    """What the model said in each episode."""
    rows = map(json.loads, (output / "episodes.jsonl").read_text().splitlines())
    return {
        (row["id"], row["budget"]): [m["content"] for m in row["messages"] if m["role"] == "assistant"] for row in rows
    }


def test_it_is_right_on_simple_sums_and_says_the_same_in_process_and_served(
    trained: Path, sums: Path, tmp_path: Path
) -> None:
    model = exported(trained)
    options = ("--dtype", "float32", "--engine", "enforce_eager=true", "--engine", "max_model_len=768")
    found = evaluate(sums, tmp_path / "in_process", "--model", f"smollm2={model}", *options)
    [accuracy, with_two] = found["models"][0]["results"]["oracle"]["macro"]["accuracy"]
    assert accuracy > 0.2
    assert with_two >= 0.2
    with served(model, "smollm2", "--max-model-len", "768") as url:
        evaluate(sums, tmp_path / "served", "--model", "smollm2", "--server", url, "--tokenizer", str(model))
    assert said(tmp_path / "served") == said(tmp_path / "in_process")
