"""Drawing word problems: sets of which none holds a question, or a kind with the same numbers, of another."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

from multi_attempt.data.overlap import normalise
from multi_attempt.word_problems.table import PEOPLE, PRONOUNS, Kind, Table

# A kind that gives nothing new so many times in a row has nothing left.
_TRIES = 10_000


@dataclass(frozen=True)
class WordProblem:
    """A question with its answer.

    Attributes:
        text: the question.
        answer: the gold answer.
        kind: the name of its kind.
        steps: how many operations the answer takes.
        numbers: those in the question, in the order of the kind's table.
    """

    text: str
    answer: int
    kind: str
    steps: int
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Split:
    """A set of questions to draw.

    Attributes:
        count: how many questions.
        wordings: each kind, which take turns, and the wordings to draw from.
    """

    count: int
    wordings: Sequence[tuple[Kind, Sequence[str]]]


def draw_questions(table: Table, splits: Mapping[str, Split], level: str, seed: int) -> dict[str, list[WordProblem]]:
    """Sets of questions, each question once; numbers that a kind has in one set it has in no other, in any order.

    Args:
        table: people and words.
        splits: the sets by name; those that come first choose first.
        level: of the numbers, one of :data:`multi_attempt.word_problems.table.LEVELS`.
        seed: the same arguments give the same questions.

    Raises:
        ValueError: there are not so many questions.
    """
    owners: dict[tuple[str, tuple[int, ...]], str] = {}
    seen: set[str] = set()
    drawn: dict[str, list[WordProblem]] = {}
    for name, split in splits.items():
        generator = random.Random(f"word problems {name} {seed}")
        drawn[name] = []
        for index in range(split.count):
            kind, wordings = split.wordings[index % len(split.wordings)]
            for _ in range(_TRIES):
                problem = _draw(table, kind, wordings, level, generator)
                if problem is not None and _is_new(problem, name, owners, seen):
                    drawn[name].append(problem)
                    break
            else:
                raise ValueError(
                    f"{name} = {split.count} questions: after {index}, kind {kind.name} has no more that differ from "
                    f"all others at level {level}; ask for fewer questions in any set, more kinds or a harder level"
                )
    return drawn


def _is_new(problem: WordProblem, split: str, owners: dict[tuple[str, tuple[int, ...]], str], seen: set[str]) -> bool:
    """Whether nobody has the question, and no other set its numbers; if so, they are taken."""
    numbers = (problem.kind, tuple(sorted(problem.numbers)))
    text = normalise(problem.text)
    if text in seen or owners.setdefault(numbers, split) != split:
        return False
    seen.add(text)
    return True


def _draw(
    table: Table, kind: Kind, wordings: Sequence[str], level: str, generator: random.Random
) -> WordProblem | None:
    """A question of a kind; None if the numbers drawn do not suit it."""
    numbers = {name: generator.choice(choices) for name, choices in kind.numbers[level].items()}
    answer = kind.answer.value(numbers)
    if answer is None:
        return None
    words = {**_draw_words(table, generator), **{name: str(number) for name, number in numbers.items()}}
    text = Template(generator.choice(wordings)).substitute(words)
    return WordProblem(text, answer, kind.name, kind.answer.steps, tuple(numbers.values()))


def _draw_words(table: Table, generator: random.Random) -> dict[str, str]:
    """What the placeholders for people and things stand for."""
    people = generator.sample(list(table.people), len(PEOPLE))
    words = {**dict(zip(PEOPLE, people, strict=True)), **PRONOUNS[table.people[people[0]]]}
    for name, things in table.words.items():
        words[name], words[f"{name}s"] = generator.choice(things)
    return words
