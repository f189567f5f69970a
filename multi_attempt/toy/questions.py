r"""Sums and differences of two-digit numbers, with worked solutions that are right or hold one slip.

A solution says what it works out, digit by digit, ones first, as on paper: ``47+38 7+8=15 4+3+1=8 \boxed{85}``. As real
ones do, a question leaves something open: ``|x-47|=38`` has two solutions, and elsewhere the sign is missing. One of
both is meant, in each kind of question one of them more often. Who is told that 85 is wrong can mend it:
``47-38 17-8=9 4-3-1=0 \boxed{9}``.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

_SMALLEST, _LARGEST = 10, 99
_BASE = 10
# Where both numbers are at least this great, a question is harder than any to train on.
_HARD = 70

Slip = Callable[[int], int]
"""What becomes of a number that is worked out: itself, or another."""


class Kind(NamedTuple):
    """A kind of question.

    Attributes:
        text: the question, with its two numbers to be filled in.
        plus: how often the sum is meant; otherwise it is the difference.
    """

    text: str
    plus: float


KINDS = {
    "distance": Kind("|x-{}|={}", 0.75),
    "pair": Kind("{}&{}", 0.7),
    "blot": Kind("{}#{}", 0.65),
    "gap": Kind("{}?{}", 0.6),
}
"""The kinds of question by name."""


@dataclass(frozen=True)
class ToyQuestion:
    """A question about two numbers.

    Attributes:
        kind: a key of ``KINDS``.
        left: the first number, e.g. 47.
        right: the second, e.g. 38; not above the first.
        plus: whether the sum is meant, or the difference.
    """

    kind: str
    left: int
    right: int
    plus: bool

    @property
    def question(self) -> str:
        """The question's text, e.g. ``47?38``."""
        return KINDS[self.kind].text.format(self.left, self.right)

    @property
    def answer(self) -> str:
        """The gold answer, e.g. ``85``."""
        return str(self.left + self.right if self.plus else self.left - self.right)


@dataclass(frozen=True)
class Split:
    """A set of questions.

    Attributes:
        count: how many.
        hard: whether both numbers are great, as they never both are in the others.
    """

    count: int
    hard: bool = False


def draw_questions(splits: Mapping[str, Split], seed: int) -> dict[str, list[ToyQuestion]]:
    """Sets of questions, of which no question is in two; kinds take turns.

    Args:
        splits: the sets by name.
        seed: the same arguments give the same questions.

    Raises:
        ValueError: there are not so many different questions.
    """
    generator = random.Random(f"toy questions {seed}")
    easier: dict[str, list[tuple[int, int]]] = {}
    harder: dict[str, list[tuple[int, int]]] = {}
    for kind in KINDS:
        pairs = [(left, right) for left in range(_SMALLEST, _LARGEST + 1) for right in range(_SMALLEST, left + 1)]
        generator.shuffle(pairs)
        easier[kind] = [pair for pair in pairs if min(pair) < _HARD]
        harder[kind] = [pair for pair in pairs if min(pair) >= _HARD]
    return {
        name: _take(name, split.count, harder if split.hard else easier, generator) for name, split in splits.items()
    }


def _take(
    name: str, count: int, pairs: dict[str, list[tuple[int, int]]], generator: random.Random
) -> list[ToyQuestion]:
    """Questions about pairs of numbers that nobody took before."""
    questions = []
    for index in range(count):
        kind = list(KINDS)[index % len(KINDS)]
        if not pairs[kind]:
            raise ValueError(f"{name} = {count} questions: only {index} are left that differ from all others")
        left, right = pairs[kind].pop()
        questions.append(ToyQuestion(kind, left, right, plus=generator.random() < KINDS[kind].plus))
    return questions


def solution(question: ToyQuestion, plus: bool) -> str:
    """The worked solution if the sum is meant, or if the difference is, ending with the boxed answer."""
    return _work(question, plus, lambda number: number)


def slipped_solution(question: ToyQuestion, plus: bool, generator: random.Random) -> str:
    """The same with one slip, from which the rest follows: a digit that is one off."""
    slips = iter(generator.sample([generator.choice([-1, 1]), 0], k=2))
    return _work(question, plus, lambda number: abs(number + next(slips)))


def _work(question: ToyQuestion, plus: bool, slip: Slip) -> str:
    steps, answer = (_add if plus else _subtract)(_digits(question.left), _digits(question.right), slip)
    return f"{question.left}{'+' if plus else '-'}{question.right} {steps} \\boxed{{{answer}}}"


def _digits(number: int) -> tuple[int, int]:
    return divmod(number, _BASE)


def _add(left: tuple[int, int], right: tuple[int, int], slip: Slip) -> tuple[str, int]:
    ones = slip(left[1] + right[1])
    carry = int(ones >= _BASE)
    tens = slip(left[0] + right[0] + carry)
    return f"{left[1]}+{right[1]}={ones} {left[0]}+{right[0]}{'+1' * carry}={tens}", tens * _BASE + ones % _BASE


def _subtract(left: tuple[int, int], right: tuple[int, int], slip: Slip) -> tuple[str, int]:
    borrow = int(left[1] < right[1])
    minuend = left[1] + _BASE * borrow
    ones = slip(minuend - right[1])
    tens = slip(left[0] - right[0] - borrow)
    return f"{minuend}-{right[1]}={ones} {left[0]}-{right[0]}{'-1' * borrow}={tens}", tens * _BASE + ones % _BASE
