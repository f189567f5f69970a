r"""What relations and lists say: ``x = 3`` names 3, ``x > 5`` an interval, ``3 \pm 1`` two numbers."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise

from multi_attempt.grading.notation import Unreadable
from multi_attempt.grading.reading import Node
from multi_attempt.grading.values import CONSTANTS, Budget, Point, TooLarge, Undefined, value, variables

STRUCTURES = frozenset({"several", "both", "group", "set", "builder", "union", "minus", "matrix", "piecewise", "ratio",
                        "relation", "text"})  # fmt: skip
"""Operations of trees that have no value of their own."""

_INFINITY = Node("symbol", name=r"\infty")
REALS = Node("group", (Node("neg", (_INFINITY,)), _INFINITY), "()")
"""All real numbers."""

FLIPPED = {"<": ">", ">": "<", "<=": ">=", ">=": "<=", "=": "=", "!=": "!=", "~": "~"}
"""Relation signs seen from the other side."""

_MIRRORED = {"()": "()", "[]": "[]", "[)": "(]", "(]": "[)"}


@dataclass(frozen=True)
class Relation:
    """A relation, sorted: ``value`` (a label and its value), ``region`` (a label and where it lies), ``equation`` or
    ``chain`` (of inequalities)."""

    kind: str
    parts: tuple[Node, ...]
    signs: list[str]
    label: Node | None = None
    value: Node = REALS


def relation_of(node: Node, compare: Callable[[Node, Node], bool]) -> Relation | None:
    """What a relation says; None if it contradicts itself."""
    parts, signs = list(node.args), node.name.split()
    if "~" in signs:
        # x \approx 3 says what x is; x = 1/3 \approx 0.33 has said it before.
        at = signs.index("~")
        if at == 0 and is_label(parts[0]):
            signs[0] = "="
            at = signs.index("~") if "~" in signs else len(signs)
        parts, signs = parts[: at + 1], signs[:at]
    if not signs:
        return Relation("value", (parts[0],), [], None, parts[0])
    if signs == ["in"]:
        if not (parts[0].op == "symbol" or (is_label(parts[0]) and parts[0].op != "abs")):
            return Relation("chain", tuple(parts), signs)  # where x^2 lies, x does not
        region = REALS if parts[1].name in (r"\mathbb R", "R") and parts[1].op == "symbol" else parts[1]
        return Relation("region", tuple(parts), signs, parts[0], region)
    if set(signs) == {"="}:
        return _equation(parts, signs, compare)
    if "=" in signs or "in" in signs:
        raise Unreadable("mixed relations")
    return _inequality(parts, signs)


def _equation(parts: list[Node], signs: list[str], compare: Callable[[Node, Node], bool]) -> Relation | None:
    labels = [part for part in parts if is_label(part)]
    values = [part for part in parts if not is_label(part)]
    if len(parts) == 2 and len(labels) == 2:
        return Relation("value", tuple(parts), signs, parts[0], parts[1])
    if labels and values and (len(values) == 1 or parts[0] is labels[0]):
        numbers = [part for part in values if not _is_marked(part) and not variables(part)]
        if not all(compare(one, other) or _is_shortened(one, other) for one, other in pairwise(numbers)):
            return None  # x = 5 = 3
        if labels[0].op == "abs" and labels[0].args[0].name in _REAL_UNKNOWNS:
            both = Node("set", (values[-1], Node("neg", (values[-1],))))
            return Relation("value", (labels[0].args[0], both), ["="], labels[0].args[0], both)
        # x = 3, 3 = x, and W = m g h = 5: what is said last about the first.
        label, value = in_order_of_names(labels[0], labels[0]), in_order_of_names(labels[0], values[-1])
        return Relation("value", (label, value), ["="], label, value)
    if not labels and not any(part.op in STRUCTURES or variables(part) for part in values):
        # 2 + 3 = 5 is 5, and 6 = 5 is nothing.
        if not all(compare(one, other) for one, other in pairwise(values)):
            return None
        return Relation("value", tuple(parts), signs, None, parts[-1])
    return Relation("equation", tuple(parts), signs)


def _inequality(parts: list[Node], signs: list[str]) -> Relation:
    least, infinite = REALS.args
    if len(parts) == 2:
        label, bound, sign = parts[0], parts[1], signs[0]
        if not is_label(label) and is_label(bound):
            label, bound, sign = bound, label, FLIPPED[sign]
        if is_label(label):
            if label.op == "abs" and sign in ("<", "<="):
                region = Node("group", (Node("neg", (bound,)), bound), "()" if sign == "<" else "[]")
                return Relation("region", (label, bound), [sign], label.args[0], region)
            if label.op == "abs" and sign in (">", ">=", "!="):
                return Relation("region", (label, bound), [sign], label.args[0], _outside(bound, sign))
            region = {
                "<": Node("group", (least, bound), "()"),
                "<=": Node("group", (least, bound), "(]"),
                ">": Node("group", (bound, infinite), "()"),
                ">=": Node("group", (bound, infinite), "[)"),
                "!=": Node("minus", (REALS, Node("set", (bound,)))),
            }[sign]
            return Relation("region", (label, bound), [sign], label, region)
    if len(parts) == 3 and is_label(parts[1]):
        low, label, high = parts
        if set(signs) <= {">", ">="}:
            low, high, signs = high, low, [FLIPPED[sign] for sign in reversed(signs)]
        if set(signs) <= {"<", "<="}:
            brackets = ("[" if signs[0] == "<=" else "(") + ("]" if signs[1] == "<=" else ")")
            region = Node("group", (low, high), brackets)
            if label.op == "abs":
                mirrored = Node("group", (Node("neg", (high,)), Node("neg", (low,))), _MIRRORED[brackets])
                label, region = label.args[0], Node("union", (mirrored, region))
            return Relation("region", (low, label, high), signs, label, region)
    return Relation("chain", tuple(parts), signs)


_REAL_UNKNOWNS = frozenset("xyt")
"""Letters of which an absolute value has two solutions; of others, as of z, it may be what is asked for."""


def _outside(bound: Node, sign: str) -> Node:
    """Where an absolute value is greater than a bound, or another number."""
    least, infinite = REALS.args
    opposite = Node("neg", (bound,))
    if sign == "!=":
        return Node("minus", (REALS, Node("set", (bound, opposite))))
    left, right = ("()", "()") if sign == ">" else ("(]", "[)")
    return Node("union", (Node("group", (least, opposite), left), Node("group", (bound, infinite), right)))


def _is_marked(node: Node) -> bool:
    return node.op in STRUCTURES or node.op in ("unit", "modulo", "base") or any(map(_is_marked, node.args))


def _is_shortened(one: Node, other: Node) -> bool:
    """Whether a decimal is the other number to as many digits as it has: what "x = 1/3 = 0.33" says is no error."""
    for decimal, number in ((one, other), (other, one)):
        if decimal.op == "number" and decimal.places > 0:
            try:
                exactly = value(number, Point(), Budget())
            except (Undefined, TooLarge, Unreadable):
                continue
            return bool(
                abs(exactly - Point().constant(decimal.value)) <= Point().constant(Fraction(1, 10**decimal.places))
            )
    return False


def is_label(node: Node) -> bool:
    """Whether a tree names something instead of computing it: ``x``, ``f(x)``, ``AB``, ``S:T``, ``(p, q)``."""
    if node.op == "symbol":
        return node.name not in CONSTANTS
    if node.op == "text":
        return True
    if node.op == "group":
        return node.name == "()" and bool(node.args) and all(map(is_label, node.args))
    if node.op in ("*", "/", "abs", "ratio", "unit"):
        return all(map(is_label, node.args))
    if node.op == "call":
        return all(is_label(part) or part.op == "number" for part in node.args)
    return False


def same_label(left: Node | None, right: Node | None) -> bool:
    """Whether two names may be the same one's: one is missing, in words, or a function whose value has a name."""
    unsaid = Node("symbol")
    if left is None or right is None or left == right or unsaid in (left, right):
        return True
    if "text" in (left.op, right.op):
        return True  # words say what is meant in the author's own way
    left, right = _in_alphabetical_order(left), _in_alphabetical_order(right)
    if left == right:
        return True
    # f(x) = 2x and y = 2x, or f(n) = 2n
    applied = [label for label in (left, right) if label.op in ("call", "*")]
    if len(applied) == 2 and left.op == right.op:
        if left.op == "call":
            return left.name == right.name
        return left.args[0] == right.args[0] and all(label.args[-1].name.islower() for label in applied)
    return len(applied) == 1 and applied[0].op == "call" and Node("symbol", name="y") in (left, right)


