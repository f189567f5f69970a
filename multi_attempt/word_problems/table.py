"""The table of kinds, ``table.yaml``: read, and checked so that every problem drawn from it can be worded."""

from __future__ import annotations

import ast
import operator
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

TABLE = files("multi_attempt.word_problems").joinpath("table.yaml")
"""The package's own table."""

LEVELS = ("easy", "medium", "hard")
"""How great the numbers are, by name."""

PRONOUNS = {
    "she": {"they": "she", "their": "her", "They": "She", "Their": "Her"},
    "he": {"they": "he", "their": "his", "They": "He", "Their": "His"},
}
"""What stands in a wording's placeholders for the first person, by the person's pronoun."""

PEOPLE = ("first", "second")
"""The placeholders of the people's names."""

# Of one thing, a wording would need the singular, be it given or worked out.
_LEAST_NUMBER = 2

_OPERATIONS: dict[type[ast.operator], Callable[[int, int], int | Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: Fraction,
}
_ALLOWED = (ast.BinOp, ast.Name, ast.Constant, ast.Load, *_OPERATIONS)


@dataclass(frozen=True)
class Expression:
    """How an answer is worked out, e.g. ``(start - kept) / groups``.

    Raises:
        ValueError: it holds anything but names, whole numbers above 0, ``+ - * /`` and brackets.
    """

    text: str
    _tree: ast.expr = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            tree = ast.parse(self.text, mode="eval").body
        except SyntaxError as error:
            raise ValueError(f"{self.text!r} is no expression ({error.msg})") from error
        for node in ast.walk(tree):
            if not isinstance(node, _ALLOWED):
                raise ValueError(f"{self.text!r} may hold only names, whole numbers, + - * / and brackets")
            if isinstance(node, ast.Constant) and (type(node.value) is not int or node.value < 1):
                raise ValueError(f"{self.text!r}: {node.value!r} is no whole number above 0")
        object.__setattr__(self, "_tree", tree)

    @property
    def names(self) -> set[str]:
        """The numbers that it is worked out from."""
        return {node.id for node in ast.walk(self._tree) if isinstance(node, ast.Name)}

    @property
    def steps(self) -> int:
        """How many operations it takes."""
        return sum(isinstance(node, ast.BinOp) for node in ast.walk(self._tree))

    def value(self, numbers: Mapping[str, int]) -> int | None:
        """The answer for these numbers; None if a step does not come to a whole number of at least 2."""
        return _value(self._tree, numbers)


def _value(node: ast.expr, numbers: Mapping[str, int]) -> int | None:
    if isinstance(node, ast.Name):
        return numbers[node.id]
    if isinstance(node, ast.BinOp):
        left, right = _value(node.left, numbers), _value(node.right, numbers)
        if left is None or right is None:
            return None
        result = _OPERATIONS[type(node.op)](left, right)
        return int(result) if result >= _LEAST_NUMBER and result.denominator == 1 else None
    value = ast.literal_eval(node)
    assert isinstance(value, int)
    return value


@dataclass(frozen=True)
class Kind:
    """A kind of word problem; ``table.yaml`` says what each field means.

    Attributes:
        name: its name in the table.
        answer: how the answer is worked out.
        numbers: for each level, the numbers that each name may stand for.
        templates: wordings to train on, as :class:`string.Template` texts.
        other_templates: wordings that are never trained on.
        held_out: whether it is for evaluation only, unless it is asked for by name.
    """

    name: str
    answer: Expression
    numbers: Mapping[str, Mapping[str, range]]
    templates: tuple[str, ...]
    other_templates: tuple[str, ...]
    held_out: bool = False


@dataclass(frozen=True)
class Table:
    """All kinds, and the words that their wordings use.

    Attributes:
        kinds: by name.
        people: the pronoun, a key of :data:`PRONOUNS`, by the person's name.
        words: lists by name, of things in the singular and the plural.
    """

    kinds: Mapping[str, Kind]
    people: Mapping[str, str]
    words: Mapping[str, tuple[tuple[str, str], ...]]


def load_table(path: Path | None = None) -> Table:
    """The table of a YAML file; by default, of the package's own.

    Raises:
        ValueError: it is not one; the message names the kind, the field and the value.
    """
    text = (path or TABLE).read_text("utf-8")
    try:
        return _table(_fields(yaml.safe_load(text), "the table", {"people", "words", "kinds"}))
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path or 'word problems'}: {error}") from error


