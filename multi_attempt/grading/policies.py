"""The judgement calls of what counts as equal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Policies:
    r"""The judgement calls, each with its default.

    Attributes:
        rounded_digits: a decimal of at least so many significant digits equals the irrational number, or the fraction
            whose decimals have no end, that it is cut or rounded from: ``0.3333`` is ``1/3``. 0 for never. Decimals
            are never rounded to decimals: 10.001 is not 10.
        decimal_comma: ``1,5`` may be read as ``1.5``.
        bare_percent: ``50`` equals ``50\%`` (``0.5`` always does).
        bare_degrees: ``90`` equals ``90^\circ`` (``\pi/2`` always does).
        bare_base: ``204`` equals ``204_5``.
        bare_unit: ``10`` equals ``10\text{ cm}``. Two different known units are never equal.
        bare_label: ``3`` equals ``x = 3``, and ``(0, 1]`` equals ``0 < x \leq 1``.
        any_order: answers side by side are equal in any order: ``1, 2`` and ``2, 1``. Tuples always keep their order,
            sets never have one.
        vector_as_tuple: ``(1, 2)`` equals a matrix of one row or column with these entries.
        integers: names of variables, parted by spaces, that stand for whole numbers, so that ``(-1)^{2n}`` is 1.
    """

    rounded_digits: int = 4
    decimal_comma: bool = True
    bare_percent: bool = True
    bare_degrees: bool = True
    bare_base: bool = True
    bare_unit: bool = True
    bare_label: bool = True
    any_order: bool = True
    vector_as_tuple: bool = True
    integers: str = "k m n"

    def __post_init__(self) -> None:
        if self.rounded_digits < 0:
            raise ValueError(
                f"multi_attempt.grader.policies.rounded_digits = {self.rounded_digits} must be 0 (never) or positive"
            )
