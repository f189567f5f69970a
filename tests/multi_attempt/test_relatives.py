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


def _time(dice: random.Random) -> Relatives:
    hour, minutes = dice.randint(1, 11), 2 * dice.randint(5, 29)
    gold = f"{2 * hour}:{minutes}"
    return gold, [f"{2 * hour} : {minutes}"], [f"{hour}:{minutes // 2:02}", f"\\frac{{{2 * hour}}}{{{minutes}}}"]


def _in_a_base(dice: random.Random) -> Relatives:
    digits, base = "".join(dice.choices("123", k=3)), dice.randint(4, 9)
    right = [
        f"{digits} \\text{{ base }} {base}",
        f"{digits}_{{\\text{{base }}{base}}}",
        f"{digits} (base {base})",
        digits,
    ]
    return f"{digits}_{base}", right, [f"{digits}_{{{base + 1}}}", f"{digits} base {base + 1}", str(int(digits, base))]


def _without_a_base(dice: random.Random) -> Relatives:
    digits = "".join(dice.choices("123", k=3))
    return digits, [], [f"{digits}_{dice.randint(4, 16)}", f"{digits} \\text{{ base }} {dice.randint(4, 9)}"]


def _rounded(dice: random.Random) -> Relatives:
    above, below = dice.randint(1, 500), dice.choice([3, 7, 9, 11, 13, 17, 19])
    above += not above % below
    exact = above / below
    wrong = [f"{exact:.{places}f}" for places in (1, 2, 3)] + [f"{exact + 0.0003:.4f}"]
    return f"\\frac{{{above}}}{{{below}}}", [f"{exact:.6f}"] if exact > 1 else [], wrong


def _region(dice: random.Random) -> Relatives:
    low = dice.randint(-20, 20)
    high = low + dice.randint(1, 20)
    right = [
        f"x>{low} \\text{{ and }} x \\leq {high}",
        f"x>{low}, {high}\\geq x",
        f"\\{{x : {low}<x\\leq {high}\\}}",
        f"]{low},{high}]",
        f"({low - 1},{high}] \\cap ({low},{high + 3})",
    ]
    wrong = [
        f"x>{low} \\text{{ or }} x \\leq {high}",
        f"x>{low} \\text{{ and }} y \\leq {high}",
        f"\\{{x \\in \\mathbb{{Z}} : {low}<x\\leq {high}\\}}",
        f"]{low},{high}[",
        f"({low - 1},{high}] \\cup ({low},{high + 3})",
    ]
    return f"({low},{high}]", right, wrong


def _outside(dice: random.Random) -> Relatives:
    bound = dice.randint(1, 50)
    right = [f"x<-{bound} \\text{{ or }} x>{bound}", f"(-\\infty,-{bound})\\cup({bound},\\infty)", f"{bound}<|x|"]
    return f"|x|>{bound}", right, [f"x>{bound}", f"({bound},\\infty)", f"x<-{bound} \\text{{ and }} x>{bound}"]


def _chain(dice: random.Random) -> Relatives:
    value, other = dice.sample(range(2, 99), 2)
    return str(value), [f"x={value - 1}+1={value}"], [f"x={other}={value}", f"x={value}={other}", f"{other}=x={value}"]


def _unit(dice: random.Random) -> Relatives:
    size, (larger, smaller, count) = dice.randint(2, 99), dice.choice(_SIZES)
    others = [unit for unit in ("days", "kJ", "pounds", "cents", "apples", "cm^2") if unit not in (larger, smaller)]
    wrong = [f"{size}\\text{{ {unit}}}" for unit in (smaller, *others)] + [f"{size + 1}\\text{{ {larger}}}"]
    return f"{size}\\text{{ {larger}}}", [f"{size * count}\\text{{ {smaller}}}", str(size)], wrong


_SIZES = [("hours", "minutes", 60), ("ft", "in", 12), ("km", "m", 1000), ("MHz", "kHz", 1000),
          ("gallons", "quarts", 4), ("m/s", "mm/s", 1000), ("kg", "mg", 10**6)]  # fmt: skip


def _compound(dice: random.Random) -> Relatives:
    large, small, (larger, smaller, count) = dice.randint(1, 9), dice.randint(1, 11), dice.choice(_SIZES[:2])
    gold = f"{large}\\text{{ {larger} }} {small}\\text{{ {smaller}}}"
    right = [f"{large * count + small}\\text{{ {smaller}}}", gold.replace("} ", "}\\text{ and }", 1)]
    return (
        gold,
        right,
        [str(large), str(small), f"{large}\\text{{ {larger}}}", gold.replace(str(large), str(large + 1))],
    )


def _words_behind(dice: random.Random) -> Relatives:
    value = dice.randint(13, 500)
    scale, times = dice.choice([("million", 10**6), ("dozen", 12), ("hundred", 100), ("thousand", 1000)])
    changing = ["or 7", "plus 1", f"{scale}", "a.m.", "north", "squared", "is wrong", "or more", "and a half", "tenths"]
    right = [f"{value}\\text{{ {words}}}" for words in ("", "apples", "in total", "different ways")]
    assert grade_here(f"{value}\\text{{ {scale}}}", str(value * times))
    return str(value), right, [f"{value}\\text{{ {words}}}" for words in changing]


def _named_parts(dice: random.Random) -> Relatives:
    names, (one, other) = dice.choice(["xy", "ab", "mn", "pq", "uv"]), dice.sample(range(-30, 30), 2)
    first, second = names[0], names[1]
    right = [
        f"{second}={other}, {first}={one}",
        f"{first}={one} \\text{{ and }} {second}={other}",
        f"({second},{first})=({other},{one})",
    ]
    wrong = [f"{second}={one}, {first}={other}", f"({second},{first})=({one},{other})", f"({other},{one})"]
    return f"({one},{other})", right, wrong


