"""The layers that decide in the caller's own process: spelling, numbers, structure, expressions, words."""

from __future__ import annotations

import re
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from multi_attempt.answers import stated
from multi_attempt.grading.equality import Comparison, same_words
from multi_attempt.grading.notation import FUNCTIONS, GROUPED, LONGEST, Unreadable, is_balanced, is_name, spelling, tidy
from multi_attempt.grading.policies import Policies
from multi_attempt.grading.reading import ASKED_COMMANDS, Node, outline, read
from multi_attempt.grading.relations import STRUCTURES
from multi_attempt.grading.tolerance import Tolerance
from multi_attempt.grading.units import unit_of
from multi_attempt.grading.values import Budget, TooLarge


class Decision(NamedTuple):
    """What the layers found.

    Attributes:
        correct: whether the answer equals the gold answer; None if they cannot tell.
        method: the layer: ``exact`` (same spelling), ``number`` (exact arithmetic), ``structure``, ``expression`` or
            ``text`` (words).
        reason: why it could not be decided, or counts as wrong without a comparison.
        answer: the part of the answer that was compared, normalised.
        gold: the same of the gold answer.
    """

    correct: bool | None
    method: str
    reason: str = ""
    answer: str = ""
    gold: str = ""


_SOLUTION = re.compile(r"\\boxed|answer is")
# "for all x", and of which numbers a parameter is one: left out where only one side says it.
_QUALIFIER = re.compile(
    r"(?<=\S)[ ,(]*(?:\\(?:text|mbox|mathrm) ?\{ ?)?(?:\\forall|\bfor (?:all|any|every|each)\b).*$"
    r"|(?<=\S)[ ,(]*(?:\\text ?\{ ?)?\b(?:where|with) [a-z] (?:is )?(?:an? |any )?(?:arbitrary )?integer\b[ })]*$"
    r"|(?<=\S)[ ,(]+[a-z] ?\\in ?\\mathbb ?\{? ?[ZN] ?\}?\)?$"
)
_PLAIN = re.compile(
    r"(-?)(?:(\d{1,300})|(\d{0,300}\.\d{1,300})|\\frac\{(\d{1,300})\}\{(\d{1,300})\}|(\d{1,300})/(\d{1,300}))"
)


def _plain_number(normal: str) -> int | Fraction | None:
    """The value of a whole number, a decimal or a fraction that stands alone: most answers are."""
    match = _PLAIN.fullmatch(normal)
    if match is None:
        return None
    sign, whole, decimal, *parts = match.groups()
    if whole:
        number: int | Fraction = int(whole)
    elif decimal:
        number = Fraction(decimal)
    else:
        above, below = (int(part) for part in parts if part)
        if not below:
            return None
        number = Fraction(above, below)
    return -number if sign else number


def _without_qualifier(normal: str) -> str:
    return (
        _QUALIFIER.sub("", normal)
        if "for " in normal or "integer" in normal or r"\forall" in normal or r"\mathbb" in normal
        else normal
    )


def _is_exact(normal: str) -> bool:
    return "." not in normal


