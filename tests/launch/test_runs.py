"""Training runs as scripts start them: gone on with, never twice at once, their metrics in one file."""

from __future__ import annotations

import argparse
import fcntl
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import runs

from multi_attempt.evaluation.command import add_arguments


def write_steps(path: Path, steps: Sequence[tuple[int, dict[str, Any]]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"step": step, "data": data}) + "\n" for step, data in steps))


def test_a_step_that_was_run_twice_counts_as_last_run(tmp_path: Path) -> None:
    write_steps(tmp_path / "logs" / "train-0.jsonl", [(1, {"reward": 0.1}), (2, {"reward": 0.2}), (3, {"reward": 0.3})])
    write_steps(tmp_path / "logs" / "train-1.jsonl", [(3, {"reward": 0.4}), (4, {"reward": 0.5})])
    lines = runs.merge_metrics(tmp_path).read_text().splitlines()
    rewards = [(row["step"], row["reward"]) for row in map(json.loads, lines)]
    assert rewards == [(1, 0.1), (2, 0.2), (3, 0.4), (4, 0.5)]


def test_a_finished_run_is_not_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_steps(tmp_path / "logs" / "train-0.jsonl", [(2, {"reward": 0.2})])
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("2")
    monkeypatch.setattr(subprocess, "Popen", None)
    assert runs.train(tmp_path, 2, []) == tmp_path / "checkpoints"
    with pytest.raises(TypeError, match="not callable"):  # one more step would have to be trained
        runs.train(tmp_path, 3, [])


def test_a_run_that_another_process_still_trains_is_refused(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with (tmp_path / "logs" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit, match="an earlier try is still training there"):
            runs.train(tmp_path, 1, [])


def test_the_lock_outlives_a_killed_script(tmp_path: Path) -> None:
    # The training process holds it, not the script that started it.
    (tmp_path / "lock").touch()
    with (tmp_path / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=[lock.fileno()])
    with (tmp_path / "lock").open("w") as again:
        with pytest.raises(BlockingIOError):
            fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)
        child.communicate(b"\n")
        fcntl.flock(again, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_command_is_the_one_to_type(tmp_path: Path) -> None:
    command = runs.training_command(Path("outputs/run"), 4, ["toy=outputs/toy"], "reproduce")
    assert command == [
        *("python", "-m", "verl.trainer.main_ppo", "--config-name", "reproduce"),
        "trainer.default_local_dir=outputs/run/checkpoints",
        "trainer.total_training_steps=4",
        "toy=outputs/toy",
    ]


def test_only_the_latest_checkpoint_can_be_gone_on_with(tmp_path: Path) -> None:
    for step in (4, 8):
        folder = tmp_path / f"global_step_{step}"
        for part in ("actor/huggingface", "critic"):
            (folder / part).mkdir(parents=True)
        for file in ("data.pt", "actor/model.pt", "actor/huggingface/model.safetensors", "critic/model.pt"):
            (folder / file).touch()
    (tmp_path / "latest_checkpointed_iteration.txt").write_text("8")
    runs.keep_models(tmp_path)
    left = [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.glob("global_step_*/**/*")) if path.is_file()]
    assert left == [
        "global_step_4/actor/huggingface/model.safetensors",
        *(f"global_step_8/{name}" for name in ("actor/huggingface/model.safetensors", "actor/model.pt")),
        *(f"global_step_8/{name}" for name in ("critic/model.pt", "data.pt")),
    ]


def test_what_an_evaluation_is_told_counts_more_than_what_is_usual_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    commands = []
    monkeypatch.setattr(runs, "run", lambda command, **_: commands.append(command))
    runs.evaluate({"start": Path("model")}, ["--data", "test.parquet", "--dtype=bfloat16"], Path("outputs"))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(commands[0][commands[0].index("eval") + 1 :])
    assert (arguments.model, arguments.dtype, arguments.output) == (["start=model"], "bfloat16", Path("outputs"))


def test_rows_with_every_character_of_a_models_text_are_read_whole(tmp_path: Path) -> None:
    rows = [{"output": f"a{chr(code)}b"} for code in (*range(256), 0x2028, 0x2029)]
    path = tmp_path / "rollout.jsonl"
    # As verl writes episodes: without escapes.
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    assert list(runs.json_lines(path)) == rows
