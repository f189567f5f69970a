"""Relatives of the rules' cases, made by rule from random numbers: what a rewrite keeps, and what it changes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from multi_attempt.grading import Policies
from multi_attempt.grading.layers import decide

COUNT = 100
SUPERSCRIPTS = str.maketrans("0123456789-+n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺ⁿ")
SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")

Relatives = tuple[str, list[str], list[str]]
"""A gold answer, what equals it, and what does not."""


def _raised(dice: random.Random) -> Relatives:
    base, power = dice.choice(["10", "x", "2", "(x+1)", "a"]), str(dice.randint(2, 40))
    raised = f"{base}^{{{power}}}"
    return raised, [base + power.translate(SUPERSCRIPTS)], [base + power, f"{base}\\cdot {power}", power + base]


def _lowered(dice: random.Random) -> Relatives:
    name, index = dice.choice("abxyz"), str(dice.randint(10, 99))
    return (
        f"{name}_{{{index}}}",
        [name + index.translate(SUBSCRIPTS)],
        [name + index, f"{name}_{index[0]}", index + name],
    )


def _rooted(dice: random.Random) -> Relatives:
    factor, radicand = dice.randint(2, 99), dice.choice([10, 13, 15, 17, 19, 21, 51, 66, 110, 1003])
    wrong = [f"{factor}{str(radicand)[1:]}", f"{factor}\\sqrt{{{str(radicand)[0]}}}{str(radicand)[1:]}"]
    right = [f"{factor}√{radicand}", f"√{radicand}·{factor}", f"{factor}\\sqrt{radicand}"]
    return f"{factor}\\sqrt{{{radicand}}}", right, wrong


def _with_unseen_characters(dice: random.Random) -> Relatives:
    number = str(dice.randint(1000, 99999))
    at = dice.randint(1, len(number) - 1)
    hidden = [number[:at] + unseen + number[at:] for unseen in "\u200b\u200c\u200d\u2060\ufeff\u00ad\u202a"]
    return number, hidden, [number[:at] + "\u2062" + number[at:]]


def _repeating(dice: random.Random) -> Relatives:
    length, before = dice.randint(1, 5), "".join(dice.choices("123456789", k=dice.randint(0, 2)))
    block = dice.choice("12345678") + "".join(dice.choices("0123456789", k=length - 1))
    nines = 10**length - 1
    whole = int(f"{before}{block}") - int(before or 0)
    gold = f"\\frac{{{whole}}}{{{nines * 10 ** len(before)}}}"
    right = [
        f"0.{before}({block})",
        f"0.{before}\\overline{{{block}}}",
        f"0.{before}\\bar{{{block}}}",
        f"0.{before}{block}{block}{block}\\ldots",
        f"0.{before}{block}{block}{block}...",
        f"0.{before}\\dot{{{block[0]}}}{block[1:-1]}" + (f"\\dot{{{block[-1]}}}" if length > 1 else ""),
    ]
    wrong = [f"0.{before or 0}", f"0.{before}0({block})", f"0.{before}({int(block) + 1})"]
    return gold, right, wrong


RELATIVES: list[Callable[[random.Random], Relatives]] = [
    _raised,
    _lowered,
    _rooted,
    _with_unseen_characters,
    _repeating,
]


@pytest.mark.parametrize("make", RELATIVES, ids=lambda make: make.__name__.strip("_"))
def test_rewrites_that_keep_a_value_are_right_and_others_wrong(
    make: Callable[[random.Random], Relatives],
) -> None:
    dice = random.Random(0)
    for _ in range(COUNT):
        gold, right, wrong = make(dice)
        assert [answer for answer in right if decide(answer, gold, Policies()).correct is not True] == [], gold
        assert [answer for answer in wrong if decide(answer, gold, Policies()).correct is not False] == [], gold
