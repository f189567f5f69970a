"""What counts as equal: the table of rules, each way, and the bounds of the layers that decide it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from multi_attempt.grading import Grader, Policies
from multi_attempt.grading.layers import decide
from multi_attempt.grading.notation import LONGEST, Unreadable, normalize, tidy
from multi_attempt.grading.reading import outline, read

RULES: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "equality_rules.yaml").read_text())

OFF: dict[str, Any] = {"rounded_digits": 0, "integers": ""}
"""What turns a policy off, where that is not false."""


class Case(NamedTuple):
    """An answer, a gold answer, and whether they are equal."""

    answer: str
    gold: str
    equal: bool


def cases(rule: dict[str, Any], policy_is_on: bool = True) -> list[Case]:
    """The rule's cases, in both directions unless it is for answers only."""
    found = []
    for key, equal in (("equal", True), ("different", False), ("judged", policy_is_on)):
        for gold, *answers in rule.get(key, []):
            found += [Case(answer, gold, equal) for answer in answers]
            if not rule.get("answers_only"):
                found += [Case(gold, answer, equal) for answer in answers]
    return found


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """It waits long, so that a busy machine changes no verdict."""
    grader = Grader(deadline=60.0)
    yield grader
    grader.close()


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["rule"])
def test_rule_holds_each_way(rule: dict[str, Any], grader: Grader) -> None:
    wrong = [case for case in cases(rule) if grader.grade(case.answer, case.gold).correct is not case.equal]
    assert wrong == []


@pytest.mark.parametrize("rule", [rule for rule in RULES if "policy" in rule], ids=lambda rule: rule["policy"])
def test_policy_decides_what_is_judged_and_nothing_else(rule: dict[str, Any]) -> None:
    name = rule["policy"]
    grader = Grader(deadline=60.0, policies=replace(Policies(), **{name: OFF.get(name, False)}))
    found = cases(rule, policy_is_on=False)
    wrong = [case for case in found if grader.grade(case.answer, case.gold).correct is not case.equal]
    grader.close()
    assert wrong == []


def test_every_policy_has_a_rule() -> None:
    assert {rule["policy"] for rule in RULES if "policy" in rule} == set(vars(Policies()))


@pytest.mark.parametrize("digits", [-1, -4])
def test_impossible_policy_is_refused_by_name_and_value(digits: int) -> None:
    with pytest.raises(ValueError, match=f"rounded_digits = {digits}"):
        Policies(rounded_digits=digits)


def test_command_line_agrees_with_the_table() -> None:
    table = [case for rule in RULES for case in cases(rule)]
    lines = "".join(json.dumps({"prediction": rf"\boxed{{{case.answer}}}", "gold": case.gold}) + "\n" for case in table)
    command = [sys.executable, "-m", "multi_attempt.cli", "grade"]
    finished = subprocess.run(command, input=lines, capture_output=True, text=True)
    verdicts = [json.loads(line) for line in finished.stdout.splitlines()]
    assert len(verdicts) == len(table)
    wrong = [case for case, verdict in zip(table, verdicts, strict=True) if verdict["correct"] is not case.equal]
    assert wrong == []


# ---- Reading ----


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("2x+1", "+(*(2, x), 1)"),
        (r"\frac12", "/(1, 2)"),
        (r"-3^2", "neg(^(3, 2))"),
        (r"1/2\pi", r"*(/(1, 2), \pi)"),
        (r"\sin 2x \cos x", "*(sin(*(2, x)), cos(x))"),
        (r"\sin(x)^2", "^(sin(x), 2)"),
        (r"\sin^2 x", "^(sin(x), 2)"),
        (r"\log_2 8", "log(8, 2)"),
        ("1 1/2", "3/2"),
        ("x=1,y=2", "several(=(x, 1), =(y, 2))"),
        ("p=5,q=2;p=7,q=2", "several(several(=(p, 5), =(q, 2)), several(=(p, 7), =(q, 2)))"),
        (r"(1,2]\cup\{5\}", "union((](1, 2), set(5))"),
        ("204_5", "base 5(204)"),
        (r"10\text{ cm}^2", "unit cm ^2(10)"),
        (r"|x-1|", "abs(+(x, neg(1)))"),
        ("f(x)+I(0)+n(n+1)", "+(call f(x), call I(0), *(n, +(n, 1)))"),
        (r"x_{\max}", "x_max"),
        (r"\text{no solution}", "no solution"),
    ],
)
def test_texts_are_read_as_people_mean_them(text: str, tree: str) -> None:
    assert outline(read(tidy(text))) == tree


