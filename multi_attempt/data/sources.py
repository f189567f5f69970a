"""The table of known sources, and what a row of a source says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any

import yaml

from multi_attempt.answers import boxed
from multi_attempt.data.files import RawRow
from multi_attempt.tasks.load import DEFAULT, Asked, Tasks
from multi_attempt.tasks.math import read_tolerance

ROLES = ("train", "evaluation")

# The commas of 1,234,567, and none of (1,2).
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


@dataclass(frozen=True)
class Source:
    """Where questions come from and how its rows are read; ``sources.yaml`` says what each field means."""

    name: str
    role: str
    question: tuple[str, ...]
    gold: Mapping[str, str]
    hub: str = ""
    configs: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()
    context: str = ""
    needs_context: bool = False
    level: tuple[str, ...] = ()
    levels: tuple[int, ...] = ()
    id: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    tolerance: str = ""
    tolerance_field: str = ""
    task: str = DEFAULT
    task_settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tasks(self) -> Tasks:
        """Its task, made anew."""
        return Tasks(self.task, {self.task: self.task_settings})

    @property
    def recipe(self) -> dict[str, Any]:
        """What it says, without a task where that is mathematics."""
        recipe = asdict(self)
        return {name: value for name, value in recipe.items() if self.task != DEFAULT or not name.startswith("task")}

    @property
    def trains(self) -> bool:
        """Whether it is for training, and not for evaluation."""
        return self.role == "train"


@dataclass(frozen=True)
class Question:
    """What a row says.

    Attributes:
        text: the question.
        gold: the gold answer, bare; empty if the row has none.
        gold_field: the field that it stands in.
        level: how hard it is, where the source has levels and the row's is known.
        upstream: the id that the source gives it; empty if it gives none.
        raw: the row.
        tolerance: how far an answer may be from the gold answer; empty for not at all.
        fields: what another task than mathematics needs of it beside the question.
    """

    text: str
    gold: str
    gold_field: str
    level: int | None
    upstream: str
    raw: RawRow = field(repr=False)
    tolerance: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    def asked(self, tasks: Tasks) -> Asked[Any]:
        """The question with its task, the default one."""
        row = {"ground_truth": self.gold, "tolerance": self.tolerance, **self.fields, "question": self.text}
        return tasks.read(row, self.raw.place)


@cache
def _table() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(files("multi_attempt.data").joinpath("sources.yaml").read_text("utf-8"))
    return content


def known_sources() -> dict[str, Source]:
    """The sources of the table, by name."""
    return {name: _source(name, entry) for name, entry in _table()["sources"].items()}


def default_sources() -> list[str]:
    """The names of the sources that are prepared when none is named."""
    return list(_table()["default"])


def own_source(name: str, role: str, question: str | None, answer: str | None, context: str | None) -> Source:
    """A user's own source, with the fields named or the usual ones; an empty name of the context means that none is.

    Raises:
        ValueError: the name is none for a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ValueError(f"SOURCE = {name!r} names a folder: use letters, digits, and - _ . between them")
    questions = (question,) if question else ("question", "problem")
    return Source(
        name,
        role,
        questions,
        gold={answer or "answer": "solution"},
        context="context" if context is None else context,
        needs_context=bool(context),
        id=("unique_id", "id", "idx"),
    )


def _source(name: str, entry: Mapping[str, Any]) -> Source:
    values: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in entry.items()}
    return Source(name=name, **values)


def of_task(source: Source, name: str, settings: Mapping[str, Any]) -> Source:
    """A user's own source, of another task: its rows have what that needs, in fields of these names."""
    return replace(source, task=name, task_settings=settings)


def read_question(raw: RawRow, source: Source) -> Question:
    """What a row of a source says.

    Raises:
        ValueError: a field is missing or of the wrong type, or the question is empty.
    """
    name = _present(raw, source.question, "question")
    text = _text(raw, name).strip()
    if not text:
        raise ValueError(f"{raw.place}: {name} = {raw.fields[name]!r} is no question; correct or remove the row")
    if source.needs_context:
        _present(raw, (source.context,), "context")
    if source.context and raw.fields.get(source.context) is not None:
        text = f"{_text(raw, source.context).strip()}\n\n{text}".strip()
    if source.task != DEFAULT:
        return _read_of_task(raw, source, text)
    field_name = _present(raw, tuple(source.gold), "gold answer")
    gold = _GOLDS[source.gold[field_name]](_plain(raw, field_name))
    return Question(
        text, gold.strip(), field_name, _level(raw, source), _upstream(raw, source), raw, _tolerance(raw, source)
    )


