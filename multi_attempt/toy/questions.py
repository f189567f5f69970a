r"""Sums of two-digit numbers, with worked solutions that are right or hold one slip.

A solution repeats the question and adds digit by digit, ones first, as on paper:
``47+38 7+8=15 4+3+1=8 \boxed{85}``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

_SMALLEST, _LARGEST = 10, 99
_BASE = 10
# How often a slip is a wrong carry; otherwise the ones are off by one.
_WRONG_CARRY = 0.5


@dataclass(frozen=True)
class ToyQuestion:
    """A question and its gold answer, e.g. ``47+38`` and ``85``."""

    question: str
    answer: str


def draw_questions(train: int, heldout: int, seed: int) -> tuple[list[ToyQuestion], list[ToyQuestion]]:
    """Questions to train on and questions held out, all different.

    A pair of numbers is for one of the two alone, in either order: with ``47+38`` held out, ``38+47`` is too.

    Args:
        train: how many to train on.
        heldout: how many to hold out.
        seed: the same seed and counts give the same questions.

    Raises:
        ValueError: there are not so many different questions.
    """
    generator = random.Random(f"toy questions {seed}")
    pairs = [(first, second) for first in range(_SMALLEST, _LARGEST + 1) for second in range(_SMALLEST, first + 1)]
    generator.shuffle(pairs)
    tested = [generator.choice([(first, second), (second, first)]) for first, second in pairs[:heldout]]
    trained = sorted({order for first, second in pairs[heldout:] for order in ((first, second), (second, first))})
    if train < 0 or not 0 <= heldout <= len(pairs) or train > len(trained):
        raise ValueError(
            f"train = {train}, heldout = {heldout}: there are {len(pairs)} pairs of numbers, and with those held out "
            f"{len(trained)} questions to train on"
        )
    return [_ask(*pair) for pair in generator.sample(trained, train)], [_ask(*pair) for pair in tested]


def right_solution(question: ToyQuestion) -> str:
    """The worked solution, ending with the boxed answer."""
    return _work(question)


def wrong_solution(question: ToyQuestion, generator: random.Random) -> str:
    """A worked solution with one slip, from which the rest follows.

    The slip is a carry forgotten or invented, or a sum of the ones that is one off.
    """
    if generator.random() < _WRONG_CARRY:
        return _work(question, wrong_carry=True)
    ones = sum(int(number) % _BASE for number in question.question.split("+"))
    return _work(question, ones_error=generator.choice([-1, 1]) if ones else 1)


def _ask(left: int, right: int) -> ToyQuestion:
    return ToyQuestion(f"{left}+{right}", str(left + right))


def _work(question: ToyQuestion, ones_error: int = 0, wrong_carry: bool = False) -> str:
    """The solution with an error added to the sum of the ones, or with the wrong carry."""
    (left_tens, left_ones), (right_tens, right_ones) = (divmod(int(n), _BASE) for n in question.question.split("+"))
    ones = left_ones + right_ones + ones_error
    carry = (ones >= _BASE) != wrong_carry
    tens = left_tens + right_tens + carry
    steps = f"{left_ones}+{right_ones}={ones} {left_tens}+{right_tens}{'+1' if carry else ''}={tens}"
    return f"{question.question} {steps} \\boxed{{{tens * _BASE + ones % _BASE}}}"
