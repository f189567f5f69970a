"""``multi-attempt eval`` in process, on the GPU."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

from gpu_machine import HELD_OUT, Machine

Report = Callable[[str, float, str], None]

_DEADLINE_SECONDS = 300
_ATTEMPTS = 3


def test_evaluation_runs_in_process(toy: Path, machine: Machine, tmp_path: Path, report: Report) -> None:
    """One engine: a minute."""
    engine = machine.of(["gpu_memory_utilization=0.3"], ["enforce_eager=true", "block_size=32"])
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "eval", "--model", f"toy={toy / 'model'}", "--prompts", "toy"),
        *("--data", str(toy / "heldout.parquet"), "--attempts", str(_ATTEMPTS), "--output", str(tmp_path)),
        *(
            "--max-response-length",
            "384",
            "--max-tokens-per-attempt",
            "48",
            "--dtype",
            machine.of("bfloat16", "float32"),
        ),
        *(word for setting in engine for word in ("--engine", setting)),
    ]
    begin = time.monotonic()
    machine.call(command, tmp_path, _DEADLINE_SECONDS)
    report("evaluation with the engine's start", time.monotonic() - begin, "s")
    [model] = json.loads((tmp_path / "eval.json").read_text())["models"]
    assert model["failed"] == 0
    accuracy = model["results"]["oracle"]["macro"]["accuracy"]
    for attempts, value in enumerate(accuracy, 1):
        report("accuracy", value, f"({attempts} attempts allowed)")
    assert len(accuracy) == _ATTEMPTS
    episodes = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert len(episodes) == _ATTEMPTS * HELD_OUT
    said = [message for row in episodes for message in row["messages"] if message["role"] == "assistant"]
    assert len(said) > len(episodes)
    report("attempts made", len(said), f"in {len(episodes)} dialogues")