def _repeated(dice: random.Random) -> Relatives:
    one, other = dice.sample(range(-30, 30), 2)
    return f"{one},{other},{other}", [f"{other},{one},{other}"], [f"{one},{other}", f"{one},{one},{other}", str(other)]


def _comma(dice: random.Random) -> Relatives:
    one, other = dice.randint(1, 99), dice.randint(1, 99)
    return f"{one},{other}", [f"{one}, {other}"], [f"{one}.{other}"]


def _decimal(dice: random.Random) -> Relatives:
    one, other = dice.randint(1, 99), dice.randint(1, 99)
    return f"{one}.{other:02}", [f"{one},{other:02}"], [f"{one}{other:02}", f"{one + 1},{other:02}"]


def _inside(dice: random.Random) -> Relatives:
    low = dice.randint(0, 30)
    gold = f"[{low},{low + dice.randint(1, 9)})"
    wrong = [f"{name} \\in {gold}" for name in ("x^2", "-x", "|x|", "\\frac{1}{x}", "x+1", "2x")]
    return gold, [f"x \\in {gold}"], wrong


def _broken(dice: random.Random) -> Relatives:
    at = dice.randint(1, 400)
    wrong = [f"|x+{at}|", f"-x-{at}", f"\\max(x+{at},0)", f"\\sqrt{{(x+{at})^2}}", f"\\min(x+{at},{2 * at})"]
    return f"x+{at}", [f"\\max(x,-x-{2 * at + 1})+{at}-\\max(-2x-{2 * at + 1},0)"], wrong


def _rounded_down(dice: random.Random) -> Relatives:
    by = dice.randint(2, 60)
    right = [f"\\lceil\\frac{{n-{by - 1}}}{{{by}}}\\rceil", f"\\frac{{n-n \\bmod {by}}}{{{by}}}"]
    wrong = [f"\\lfloor\\frac{{n{change}}}{{{by}}}\\rfloor" for change in ("-1", "+1")]
    return (
        f"\\lfloor\\frac{{n}}{{{by}}}\\rfloor",
        right,
        [*wrong, f"\\frac{{n}}{{{by}}}", f"\\lceil\\frac{{n}}{{{by}}}\\rceil"],
    )


def grade_here(answer: str, gold: str) -> bool:
    """Whether the layers call an answer right."""
    return decide(answer, gold, Policies()).correct is True


def _of_money(dice: random.Random) -> Relatives:
    number, (sign, name) = dice.randint(2, 999), dice.choice([*_MONEY.items()])
    others = [other for other in _MONEY if other != sign]
    wrong = [f"{other}{number}{words}" for other in others for words in ("", r"\text{ each}")]
    right = [f"{number} \\text{{ {name}}}", f"{sign}{number}\\text{{ each}}", f"{number} {name}", str(number)]
    return f"{sign}{number}", right, [*wrong, f"{number} \\text{{ {_MONEY[others[0]]}}}", f"{number}\\text{{ cents}}"]


_MONEY = {r"\$": "dollars", "€": "euros", "£": "pounds", "¥": "yen"}


def _bounded(dice: random.Random) -> Relatives:
    number = dice.randint(2, 999)
    right = [f"The answer is ${number}$", f"there are {number} distinct ones", f"so the largest value is {number}."]
    wrong = [f"The answer is {words} ${number}$" for words in ("less than", "not", "at most", "unlikely to be", "over")]
    wrong += [f"There are {number} {words}" for words in ("dozen eggs", "or so too many", "hundred people")]
    return str(number), right, wrong


def _divisors(dice: random.Random) -> Relatives:
    one, other = dice.sample("abnmkxy", 2)
    size = dice.randint(2, 30)
    right = [f"\\gcd({size}, {one})", f"\\gcd({one}+{size}, {size})"]
    return f"\\gcd({one}, {size})", right, [f"\\gcd({one}, {2 * size})", "1", one, str(size), f"\\gcd({other}, {size})"]


def _line(dice: random.Random) -> Relatives:
    one, other, third = dice.sample("ABCDEFGHPQRST", 3)
    length, longer = dice.sample(range(2, 99), 2)
    right = [f"{other}{one} = {length}", str(length)]
    wrong = [
        f"{one}{third} = {length}",
        f"{one}{other} = {longer}",
        f"{one}{other} = {length}, {one}{third} = {length}",
    ]
    return f"{one}{other} = {length}", right, wrong


RELATIVES: list[Callable[[random.Random], Relatives]] = [
    _raised, _lowered, _rooted, _with_unseen_characters, _repeating, _time, _in_a_base, _without_a_base, _rounded,
    _region, _outside, _chain, _unit, _compound, _words_behind, _named_parts, _repeated,
    _comma, _decimal, _inside, _broken, _rounded_down, _bounded, _of_money, _divisors, _line,
]  # fmt: skip


@pytest.mark.parametrize("make", RELATIVES, ids=lambda make: make.__name__.strip("_"))
def test_rewrites_that_keep_a_value_are_right_and_others_wrong(
    make: Callable[[random.Random], Relatives],
) -> None:
    dice = random.Random(0)
    for _ in range(COUNT):
        gold, right, wrong = make(dice)
        assert [answer for answer in right if decide(answer, gold, Policies()).correct is not True] == [], gold
        assert [answer for answer in wrong if decide(answer, gold, Policies()).correct is not False] == [], gold
