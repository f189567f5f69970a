"""Drawing word problems: sets of which none holds a question, or a kind with the same numbers, of another."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import Template

from multi_attempt.data.overlap import normalise
from multi_attempt.word_problems.table import PEOPLE, PRONOUNS, Kind, Table

Numbers = dict[str, int]
"""The numbers of a question by their names in the table."""

# How often numbers are drawn for a kind, before they are divided among the sets: nearly all that it has, or some
# thousand of them.
_DRAWS = 5_000
# Wordings and words that give nothing new so many times in a row have nothing left.
_TRIES = 1_000


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
        share: of each kind's numbers, the part that this set has for itself.
    """

    count: int
    wordings: Sequence[tuple[Kind, Sequence[str]]]
    share: float = 1.0


def draw_questions(table: Table, splits: Mapping[str, Split], level: str, seed: int) -> dict[str, list[WordProblem]]:
    """Sets of questions, each question once; numbers that a kind has in one set it has in no other, in any order.

    How many questions one set has changes nothing in another.

    Args:
        table: people and words.
        splits: the sets by name; their shares are 1 together.
        level: of the numbers, one of :data:`multi_attempt.word_problems.table.LEVELS`.
        seed: the same arguments give the same questions.

    Raises:
        ValueError: there are not so many questions.
    """
    kinds = {kind.name: kind for split in splits.values() for kind, _ in split.wordings}
    numbers = {name: _divide_numbers(kind, splits, level, seed) for name, kind in kinds.items()}
    return {name: _draw_split(table, name, split, numbers, seed) for name, split in splits.items()}


def _divide_numbers(kind: Kind, splits: Mapping[str, Split], level: str, seed: int) -> dict[str, list[Numbers]]:
    """Each set's share of the numbers for which a kind has an answer."""
    generator = random.Random(f"word problems {kind.name} {seed}")
    orders: dict[tuple[int, ...], list[Numbers]] = {}
    for _ in range(_DRAWS):
        numbers = {name: generator.choice(choices) for name, choices in kind.numbers[level].items()}
        same = orders.setdefault(tuple(sorted(numbers.values())), [])
        if numbers not in same and kind.answer.value(numbers) is not None:
            same.append(numbers)
    usable = [same for same in orders.values() if same]
    divided: dict[str, list[Numbers]] = {}
    start, share = 0, 0.0
    for name, split in splits.items():
        share += split.share
        end = round(share * len(usable))
        divided[name] = [numbers for same in usable[start:end] for numbers in same]
        start = end
    return divided


def _draw_split(
    table: Table, name: str, split: Split, numbers: Mapping[str, Mapping[str, Sequence[Numbers]]], seed: int
) -> list[WordProblem]:
    generator = random.Random(f"word problems {name} {seed}")
    drawn: dict[str, WordProblem] = {}
    for index in range(split.count):
        kind, wordings = split.wordings[index % len(split.wordings)]
        own = numbers[kind.name][name]
        for _ in range(_TRIES if own else 0):
            problem = _word(table, kind, wordings, generator.choice(own), generator)
            if drawn.setdefault(normalise(problem.text), problem) is problem:
                break
        else:
            raise ValueError(
                f"{name} = {split.count} questions: after {index}, kind {kind.name} has no more that differ; ask for "
                "fewer, for more kinds or for a harder level"
            )
    return list(drawn.values())


def _word(table: Table, kind: Kind, wordings: Sequence[str], numbers: Numbers, generator: random.Random) -> WordProblem:
    """A question of a kind about these numbers."""
    answer = kind.answer.value(numbers)
    assert answer is not None
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
