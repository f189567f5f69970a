"""How far an answer may be from the gold answer, where a benchmark says so."""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

_NUMBER = re.compile(r"(\d{1,9}(?:\.\d{1,9})?(?:[eE]-?\d{1,2})?)(%?)")


_SLACK = 1e-30  # for the rounding of numbers of 50 digits


@dataclass(frozen=True)
class Tolerance:
    """A distance that a number may have from the gold answer's.

    Attributes:
        size: the distance, or its share of the gold answer.
        is_relative: whether it is a share. A share is granted only to gold answers that are rounded themselves.
    """

    size: Fraction
    is_relative: bool

    def allows(self, answer: Any, gold: Any) -> bool:
        """Whether one number, as mpmath has it, stands for the other."""
        allowed = type(gold)(self.size.numerator) / self.size.denominator * (abs(gold) if self.is_relative else 1)
        return bool(abs(answer - gold) <= allowed + allowed * _SLACK)


def read_tolerance(text: str) -> Tolerance | None:
    """The tolerance that a text says: ``0.1`` or ``1e-1``, of several the smallest, or ``1%``; None for an empty text.

    Raises:
        ValueError: it says something else.
    """
    if not text.strip():
        return None
    matches = [_NUMBER.fullmatch(part.strip()) for part in text.split(",")]
    numbers = [(Fraction(Decimal(match[1])), match[2]) for match in matches if match is not None]
    signs = {sign for _, sign in numbers}
    if len(numbers) < len(matches) or len(signs) != 1 or min(numbers)[0] == 0:
        raise ValueError(f"tolerance = {text!r} must be a positive number, or a percentage such as 1%")
    size, sign = min(numbers)
    return Tolerance(size / 100 if sign else size, bool(sign))