def _in_alphabetical_order(label: Node) -> Node:
    """The name of a line or a triangle from its corners: AB is BA, and not AC."""
    if label.op == "*" and all(part.op == "symbol" and part.name[:1].isupper() for part in label.args):
        return Node("*", tuple(sorted(label.args)))
    return label


def renamed(first: Relation, second: Relation) -> tuple[Node, Node]:
    """Both values, the second in the first's variable: f(x) = 2x and f(n) = 2n."""
    left, right = first.label, second.label
    if left is None or right is None or left.op != right.op or left.op not in ("call", "*") or left == right:
        return first.value, second.value
    old, new = right.args[-1], left.args[-1]
    if old.op != "symbol" or new.op != "symbol":
        return first.value, second.value
    return first.value, substituted(second.value, old, new)


def substituted(node: Node, old: Node, new: Node) -> Node:
    """A tree with a part in another one's place."""
    if node == old:
        return new
    return node._replace(args=tuple(substituted(part, old, new) for part in node.args)) if node.args else node


def is_labelled(node: Node) -> bool:
    """Whether the parts of a list have names of their own: ``x = 1, y = 2``."""
    if node.op != "several":
        return False
    labels = [label_of(item) for item in node.args]
    return None not in labels and len(set(labels)) == len(labels) > 1


