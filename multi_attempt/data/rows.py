"""Rows in verl's dataset schema, and the parquet files that hold them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multi_attempt.tasks.load import DEFAULT

# No source of ours is called so: a name has no slash.
_EVALUATION = re.compile(r"test/(?P<name>.+)_(?P<attempts>[1-9]\d*)_attempts")


def evaluation_source(name: str, attempts: int) -> str:
    """The ``data_source`` of an evaluation set that is validated on during training, with so many attempts.

    It tells evaluation sets from validation sets in verl's log, where nothing else of a row is left: ``multi-attempt
    report`` draws evaluation sets over the steps, and validation sets alone choose the best model.
    """
    return f"test/{name}_{attempts}_attempts"


def read_evaluation_source(data_source: str) -> tuple[str, int] | None:
    """The name and the attempts of an evaluation set; None if :func:`evaluation_source` did not make this."""
    match = _EVALUATION.fullmatch(data_source)
    return (match["name"], int(match["attempts"])) if match else None


def make_row(
    question: str,
    answer: str,
    *,
    data_source: str,
    index: int,
    split: str,
    attempts: int | None = None,
    id: str = "",
    tolerance: str = "",
    task: str = DEFAULT,
    fields: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One question as verl's datasets hold it.

    The prompt is the bare question: the episode words the first message, with the attempts that it allows.

    Args:
        question: the question's text.
        answer: the gold answer, bare.
        data_source: where the question is from; verl groups validation measures by it.
        index: a number of its own in this split; the draw of N depends on it.
        split: e.g. ``train``.
        attempts: how many attempts the question allows; None to have the number drawn in training.
        id: the question's name for people and records; by default its index.
        tolerance: how far a number may be from the gold answer, where its benchmark says so (``0.1``, or ``1%``). Every
            row has the field, since files whose rows have different ones cannot be read together.
        task: the row's task.
        fields: what it needs, for another task than mathematics.
    """
    own = {} if task == DEFAULT else {**(fields or {}), "task": task}
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": question}],
        "ability": task,
        "reward_model": {"style": "rule", "ground_truth": answer, "tolerance": tolerance},
        "extra_info": {"id": id or str(index), "index": index, "split": split, "attempts": attempts, **own},
    }


def write_parquet(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows to a parquet file, replacing it."""
    from datasets import Dataset  # seconds to import, and most of this package's users never write a file

    Dataset.from_list(list(rows)).to_parquet(str(path))