def _table(content: Mapping[str, Any]) -> Table:
    people = {name: pronoun for pronoun, names in _mapping("people", content["people"]).items() for name in names}
    if unknown := set(people.values()) - set(PRONOUNS):
        raise ValueError(f"people: {', '.join(sorted(unknown))} is no pronoun; use {' or '.join(PRONOUNS)}")
    if len(people) < len(PEOPLE):
        raise ValueError(f"people = {', '.join(people) or 'none'}: name at least {len(PEOPLE)}")
    words = {
        name: tuple(_mapping(f"words.{name}", pairs).items())
        for name, pairs in _mapping("words", content["words"]).items()
    }
    common = {*PEOPLE, *PRONOUNS["she"], *words, *(f"{name}s" for name in words)}
    kinds = {name: _kind(name, entry, common) for name, entry in _mapping("kinds", content["kinds"]).items()}
    _refuse_repeated_wordings(kinds)
    return Table(kinds, people, words)


def _mapping(place: str, entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ValueError(f"{place} = {entry!r} must hold values by name")
    return entry


def _fields(entry: Any, place: str, required: set[str], optional: frozenset[str] = frozenset()) -> Mapping[str, Any]:
    """A mapping that has these fields and no others."""
    if not isinstance(entry, Mapping):
        raise ValueError(f"{place} = {entry!r} must hold {', '.join(sorted(required))}")
    if unknown := set(entry) - required - optional:
        raise ValueError(f"{place}: unknown field {', '.join(map(str, unknown))}; remove it")
    if missing := required - set(entry):
        raise ValueError(f"{place}: {', '.join(sorted(missing))} is missing; add it")
    return entry


def _kind(name: str, entry: Any, common: set[str]) -> Kind:
    place = f"kind {name}"
    entry = _fields(entry, place, {"answer", "numbers", "templates", "other_templates"}, frozenset({"held_out"}))
    try:
        answer = Expression(str(entry["answer"]))
    except ValueError as error:
        raise ValueError(f"{place}: answer = {error}") from error
    if taken := answer.names & common:
        raise ValueError(
            f"{place}: answer = {answer.text!r}: {', '.join(taken)} is no name for a number; choose another"
        )
    numbers = {
        level: _ranges(f"{place}: numbers.{level}", ranges, answer.names)
        for level, ranges in _fields(entry["numbers"], f"{place}: numbers", set(LEVELS)).items()
    }
    templates, others = (
        tuple(_wording(f"{place}: {field}", text, answer.names, common) for text in _wordings(place, field, entry))
        for field in ("templates", "other_templates")
    )
    return Kind(name, answer, numbers, templates, others, bool(entry.get("held_out", False)))


def _ranges(place: str, entry: Any, names: set[str]) -> dict[str, range]:
    """The numbers of a level, in the order of the table."""
    ranges = {}
    for name, bounds in _fields(entry, place, names).items():
        if not isinstance(bounds, list) or len(bounds) not in (2, 3) or any(type(bound) is not int for bound in bounds):
            raise ValueError(f"{place}.{name} = {bounds!r}: write [lowest, highest] or [lowest, highest, step]")
        low, high, *step = bounds
        if low < _LEAST_NUMBER or high < low or (step and step[0] < 1):
            raise ValueError(
                f"{place}.{name} = {bounds!r}: the lowest must be at least {_LEAST_NUMBER}, and not above the highest; "
                "the step at least 1"
            )
        ranges[name] = range(low, high + 1, *step)
    return ranges


def _wordings(place: str, field: str, entry: Mapping[str, Any]) -> list[Any]:
    wordings = entry[field]
    if not isinstance(wordings, list) or not wordings:
        raise ValueError(f"{place}: {field} = {wordings!r} must be a list of at least one wording")
    return wordings


def _wording(place: str, text: Any, numbers: set[str], common: set[str]) -> str:
    found: defaultdict[str, str] = defaultdict(str)  # which notes each name that is looked up
    try:
        Template(str(text)).substitute(found)
    except ValueError as error:
        raise ValueError(f"{place}: {text!r} is no template ({error}); use $name, and $$ for a dollar sign") from error
    if missing := numbers - set(found):
        raise ValueError(f"{place}: {text!r} does not show ${', $'.join(sorted(missing))}; add it")
    if unknown := set(found) - numbers - common:
        raise ValueError(f"{place}: {text!r}: ${', $'.join(sorted(unknown))} stands for nothing; correct or remove it")
    return str(text)


def _refuse_repeated_wordings(kinds: Mapping[str, Kind]) -> None:
    """A wording stands in one place: else one that is held out might be trained on."""
    place: dict[str, str] = {}
    for kind in kinds.values():
        for text in (*kind.templates, *kind.other_templates):
            if text in place:
                raise ValueError(f"kind {kind.name}: {text!r} is a wording of {place[text]} already; remove one")
            place[text] = f"kind {kind.name}"
