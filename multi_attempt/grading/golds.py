"""Whether a gold answer is one that an answer can be graded against."""

from __future__ import annotations

from multi_attempt.answers import boxed
from multi_attempt.grading.grader import Grader
from multi_attempt.grading.layers import equals_itself


def refusal(gold: str, grader: Grader) -> str:
    """Why a gold answer is of no use; empty if it is sound."""
    if not gold.strip():
        return "gold answer is empty"
    if boxed(f"\\boxed{{{gold}}}") != gold.strip():
        return f"gold answer {gold!r} cannot stand in a box"
    equal = equals_itself(gold)
    if equal is None:
        # What only math-verify may read: in braces of its own, since it takes the same spelling for equal unread.
        verdict = grader.grade(f"{{{gold}}}", gold)
        return "" if verdict.correct else f"gold answer {gold!r} cannot be parsed"
    return "" if equal else f"gold answer {gold!r} does not grade as equal to itself"
