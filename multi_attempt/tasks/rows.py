"""Reading a dataset's row into the dataclass that a task declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

RowT = TypeVar("RowT")

# Where a field may stand in verl's schema, beside the row itself.
_PLACES = ("extra_info", "reward_model")

# The field that is the last message of the prompt.
_QUESTION = "question"

_SHOWN = 80  # characters of a wrong value in a message


def read_row(kind: type[RowT], row: Mapping[str, Any], place: str) -> RowT:
    """A row as the dataclass that a task declares.

    A field of the name ``question`` is the last message of the row's ``prompt``. Any other stands in ``extra_info``, in
    ``reward_model`` (``ground_truth``), or in the row itself, the first of them that has it. Null is as good as
    missing: files of mixed rows have it where a row lacks what others have. A list, mapping or dataclass may also be
    written as a text of JSON.

    Args:
        kind: the dataclass.
        row: in verl's schema, or any mapping.
        place: what messages call it.

    Raises:
        ValueError: a field is missing or of another type; the message names place, field and value.
    """
    hints = get_type_hints(kind)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, which TypeVar cannot say
        found, name = _find(row, field.name)
        if found is None:
            if _needed(field, hints[field.name]):
                raise ValueError(f"{place}: {_missing(field.name, name, row)}")
            continue
        try:
            values[field.name] = _read(found, hints[field.name])
        except TypeError as error:
            raise ValueError(
                f"{place}: {name} = {found!r:.{_SHOWN}} must be {error}; correct or remove the row"
            ) from None
    try:
        return kind(**{**_absent(kind, hints), **values})
    except ValueError as error:  # the dataclass's own rules
        raise ValueError(f"{place}: {error}") from error


def question_of(row: Mapping[str, Any]) -> str | None:
    """The last message of a row's prompt; None where there is none."""
    prompt = _plain(row.get("prompt"))
    last = prompt[-1] if isinstance(prompt, list) and prompt else None
    content = last.get("content") if isinstance(last, Mapping) else None
    return content if isinstance(content, str) and content.strip() else None


def _find(row: Mapping[str, Any], name: str) -> tuple[Any, str]:
    """What a row has under a name, and where; None where it has nothing, and no place where it does not say so."""
    if name == _QUESTION and "prompt" in row:
        return question_of(row), "prompt"
    parts = [(f"{place}.{name}", row[place]) for place in _PLACES if isinstance(row.get(place), Mapping)]
    found = [(part[name], where) for where, part in [*parts, (name, row)] if name in part]
    return next((each for each in found if each[0] is not None), (found or [(None, "")])[0])


def _missing(name: str, place: str, row: Mapping[str, Any]) -> str:
    if name == _QUESTION and "prompt" in row:
        return (
            f"prompt = {row['prompt']!r:.{_SHOWN}} holds no question: its last message must be one, as a text in its "
            "field content"
        )
    missing = f"{place} = None" if place else f"{name} is missing"
    return (
        f"{missing}; its task needs it, in extra_info, in reward_model or in the row itself: correct or remove the row"
    )


def _needed(field: Field[Any], hint: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING and NoneType not in _options(hint)


def _absent(kind: type[Any], hints: Mapping[str, Any]) -> dict[str, None]:
    """The fields without a default that may be None."""
    return {
        field.name: None
        for field in fields(kind)
        if field.default is MISSING and field.default_factory is MISSING and NoneType in _options(hints[field.name])
    }


def _options(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)


# ---- Values ----


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy, which Parquet files are read into, as Python's own."""
    return value.tolist() if type(value).__module__ == "numpy" else value


def _read(value: Any, hint: Any) -> Any:
    """A value of the type that a field declares.

    Raises:
        TypeError: it is none; the message says in words what it must be.
    """
    value = _plain(value)
    problems = []
    for option in _options(hint):
        try:
            return _read_as(value, option)
        except TypeError as error:
            problems.append(str(error))
    raise TypeError(" or ".join(problems))


def _read_as(value: Any, hint: Any) -> Any:
    kind = get_origin(hint) or hint
    if kind is Any:
        return value
    if kind in (str, bool, int):
        return _checked(value, type(value) is kind, _NAMES[kind])
    if kind is float:
        return float(_checked(value, type(value) in (int, float), _NAMES[float]))
    if kind is NoneType:
        return _checked(value, value is None, "null")
    if kind in (list, tuple):
        items = _checked(*_json(value, list), "a list")
        inner = next(iter(get_args(hint)), Any)
        return kind(_read(item, inner) for item in items)
    if kind is dict:
        mapping = _checked(*_json(value, Mapping), "a mapping")
        inner = (*get_args(hint), Any, Any)[1]
        return {str(key): _read(item, inner) for key, item in mapping.items()}
    if isinstance(kind, type) and is_dataclass(kind):
        mapping = _checked(*_json(value, Mapping), f"a mapping with {', '.join(entry.name for entry in fields(kind))}")
        try:
            return read_row(kind, mapping, "")
        except ValueError as error:
            raise TypeError(f"a {kind.__name__}{error}") from None
    raise TypeError(f"of a type that rows have, which {hint} is not")


_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}


def _json(value: Any, kind: type) -> tuple[Any, bool]:
    """A value that may be written as JSON, and whether it is of a kind."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            return value, False
    return value, isinstance(value, kind)


def _checked(value: Any, sound: bool, words: str) -> Any:
    if not sound:
        raise TypeError(words)
    return value