def decide(answer: str, gold: str, policies: Policies, tolerance: Tolerance | None = None) -> Decision:
    """Whether an answer equals the gold answer, as far as the layers can tell. Never raises."""
    if answer.strip() == gold.strip() != "":
        return Decision(True, "exact")
    if _SOLUTION.search(gold) or len(gold) > LONGEST:  # a whole solution: what it says at its end
        gold = stated(gold[-LONGEST:].replace(r"}\boxed", r"}, \boxed")) or gold
    if len(answer) > LONGEST and _is_prose(answer[-LONGEST:]):
        answer = stated(answer[-LONGEST:]) or answer
    if max(len(answer), len(gold)) > LONGEST:
        return Decision(False, "exact", "too long")
    left, right = tidy(answer), tidy(gold)
    plain = _without_qualifier(left), _without_qualifier(right)
    if (plain[0] == left) != (plain[1] == right):
        left, right = plain
    if _is_prose(right):
        return Decision(same_words(left, right), "text")
    if _is_prose(left):
        left = tidy(stated(answer) or "")
        if _is_prose(left):
            return Decision(False, "text")
    if not left or not right:
        return Decision(False, "exact")
    if spelling(left) == spelling(right):
        return Decision(True, "exact")
    wrapped = any("{" in text and _TEXTS.search(text) for text in (left, right))
    if wrapped and _without_wrappers(left) == _without_wrappers(right):
        return Decision(True, "text")
    numbers = _plain_number(left), _plain_number(right)
    is_equal = numbers[0] == numbers[1]
    if (
        None not in numbers
        and (is_equal or tolerance is None)
        and (_is_exact(left) == _is_exact(right) or numbers[0] == numbers[1])
    ):
        return Decision(numbers[0] == numbers[1], "number")
    decision = _compare(left, right, policies, tolerance)
    if decision.correct is None and not (
        any(map(_ASKED.search, (left, right))) and _may_be_asked(left) and _may_be_asked(right)
    ):
        return Decision(False, "expression", decision.reason)  # with the reason, which says what could not be read
    return decision


# What math-verify may be asked: what the reader does not know, and it does. Of all else it would read the first number.
_ASKED = re.compile(
    r"\\(?:sum|prod|i{1,3}nt|oint|lim|det)(?![a-zA-Z])|\\begin\{[a-zA-Z]*matrix\}"
    r"|\\frac ?\{ ?(?:d|\\partial)(?![a-zA-Z])"
)
_KNOWN = ASKED_COMMANDS | {f"\\{name}" for name in FUNCTIONS}
_LONG_WORD = re.compile(r"(?<![a-zA-Z\\])[a-zA-Z]{4,}")


def _may_be_asked(text: str) -> bool:
    """Whether a text is a formula in notation that math-verify knows, without words."""
    plain = re.sub(r"\\(?:begin|end)\{[a-zA-Z]*matrix\}", "", text)
    return set(re.findall(r"\\(?:[a-zA-Z]+|.)", plain)) <= _KNOWN and not _LONG_WORD.search(plain)


def equals_itself(gold: str, policies: Policies | None = None) -> bool | None:
    """Whether a gold answer, once read, is equal to itself; None if the layers cannot read it. Words always are.

    :func:`decide` takes the same spelling for equal unread, so it has no doubt even of what no answer can be compared
    with.
    """
    normal = tidy(gold) if len(gold) <= LONGEST else ""
    if not normal:
        return False
    return _is_prose(normal) or _compare(normal, normal, policies or Policies()).correct


def describe(text: str) -> str:
    """How the layers read a text."""
    if len(text) > LONGEST:
        return f"nothing: more than {LONGEST} characters"
    normal = tidy(text)
    if _is_prose(normal):
        return f"words that say {tidy(stated(text) or '') or 'nothing plain'}"
    try:
        return outline(read(normal))
    except (Unreadable, RecursionError) as error:
        return f"nothing: {error}"


def _compare(left: str, right: str, policies: Policies, tolerance: Tolerance | None = None) -> Decision:
    budget = Budget()
    if tolerance is not None and tolerance.is_relative and not _ROUNDED.search(right):
        tolerance = None
    expands = any(sign in text for text in (left, right) for sign in (r"\pm", r"\mp"))
    undecided: Decision | None = None
    try:
        golds = _readings(right)
        answers = _readings(left) + (_with_decimal_comma(left, golds[0]) if policies.decimal_comma else [])
    except Unreadable as error:
        if not (is_balanced(left) and is_balanced(right)):
            return Decision(False, "exact", "unbalanced braces")
        return Decision(None, "math-verify", f"cannot read {error}", left, right)
    except RecursionError:  # depth is bounded, but the caller may stand deep in the stack already
        return Decision(False, "expression", "depth")
    for answer in answers:
        allowed = _without_bare_marks(answer, policies)
        for gold in golds:
            try:
                if Comparison(allowed, budget, expands, tolerance).same(answer, gold):
                    return Decision(True, _layer(answer, gold))
            except Unreadable as error:
                undecided = Decision(None, "math-verify", f"cannot compare {error}", left, right)
            except TooLarge as error:
                undecided = Decision(False, _layer(answer, gold), f"too large: {error}")
            except RecursionError:
                undecided = Decision(False, _layer(answer, gold), "depth")
    return undecided or Decision(False, _layer(answers[0], golds[0]))


