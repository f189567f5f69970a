"""The judgement calls of what counts as equal."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Policies:
    r"""The judgement calls, each with its default.

    Attributes:
        rounded_digits: a decimal with at least so many digits after the point, and significant ones, equals the
            fraction whose decimals have no end that it is cut or rounded from: ``0.3333`` is ``1/3``, ``16.33`` is not
            ``49/3``. For an irrational number, which no decimal is, one less after the point: ``1.414``. 0 for never.
            Decimals are never rounded to decimals: 10.001 is not 10.
        decimal_comma: ``1,5`` may be read as ``1.5``.
        bare_percent: ``50`` equals ``50\%`` (``0.5`` always does).
        bare_degrees: ``90`` equals ``90^\circ`` (``\pi/2`` always does).
        bare_base: the answer ``204`` equals the gold answer ``204_5``, and ``3`` the gold answer ``3 \pmod 5``; never
            the other way round.
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