def label_of(item: Node) -> Node | None:
    if item.op != "relation" or set(item.name.split()) - {"=", "~"} or not is_label(item.args[0]):
        return None
    return _in_alphabetical_order(item.args[0])


def unlabelled(item: Node) -> Node:
    label = label_of(item)
    return item if label is None else in_order_of_names(label, item.args[-1])


_LETTER = re.compile(r"([a-zA-Z])(?:_(\d{1,4}))?")


def order_of_names(names: Sequence[Node]) -> list[int]:
    """Where the values stand in a tuple without names: by the alphabet and by number, else as they are written.

    Letters that are no neighbours have no order that all would know: (k, n), but also (n, k).
    """
    found = [_LETTER.fullmatch(name.name) if name.op == "symbol" else None for name in names]
    keys = [(match[1], int(match[2] or 0)) for match in found if match]
    places = list(range(len(names)))
    ranks = [ord(letter) for letter, _ in keys]
    if len(keys) < len(names) or max(ranks, default=0) - min(ranks, default=0) > len(names):
        return places
    return sorted(places, key=keys.__getitem__)


def in_order_of_names(label: Node, value: Node) -> Node:
    """A tuple in the order of its names: the (1, 2) of ``(y, x) = (1, 2)`` is (2, 1)."""
    if label.op != "group" or value.op != "group" or len(label.args) != len(value.args):
        return value
    return value._replace(args=tuple(value.args[place] for place in order_of_names(label.args)))


def values_in_order(items: Sequence[Node]) -> list[Node]:
    """The values of answers side by side, those that all have names of their own in the order of these."""
    labels = [label_of(item) for item in items]
    values = [unlabelled(item) for item in items]
    names = [label for label in labels if label is not None]
    return [values[place] for place in order_of_names(names)] if len(set(names)) == len(items) else values


def is_numbered(items: Sequence[Node]) -> bool:
    """Whether the names of answers are one letter with numbers, as those of an equation's roots."""
    found = [_LETTER.fullmatch(label.name) for item in items if (label := label_of(item)) is not None]
    return (
        len(found) == len(items)
        and all(match and match[2] for match in found)
        and (len({match[1] for match in found if match}) == 1)
    )


def items_of(node: Node) -> list[Node]:
    """The answers side by side; of ``n = 1, 2, 3`` the numbers."""
    items = list(node.args)
    if node.op == "several" and items:
        label = label_of(items[0])
        if label is not None and all(label_of(item) in (None, label) for item in items):
            items = [in_order_of_names(label, item) if label_of(item) is None else unlabelled(item) for item in items]
    found: list[Node] = []
    for item in items:
        expanded = plus_minus(item)
        found.extend(expanded.args if expanded is not item and expanded.op == "several" else [item])
    return found


def plus_minus(node: Node) -> Node:
    r"""Both values of an expression with ``\pm``, side by side; any other tree as it is."""
    if not _has_plus_minus(node):
        return node
    if node.op == "relation" and set(node.name.split()) == {"="} and len(node.args) == 2:
        both = plus_minus(node.args[1])
        return Node("several", tuple(Node("relation", (node.args[0], part), "=") for part in both.args))
    if node.op in STRUCTURES - {"set"}:
        return node
    if node.op == "set":
        return Node("set", tuple(items_of(node)))
    return Node("several", (_signed(node, True), _signed(node, False)))


def _has_plus_minus(node: Node) -> bool:
    return node.op in ("pm", "mp") or any(map(_has_plus_minus, node.args))


def _signed(node: Node, upper: bool) -> Node:
    args = tuple(_signed(part, upper) for part in node.args)
    if node.op in ("pm", "mp"):
        return args[0] if (node.op == "pm") is upper else Node("neg", args)
    return node._replace(args=args) if args else node