def _without_bare_marks(answer: Node, policies: Policies) -> Policies:
    """Only the answer may leave out a base or a modulus: 10 may stand for a gold 1010_2, never 10_2 for a gold 10."""
    return replace(policies, bare_base=False) if _holds_base(answer) else policies


def _holds_base(node: Node) -> bool:
    return node.op in ("base", "modulo") or any(map(_holds_base, node.args))


_ROUNDED = re.compile(r"\.\d|\d[eE]-?\d|10\^")  # a decimal, or a multiple of a power of ten
_DECIMAL_COMMA = re.compile(r"(-?(?:\d+|\d{1,3}(?:\.\d{3})+)),(\d*[1-9]\d*)( ?(?:\\text ?\{[^{},]*\}|\\?%))?")


def _readings(normal: str) -> list[Node]:
    """The trees that a text may mean; two where a comma may part thousands or answers. Raises Unreadable."""
    found = [read(normal)]
    if GROUPED.search(normal) is not None and found[0].op != "unit":  # 1,657 cents are no list
        found.append(read(normal, grouped=False))
    return found


def _with_decimal_comma(normal: str, gold: Node) -> list[Node]:
    """An answer with its comma as a decimal point, where the gold answer is one value; in that a comma never is."""
    match = _DECIMAL_COMMA.fullmatch(normal)
    if match is None or gold.op in STRUCTURES or GROUPED.search(normal):
        return []
    whole, decimals, mark = match.groups("")
    return [read(f"{whole.replace('.', '')}.{decimals}{mark}")]


_STRUCTURED = STRUCTURES - {"text"}


def _layer(left: Node, right: Node) -> str:
    if "text" in (left.op, right.op):
        return "text"
    if left.op in _STRUCTURED or right.op in _STRUCTURED:
        return "structure"
    return "number" if _is_numeric(left) and _is_numeric(right) else "expression"


def _is_numeric(node: Node) -> bool:
    return node.op in ("number", "+", "*", "/", "neg", "unit", "percent", "base", "^") and all(
        map(_is_numeric, node.args)
    )


def _without_wrappers(normal: str) -> str:
    r"""An answer with the content of each ``\text{}`` in its place: ``4:30 \text{ p.m.}`` is ``\text{4:30 p.m.}``."""
    return spelling(re.sub(r"(?<=[a-zA-Z])\.(?!\d)", "", _TEXTS.sub(lambda text: _in_small_letters(text[1]), normal)))


def _in_small_letters(text: str) -> str:
    """Words without their capitals, but not a unit that is another without them: MHz, mHz."""
    small = text.casefold()
    return text if (unit := unit_of(text)) is not None and unit != unit_of(small) else small


_COMMANDS = re.compile(r"\\(?:begin|end)\{[a-z]*\}|\\[a-zA-Z]+")
_TEXTS = re.compile(r"\\(?:text|textbf|textit|mathrm|mbox)\s*\{([^{}]*)\}")
_PAIR = re.compile(r"([a-zA-Z]{2,})[ ,.:']+(?=([a-zA-Z]{2,}))")


def _is_prose(normal: str) -> bool:
    """Whether a text has two words side by side that are no names of mathematics and no units."""
    if not normal.isascii() and any(character.isalpha() and ord(character) > 0x24F for character in normal):
        return True  # in a script that no notation uses
    if " " not in normal:
        return False
    if "\\" in normal:
        outside = _TEXTS.sub(" ", normal)
        normal = _COMMANDS.sub(" ", outside if outside.strip() else normal)
    pairs = _PAIR.findall(normal)
    return any(not (is_name(one) or is_name(other)) for one, other in pairs)
