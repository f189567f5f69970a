"""vLLM agrees with transformers on the tokens that it samples, on both of its model runners."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from gpu_machine import Machine

from verl_ext.model.vllm_choices import SECOND_RUNNER

Report = Callable[[str, float, str], None]

_DEADLINE_SECONDS = 300
_QUESTIONS = 64
_FEW_QUESTIONS = 8

# By dtype: the least correlation of the probabilities.
_DTYPES = {"bfloat16": 0.99, "float32": 0.9999}


@pytest.mark.parametrize(("runner", "dtype"), [("0", "bfloat16"), ("1", "bfloat16"), ("0", "float32")])
def test_the_engine_agrees_with_transformers(
    runner: str, dtype: str, toy: Path, machine: Machine, tmp_path: Path, report: Report
) -> None:
    """Three engines: two minutes and a half."""
    if machine.rehearsal and runner == "1":
        pytest.skip("vLLM's second model runner needs Triton")
    rows = datasets.load_dataset("parquet", data_files=str(toy / "train.parquet"), split="train")
    chosen = rows.select(range(machine.of(_QUESTIONS, _FEW_QUESTIONS)))
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row["prompt"][-1]["content"]) + "\n" for row in chosen))
    program = Path(__file__).with_name("agreement.py")
    done = subprocess.run(
        [sys.executable, str(program), str(toy / "model"), str(questions), dtype, machine.device],
        env=machine.environment | {SECOND_RUNNER: runner},
        capture_output=True,
        text=True,
        timeout=machine.deadline(_DEADLINE_SECONDS),
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    found = json.loads(done.stdout.splitlines()[-1])
    about = f"({dtype}, runner {int(runner) + 1})"
    report("tokens compared", found["tokens"], about)
    report("correlation of vLLM's and transformers' probabilities", found["correlation"], about)
    report("largest difference of probabilities", found["largest_difference"], about)
    assert found["tokens"] > len(chosen)
    assert found["correlation"] > _DTYPES[dtype]