def _read_of_task(raw: RawRow, source: Source, text: str) -> Question:
    asked = source.tasks.read({**raw.fields, "question": text}, raw.place)
    fields = {name: value for name, value in asdict(asked.row).items() if name != "question"}
    gold = asked.task.gold(asked.row)
    return Question(text, gold, "", None, _upstream(raw, source), raw, fields=fields)


def _after_hashes(text: str) -> str:
    _, found, answer = text.rpartition("####")
    first, *_ = answer.strip().splitlines() or [""]
    return _THOUSANDS.sub("", first) if found else ""


def _of_solution(text: str) -> str:
    """What a whole solution gives as its answer, in the way of GSM8K or of MATH; a bare answer is left as it is."""
    return _after_hashes(text) if "####" in text else boxed(text) or text


# How a gold answer stands in its field: what `gold` in the table names.
_GOLDS: dict[str, Callable[[str], str]] = {
    "text": lambda text: text,
    "box": lambda text: boxed(text) or "",
    "hashes": _after_hashes,
    "solution": _of_solution,
}


def _present(raw: RawRow, names: Sequence[str], what: str) -> str:
    """The first of the fields that the row has."""
    for name in names:
        if name in raw.fields:
            return name
    raise ValueError(
        f"{raw.place}: no field {' or '.join(names)} for the {what}; the row has {', '.join(raw.fields) or 'none'}. "
        "Name a file that has it; the fields of a source of your own are named by --question-field, --answer-field and "
        "--context-field"
    )


def _text(raw: RawRow, name: str) -> str:
    value = raw.fields[name]
    if not isinstance(value, str):
        raise _wrong_type(raw, name, "a text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{raw.place}: {name} holds half a character ({error.reason}); correct the row") from error
    return value


def _plain(raw: RawRow, name: str) -> str:
    """A field of a text, a number, a list of these, or nothing, as a text."""
    value = raw.fields[name]
    if value is None:
        return ""
    if isinstance(value, list):
        entries = [RawRow({name: entry}, raw.line, raw.place) for entry in value]
        return ", ".join(_plain(entry, name) for entry in entries)
    if isinstance(value, str):
        return _text(raw, name)
    return _number(raw, name)


def _number(raw: RawRow, name: str) -> str:
    """A number written out: 27 for 27.0, and without an exponent."""
    value = raw.fields[name]
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)  # of any size: 10**400 is no float
    if not isinstance(value, float) or not math.isfinite(value):
        raise _wrong_type(raw, name, "a text, a number, or a list of these")
    return str(int(value)) if value == int(value) else format(Decimal(repr(value)), "f")


def _level(raw: RawRow, source: Source) -> int | None:
    if not source.levels:
        return None
    name = _present(raw, source.level, "level")
    digits = re.search(r"\d+", _plain(raw, name))  # "Level 5", 5 or 5.0; MATH has two rows of "Level ?"
    return int(digits.group()) if digits else None


def _upstream(raw: RawRow, source: Source) -> str:
    name = next((name for name in source.id if name in raw.fields), None)
    return _plain(raw, name).strip() if name else ""


def _tolerance(raw: RawRow, source: Source) -> str:
    found = _plain(raw, source.tolerance_field).strip() if source.tolerance_field in raw.fields else source.tolerance
    try:
        read_tolerance(found)
    except ValueError as error:
        raise ValueError(f"{raw.place}: {source.tolerance_field}: {error}; correct or remove the row") from error
    return found


def _wrong_type(raw: RawRow, name: str, wanted: str) -> ValueError:
    value = raw.fields[name]
    return ValueError(
        f"{raw.place}: {name} = {str(value)[:80]!r} is of type {type(value).__name__}; it must be {wanted}: correct "
        "or remove the row"
    )
