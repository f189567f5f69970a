"""Keeps which episodes each mini-batch of a run holds: a module for verl to import in every process of the run.

``VERL_USE_EXTERNAL_MODULES=mini_batch_record`` imports it, ``MINI_BATCH_RECORD`` names the file. Each update, of critic
or actor, is a line: the order of the batch as verl's trainer made it, and the places in it that each mini-batch takes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verl.utils import tensordict_utils

FILE = "MINI_BATCH_RECORD"
"""The variable that names the file."""

_make_iterator = tensordict_utils.make_iterator


def _rows(batch: Any) -> list[tuple[int, ...]]:
    return [tuple(row.tolist()) for row in batch["input_ids"].unbind()]


def make_iterator(batch: Any, *arguments: Any, **settings: Any) -> Iterator[Any]:
    """verl's, with a record of what it yields."""
    rows = _rows(batch)
    places = {row: place for place, row in enumerate(rows)}
    mini_batches = list(_make_iterator(batch, *arguments, **settings))
    record = {
        "lengths": [len(row) for row in rows],
        "rewards": [float(scores.sum()) for scores in batch["rm_scores"].unbind()],
        "places": [[places[row] for row in _rows(mini_batch)] for mini_batch in mini_batches],
    }
    with Path(os.environ[FILE]).open("a") as file:
        file.write(json.dumps(record) + "\n")
    return iter(mini_batches)


if FILE in os.environ:
    tensordict_utils.make_iterator = make_iterator  # type: ignore[assignment]
