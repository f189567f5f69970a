"""Keeping the model that validates best, whatever checkpoints verl deletes later.

verl validates a step's weights right after it has saved them (``trainer_base.py``, lines 481 to 500), so a step that
does both has a score and a model. The model is hard-linked, which costs neither time nor space until verl deletes its
own.

Evaluation sets may be validated on beside the validation sets, to see them over the steps. They have no say: sets named
by :func:`multi_attempt.data.evaluation_source` are left out, by their names, since verl's metrics tell nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from multi_attempt.data import read_evaluation_source

_ACCURACY = re.compile(r"val-core/(?P<data_source>.+)/acc/mean@\d+")
_RECORD = "best.json"

_logger = logging.getLogger(__name__)


def validation_accuracies(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The accuracies on the validation sets among a step's metrics; checkpoints are chosen by their mean.

    Those on evaluation sets are not among them.
    """
    return {
        name: float(value)
        for name, value in metrics.items()
        if (match := _ACCURACY.fullmatch(name)) and read_evaluation_source(match["data_source"]) is None
    }


class BestCheckpoint:
    """The folder ``best`` of a run: the model in Hugging Face format, and ``best.json``, which says of which step.

    Args:
        checkpoints: ``trainer.default_local_dir``.
    """

    def __init__(self, checkpoints: Path) -> None:
        self._checkpoints = checkpoints
        self.folder = checkpoints / "best"
        self._former = checkpoints / "best.former"
        if self._former.is_dir() and not self.folder.is_dir():  # killed between the two renames
            self._former.rename(self.folder)

    def score_before(self, step: int) -> float | None:
        """The best score up to a step; None if there is none, or only of another run that went further here."""
        path = self.folder / _RECORD
        record = json.loads(path.read_text()) if path.is_file() else None
        return float(record["accuracy"]) if record and record["step"] <= step else None

    def consider(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Keep a step's model if it was saved, and its mean accuracy over the validation sets is above all before.

        Args:
            step: the step that was validated.
            metrics: verl's validation metrics of it.
        """
        accuracies = validation_accuracies(metrics)
        saved = self._checkpoints / f"global_step_{step}"
        if not saved.is_dir():
            return
        if not accuracies:
            _logger.warning(
                "Step %s was validated on no validation set, so that no best model can be kept; name one in "
                "data.val_files, beside the evaluation sets, or set multi_attempt.keep_best=false.",
                step,
            )
            return
        accuracy = fmean(accuracies.values())
        former = self.score_before(step)
        if former is not None and accuracy <= former:
            return
        model = model_in(saved / "actor")
        if model is None:
            _logger.warning(
                "Step %s validates best (%.4f), but %s holds no model in Hugging Face format to keep; it takes "
                "hf_model in actor_rollout_ref.actor.checkpoint.save_contents, and a file system that all nodes share.",
                *(step, accuracy, saved / "actor"),
            )
            return
        self._keep(model, {"step": step, "accuracy": accuracy, "metrics": accuracies})

    def _keep(self, model: Path, record: Mapping[str, Any]) -> None:
        unfinished = self._checkpoints / "best.unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        shutil.copytree(model, unfinished, copy_function=_link)
        (unfinished / _RECORD).write_text(json.dumps(record, indent=2) + "\n")
        shutil.rmtree(self._former, ignore_errors=True)
        if self.folder.is_dir():
            self.folder.rename(self._former)
        unfinished.rename(self.folder)
        shutil.rmtree(self._former, ignore_errors=True)


def model_in(actor: Path) -> Path | None:
    """The folder of a checkpoint's actor with its model in Hugging Face format; None if there is none.

    It is FSDP's, or Megatron's (by mbridge).
    """
    folders = (actor / "huggingface", actor / "model" / "huggingface")
    return next((folder for folder in folders if any(folder.glob("*.safetensors"))), None)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copy2(source, target)
