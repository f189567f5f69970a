"""Which model is kept as the best, and that it outlives verl's own checkpoints."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from multi_attempt.data import evaluation_source
from verl_ext.training.best_checkpoint import BestCheckpoint, validation_accuracies


def save(checkpoints: Path, step: int, *, weights: bool = True) -> Path:
    """A checkpoint as verl leaves it."""
    model = checkpoints / f"global_step_{step}" / "actor" / "huggingface"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    if weights:
        (model / "model.safetensors").write_text(f"weights of step {step}")
    return model


def validated(*accuracies: float) -> dict[str, float]:
    sets = {f"val-core/set{number}/acc/mean@1": value for number, value in enumerate(accuracies)}
    return {**sets, "val-aux/set0/repeat_rate/mean@1": 0.9, "val-core/set0/acc/best@4/mean": 0.99}


def kept(checkpoints: Path) -> tuple[int, str]:
    best = checkpoints / "best"
    return json.loads((best / "best.json").read_text())["step"], (best / "model.safetensors").read_text()


def test_the_mean_over_the_validation_sets_decides(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path)
    for step, accuracies in {8: (0.2, 0.4), 16: (0.1, 0.6), 24: (0.6, 0.0), 32: (0.35, 0.35)}.items():
        save(tmp_path, step)
        best.consider(step, validated(*accuracies))
    assert kept(tmp_path) == (16, "weights of step 16")  # the first of two that are equal
    assert best.score_before(32) == pytest.approx(0.35)
    assert {path.name for path in tmp_path.iterdir() if path.name.startswith("best")} == {"best"}


def test_evaluation_sets_have_no_say_in_what_is_best(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path)
    benchmark = f"val-core/{evaluation_source('aime24', 1)}/acc/mean@1"
    for step, (validation, evaluation) in {8: (0.5, 0.1), 16: (0.4, 0.9), 24: (0.6, 0.0)}.items():
        save(tmp_path, step)
        best.consider(step, {**validated(validation), benchmark: evaluation})
        assert best.score_before(step) == max(validation, 0.5)
    assert kept(tmp_path) == (24, "weights of step 24")
    assert list(json.loads((best.folder / "best.json").read_text())["metrics"]) == ["val-core/set0/acc/mean@1"]


def test_the_names_are_those_that_verl_gives() -> None:
    sources = ["mine_1_attempts", evaluation_source("aime24", 1)]
    trainer: Any = None  # of which the naming needs nothing
    metrics = PPOTrainer._val_metrics_update(trainer, sources, ["a", "b"], {"acc": [0.25, 0.75]}, [])
    assert validation_accuracies(metrics) == {"val-core/mine_1_attempts/acc/mean@1": 0.25}
    assert metrics["val-core/test/aime24_1_attempts/acc/mean@1"] == 0.75


def test_where_there_are_evaluation_sets_only_none_is_best_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(tmp_path, 8)
    with caplog.at_level(logging.WARNING):
        BestCheckpoint(tmp_path).consider(8, {f"val-core/{evaluation_source('aime24', 1)}/acc/mean@1": 0.9})
    assert "Step 8 was validated on no validation set" in caplog.text
    assert not (tmp_path / "best").exists()


def test_the_model_outlives_the_checkpoint_and_takes_no_space_of_its_own(tmp_path: Path) -> None:
    model = save(tmp_path, 8)
    BestCheckpoint(tmp_path).consider(8, validated(0.5))
    assert os.path.samefile(model / "model.safetensors", tmp_path / "best" / "model.safetensors")
    shutil.rmtree(tmp_path / "global_step_8")
    assert kept(tmp_path) == (8, "weights of step 8")


def test_a_resumed_run_goes_on_from_the_best_of_the_one_before(tmp_path: Path) -> None:
    save(tmp_path, 8)
    save(tmp_path, 16)
    BestCheckpoint(tmp_path).consider(8, validated(0.5))
    BestCheckpoint(tmp_path).consider(16, validated(0.4))
    assert kept(tmp_path) == (8, "weights of step 8")


def test_a_run_killed_between_the_renames_finds_the_former_best(tmp_path: Path) -> None:
    save(tmp_path, 8)
    BestCheckpoint(tmp_path).consider(8, validated(0.5))
    (tmp_path / "best").rename(tmp_path / "best.former")
    (tmp_path / "best.unfinished").mkdir()
    save(tmp_path, 16)
    best = BestCheckpoint(tmp_path)
    assert best.score_before(16) == 0.5
    best.consider(16, validated(0.6))
    assert kept(tmp_path) == (16, "weights of step 16")


def test_a_run_that_begins_anew_in_the_folder_has_a_best_of_its_own(tmp_path: Path) -> None:
    save(tmp_path, 16)
    BestCheckpoint(tmp_path).consider(16, validated(0.9))
    save(tmp_path, 8)
    BestCheckpoint(tmp_path).consider(8, validated(0.2))
    assert kept(tmp_path) == (8, "weights of step 8")


def test_only_steps_that_were_saved_and_validated_count(tmp_path: Path) -> None:
    best = BestCheckpoint(tmp_path)
    best.consider(0, validated(0.9))  # validation before training
    save(tmp_path, 8)
    best.consider(8, {"val-aux/set0/repeat_rate/mean@1": 0.5})
    assert best.score_before(8) is None
    assert not (tmp_path / "best").exists()


def test_a_checkpoint_without_the_model_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(tmp_path, 8, weights=False)
    with caplog.at_level(logging.WARNING):
        BestCheckpoint(tmp_path).consider(8, validated(0.9))
    assert "hf_model" in caplog.text
    assert not (tmp_path / "best").exists()


def test_without_hard_links_the_model_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: str, target: str) -> None:
        raise OSError("operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    save(tmp_path, 8)
    BestCheckpoint(tmp_path).consider(8, validated(0.5))
    assert kept(tmp_path) == (8, "weights of step 8")


def test_megatron_keeps_its_model_a_folder_deeper(tmp_path: Path) -> None:
    model = save(tmp_path, 8)
    deeper = model.parent / "model" / "huggingface"
    deeper.parent.mkdir()
    model.rename(deeper)
    BestCheckpoint(tmp_path).consider(8, validated(0.5))
    assert kept(tmp_path) == (8, "weights of step 8")
