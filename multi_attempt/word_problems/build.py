"""Writing word problems to a folder, with a manifest."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multi_attempt.data import make_row, store
from multi_attempt.data.prepare import Options
from multi_attempt.word_problems.questions import Split, WordProblem, draw_questions
from multi_attempt.word_problems.table import LEVELS, TABLE, Kind, Table, load_table

DATA_SOURCE = "word_problems"
OTHER_WORDINGS = "other_wordings"
OTHER_KINDS = "other_kinds"

# Raised when the same table and settings make other files than before, so that those are made again.
_FORMAT = 1


@dataclass(frozen=True)
class Settings(Options):
    """How many word problems of which kinds.

    Attributes:
        validation: how many questions to choose a checkpoint by.
        validation_attempts: the numbers of attempts that each of these is validated with.
        seed: decides all questions.
        train: how many questions to train on.
        test: how many to hold out, of the same kinds and wordings.
        other_wordings: how many to hold out whose kinds or wordings are never trained on.
        level: of the numbers.
        kinds: to train on; empty for those that the table does not hold out.
    """

    validation: int = 64
    validation_attempts: tuple[int, ...] = (1, 2, 3)
    train: int = 2048
    test: int = 256
    other_wordings: int = 256
    level: str = "medium"
    kinds: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train", "test", OTHER_WORDINGS):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} = {getattr(self, name)} must be at least 1")
        if self.level not in LEVELS:
            raise ValueError(f"--level = {self.level!r} is no level; use one of {', '.join(LEVELS)}")


def build_word_problems(output: Path, settings: Settings) -> None:
    """Write ``train.parquet``, ``validation.parquet``, ``test.parquet``, ``other_wordings.parquet``, ``manifest.json``.

    The validation file holds its questions once for each number of attempts, with a data source of its own. Each row's
    ``extra_info`` has the problem's ``kind``, ``steps`` and ``numbers``. Kinds that are not trained on and other
    wordings of those that are have a data source each, so that each is a benchmark.

    A finished folder with the same settings is left as it is; anything else is written anew.

    Raises:
        ValueError: a kind has no such name, or there are not so many questions.
    """
    table = load_table()
    recipe = _recipe(settings)
    manifest = store.read_manifest(output)
    if manifest is not None and manifest.get("recipe") == recipe and store.is_untouched(output, manifest):
        print(f"{output}: the word problems are already there, made of the same")
        return
    trained = _trained_kinds(table, settings.kinds)
    drawn = draw_questions(table, _splits(table, trained, settings), settings.level, settings.seed)
    rows = _rows(drawn, {kind.name for kind in trained}, settings.validation_attempts)
    outputs = {f"{split}.parquet": rows[split] for split in drawn if rows[split]}
    counts = {split: dict(Counter(problem.kind for problem in problems)) for split, problems in drawn.items()}
    store.write(output, outputs, {"source": DATA_SOURCE, "recipe": recipe, "counts": counts})
    written = ", ".join(f"{split} {len(problems)}" for split, problems in drawn.items())
    print(f"{output}: wrote word problems; questions: {written}")


def _recipe(settings: Settings) -> dict[str, Any]:
    """What decides the outputs, as it comes back from JSON."""
    table = hashlib.sha256(TABLE.read_bytes()).hexdigest()
    return dict(json.loads(json.dumps({"format": _FORMAT, "table": table, **asdict(settings)})))


def _trained_kinds(table: Table, names: Sequence[str]) -> list[Kind]:
    for name in names:
        if name not in table.kinds:
            raise ValueError(f"--kinds = {name!r} is no kind; use some of {', '.join(table.kinds)}")
    return [kind for kind in table.kinds.values() if (kind.name in names if names else not kind.held_out)]


def _splits(table: Table, trained: Sequence[Kind], settings: Settings) -> dict[str, Split]:
    known = [(kind, kind.templates) for kind in trained]
    others = [kind for kind in table.kinds.values() if kind not in trained]
    other = [
        *((kind, kind.other_templates) for kind in trained),
        *((kind, (*kind.templates, *kind.other_templates)) for kind in others),
    ]
    return {
        "train": Split(settings.train, known, share=0.55),
        "validation": Split(settings.validation, known, share=0.1),
        "test": Split(settings.test, known, share=0.2),
        OTHER_WORDINGS: Split(settings.other_wordings, other, share=0.15),
    }


def _rows(
    drawn: Mapping[str, Sequence[WordProblem]], trained: set[str], validation_attempts: Sequence[int]
) -> dict[str, list[dict[str, Any]]]:
    """The rows of each set in verl's schema."""
    rows = {
        split: [_row(problem, index, split, DATA_SOURCE) for index, problem in enumerate(drawn[split])]
        for split in ("train", "test")
    }
    rows["validation"] = [
        _row(problem, index, "validation", f"{DATA_SOURCE}_{attempts}_attempts", attempts)
        for attempts in validation_attempts
        for index, problem in enumerate(drawn["validation"])
    ]
    rows[OTHER_WORDINGS] = [
        _row(problem, index, "test", f"{DATA_SOURCE}_{OTHER_WORDINGS if problem.kind in trained else OTHER_KINDS}")
        for index, problem in enumerate(drawn[OTHER_WORDINGS])
    ]
    return rows


def _row(problem: WordProblem, index: int, split: str, data_source: str, attempts: int | None = None) -> dict[str, Any]:
    row = make_row(
        problem.text, str(problem.answer), data_source=data_source, index=index, split=split, attempts=attempts
    )
    row["extra_info"].update(kind=problem.kind, steps=problem.steps, numbers=list(problem.numbers))
    return row