@pytest.mark.parametrize(
    "text", ["", "+", "(1,2", r"\frac{1}", "2 3", r"\sum_{k=1}^n k", "5!!", "x_", "}{", "^2", "1..2"]
)
def test_what_is_not_read_is_left_to_others(text: str) -> None:
    with pytest.raises(Unreadable):
        read(tidy(text))


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (r"\left( 1,\, 2 \right)", "(1,2)"),
        (r"\dfrac{1}{2}", r"\frac{1}{2}"),
        ("1 1/2", "1 1/2"),
        (r"\sin x", r"\sin x"),
        ("\u22122", "-2"),
        ("The answer is 5.", "5"),
        (r"1\,234", "1,234"),
    ],
)
def test_spelling_is_evened_out(text: str, normal: str) -> None:
    assert normalize(text) == normal


# ---- Bounds: whatever the text, an answer, and no exception ----

HOSTILE = {
    "tower": "9^{9^{9}}",
    "tall tower": "10^{10^{10^{10}}}",
    "long tower": "2^" * 700 + "2",
    "factorials": "((10^5)!)!",
    "many factorials": "+".join(["2999!"] * 200),
    "many binomials": "+".join([r"\binom{2999}{1500}"] * 75),
    "large fractions": "(3/7)^{9000}" + "+(5/11)^{9000}" * 80,
    "braces": "{" * 10_000 + "3" + "}" * 10_000,
    "short braces": "{" * 700 + "3" + "}" * 700,
    "brackets": "(" * 700 + "3" + ")" * 700,
    "open braces": "{" * 1_400,
    "spaces": " " * 1_000_000 + "3",
    "megabyte": "9" * 1_000_000,
    "digits": "9" * 1_400,
    "signs": "-" * 1_400 + "1",
    "bars": "|" * 1_400,
    "list": "1," * 700 + "1",
    "list of roots": ",".join(rf"\sqrt{{{number}}}" for number in range(130)),
    "product": "*".join("x" * 700),
    "polynomial": "+".join(f"x^{{{number}}}" for number in range(200)),
    "chain": "=".join("x" * 700),
    "plus or minus": r"\pm 1 " * 230,
    "fractions": r"\frac" * 300,
    "roots": r"\sqrt" * 280 + "2",
    "texts": r"\text{" * 230,
    "functions": "sin " * 370 + "x",
    "scripts": "x_{" * 400,
    "matrix of 200 by 200": r"\begin{pmatrix}" + r"\\".join(["&".join("1" * 200)] * 200) + r"\end{pmatrix}",
    "matrix": r"\begin{pmatrix}" + r"\\".join(["&".join("1" * 25)] * 25) + r"\end{pmatrix}",
    "sine": r"\sin(9^{9^{9}})",
    "power": "x^{1000000}",
    "powers": "x^{x^{x^{x^{x}}}}",
    "division by zero": r"\frac{1}{1-1}",
    "zero to the minus one": "0^{-1}",
    "null byte": "3\0",
    "surrogate": "\ud800",
    "backslashes": "\\" * 1_400,
    "unicode": "½" * 400,
    "digits of another script": "\u0661\u0662",
    "boxes": r"\boxed{" * 200,
    "dollars": "$" * 1_400,
}

