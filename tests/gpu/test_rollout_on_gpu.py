"""Tokens a second: ours against the bare engine on the same lengths, and against the paper's lock-step algorithm."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from gpu_machine import Machine
from random_model import QWEN2_5_MATH_1_5B, SMALL, write_random_model

Report = Callable[[str, float, str], None]

_DEADLINE_SECONDS = 540
_BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_tokens_a_second_against_the_engine_and_lock_step(machine: Machine, tmp_path: Path, report: Report) -> None:
    """256 episodes of 5 attempts whose median has 400 tokens, by a random model of Qwen2.5-Math-1.5B's shape.

    Six minutes: a minute of start, one each of ours and the engine in order, less of the engine all at once, and as
    much as all of these of lock-step.
    """
    model, figures = tmp_path / "model", tmp_path / "figures.json"
    write_random_model(model, machine.of(QWEN2_5_MATH_1_5B, SMALL), machine.device)
    work = machine.of({"episodes": 256, "attempts": 5, "median": 400}, {"episodes": 8, "attempts": 2, "median": 20})
    sizes = [word for name, value in work.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, str(_BENCHMARKS / "rollout.py"), "--once", "--model", str(model), *sizes]
    command += ["--json", str(figures)]
    machine.call(command, tmp_path, _DEADLINE_SECONDS)
    measured = {row["rollout"]: row for row in json.loads(figures.read_text())["measurements"]}
    assert list(measured) == ["ours", "engine", "engine, in order", "lock-step"]
    ours = measured["ours"]["seconds"]
    for rollout, row in measured.items():
        report(f"{rollout}:", row["tokens"] / row["seconds"], "tokens/s")
        if rollout != "ours":
            report(f"ours is, beside {rollout},", row["seconds"] / ours, "times as fast")
    assert len({row["tokens"] for row in measured.values()}) == 1
