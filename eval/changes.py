"""What an attempt makes of the one before it: how often the model changes its answer, and from what to what.

A wrong attempt that was not the last is followed by one that is right, gives the same answer again, gives another one
that is wrong, or has no answer: these four shares are 1 together. Change is an answer that differs from the one before,
right or wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from statistics import fmean
from typing import NamedTuple

from multi_attempt.evaluation.protocols import Outcome, Same, Scored


class Step(NamedTuple):
    """An attempt after another one.

    Attributes:
        number: of the attempt in its dialogue, from 2.
        before: whether the one before was right.
        after: what it is: ``right``; if it is wrong, ``same``, ``other`` or ``none`` as its answer is that of the one
            before, another one or missing.
        repeated: whether its answer is that of any earlier wrong attempt.
    """

    number: int
    before: bool
    after: str
    repeated: bool


def steps(found: Scored) -> Iterator[Step]:
    """The steps of all dialogues that a score rests on."""
    for run in found.runs:
        for number, (before, after) in enumerate(pairwise(run), start=2):
            yield Step(number, before.correct, _after(before, after, found.repeats), after.repeated)


def rates(taken: Sequence[Step]) -> dict[str, float | None]:
    """The shares of steps by what they are; None where there are none to take a share of."""
    after_wrong = [step.after for step in taken if not step.before]
    return {
        **{f"wrong_to_{after}": _share([each == after for each in after_wrong]) for after in _AFTER},
        "change_rate": _share([each in ("right", "other") for each in after_wrong]),
        "right_to_wrong": _share([step.after != "right" for step in taken if step.before]),
        "repeat_rate": _share([step.repeated for step in taken]),
    }


_AFTER = ("right", "same", "other", "none")


def _after(before: Outcome, after: Outcome, repeats: Same) -> str:
    if after.correct:
        return "right"
    if after.answer is None:
        return "none"
    # What repeats no wrong answer at all does not repeat the one before.
    is_same = after.repeated and before.answer is not None and repeats(before.answer, after.answer)
    return "same" if is_same else "other"


def _share(found: Sequence[bool]) -> float | None:
    return fmean(found) if found else None