GOLDS = [
    "5",
    r"\frac{1}{3}",
    "x+1",
    "1,2",
    "(1,2)",
    "x>3",
    r"\sqrt{2}",
    r"\begin{pmatrix}1\\2\end{pmatrix}",
    "east",
    "",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text_gets_an_answer(name: str) -> None:
    for other in GOLDS:
        assert decide(HOSTILE[name], other, Policies()).correct is not True
        assert decide(other, HOSTILE[name], Policies()).correct is not True
    assert decide(HOSTILE[name], HOSTILE[name] + "+1", Policies()).correct is not True


def test_no_answer_longer_than_the_limit_is_read() -> None:
    assert decide("1+" * LONGEST + "1", "5", Policies()).reason == "too long"


def test_deep_stack_of_the_caller_is_no_exception() -> None:
    def deeper(levels: int) -> str:
        if levels:
            return deeper(levels - 1)
        return decide("(" * 25 + "1" + ")" * 25, "2", Policies()).reason

    assert deeper(sys.getrecursionlimit() - 200) == "depth"


TEXTS = sorted(
    {
        text
        for rule in RULES
        if not rule.get("answers_only")
        for key in ("equal", "different", "judged")
        for text in chain(*rule.get(key, []))
    }
)

# What two texts may be put together to: most of it makes no sense, and none of it may be too much.
FRAMES = r"""
{}, {}
{}; {}
{} = {}
x={}, y={}
f({})={}
{} \approx {}
{} \neq {}
{} < {}
|{}| < {}
{} \leq x < {}
({},{})
[{},{})
\{{{},{}\}}
x \in {} \cup {}
{} \setminus {}
\begin{{pmatrix}}{}\\{}\end{{pmatrix}}
{} \pm {}
({})({})
{}:{}
{}^{{{}}}
\frac{{{}}}{{{}}}
\sqrt[{}]{{{}}}
\log_{{{}}} {}
\binom{{{}}}{{{}}}
\max({},{})
{} \pmod{{{}}}
{}! \text{{ or }} {}\%
({})^\circ_{{{}}}
""".split("\n")[1:-1]


def test_any_two_texts_of_the_table_are_compared_and_their_order_does_not_matter() -> None:
    dice = random.Random(0)
    for _ in range(4_000):
        one, other = dice.choice(TEXTS), dice.choice(TEXTS)
        verdicts = [decide(*pair, Policies()).correct is True for pair in ((one, other), (other, one))]
        assert verdicts[0] is verdicts[1], (one, other)


def test_texts_of_the_table_put_together_get_an_answer() -> None:
    dice = random.Random(0)
    for _ in range(4_000):
        one, other = (dice.choice(FRAMES).format(dice.choice(TEXTS), dice.choice(TEXTS)) for _ in range(2))
        decide(one, other, Policies())
        decide(one, dice.choice(TEXTS), Policies())
        assert decide(one, one, Policies()).correct


_PIECES = st.sampled_from(
    [*"{}()[]^_+-=<>,;:|!%$&.' 129xnief", *(rf"\{name}" for name in (
        "frac sqrt text{ pi infty cup cap pm mp sin log binom left( right) boxed{ begin{pmatrix} end{pmatrix} circ in "
        "overline{ lfloor rfloor setminus { } , % $ \\ mathbb{R} angle bmod prime ldots").split()),
     " and ", " or ", "10^", "1e9", "f(", "1,000", "\0", "\ud800", "½", "°"]
)  # fmt: skip


@given(st.lists(_PIECES, max_size=40).map("".join), st.lists(_PIECES, max_size=12).map("".join))
@settings(deadline=None)
@example(r"\overline{", "1")
def test_any_two_texts_get_an_answer_and_none_equals_itself_plus_one(answer: str, gold: str) -> None:
    decide(answer, gold, Policies())
    assert answer.strip() == "" or decide(answer, answer, Policies()).correct
