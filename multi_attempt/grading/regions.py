"""Sets of real numbers: intervals and points, put in order, those that touch made one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import chain

from multi_attempt.grading.notation import Unreadable
from multi_attempt.grading.reading import Node
from multi_attempt.grading.relations import REALS, items_of, relation_of
from multi_attempt.grading.values import Budget, Point, Undefined, value, variables


@dataclass(frozen=True)
class Piece:
    """An interval, or a point (both ends the same, and closed)."""

    low: Node
    high: Node
    closed_low: bool
    closed_high: bool


def infinity_of(node: Node) -> int:
    """1 for infinity, -1 for minus infinity, 0 for all else."""
    if node.op == "neg":
        return -infinity_of(node.args[0])
    return int(node.op == "symbol" and node.name == r"\infty")


def is_interval(node: Node) -> bool:
    """Whether a tree must be an interval: it has an infinite end, or is the real line."""
    return _is_real_line(node) or (node.op == "group" and len(node.args) == 2 and any(map(infinity_of, node.args)))


def _is_real_line(node: Node) -> bool:
    return node.op == "symbol" and node.name == r"\mathbb R"


def pieces_of(node: Node, budget: Budget) -> list[Piece] | None:
    """The pieces of a set of numbers; None if it is none. Raises Unreadable where a point cannot be taken out."""
    if _is_real_line(node):
        node = REALS
    if node.op == "group" and len(node.args) == 2:
        return [Piece(node.args[0], node.args[1], node.name[0] == "[", node.name[1] == "]")]
    if node.op == "set":
        return [Piece(item, item, True, True) for item in items_of(node)]
    if node.op == "relation":
        return _pieces_of_relation(node, budget)
    if node.op in ("union", "several", "both"):
        found = [pieces_of(part, budget) for part in node.args]
        if None in found or not _is_about_one(node):
            return None
        parts = [part for part in found if part is not None]
        return _common(parts, node.name == "and", budget) if node.op == "both" else [*chain.from_iterable(parts)]
    if node.op == "minus" and node.args[1].op == "set":
        remaining = pieces_of(node.args[0], budget)
        for item in items_of(node.args[1]) if remaining else []:
            remaining = [part for piece in remaining or [] for part in _without(piece, item, budget)]
        return remaining
    return None


def _pieces_of_relation(node: Node, budget: Budget) -> list[Piece] | None:
    relation = relation_of(node, Node.__eq__)
    if relation is None or relation.label is None:
        return None
    if relation.kind == "region":
        return pieces_of(relation.value, budget)
    is_number = relation.kind == "value" and not variables(relation.value)
    return [Piece(relation.value, relation.value, True, True)] if is_number else None


def label_of_conditions(node: Node) -> Node | None:
    """What relations side by side are about, if it is the same; None if it is not, or they are none."""
    if node.op == "relation":
        relation = relation_of(node, Node.__eq__)
        return relation.label if relation is not None else None
    if node.op not in ("both", "several"):
        return None
    labels = {label_of_conditions(part) for part in node.args}
    return labels.pop() if len(labels) == 1 else None


def _is_about_one(node: Node) -> bool:
    is_labelled = any(part.op in ("relation", "both", "several") for part in node.args)
    return not is_labelled or label_of_conditions(node) is not None


def _common(parts: list[list[Piece]], is_strict: bool, budget: Budget) -> list[Piece] | None:
    """Where all conditions hold. Without an "and" between them, those that exclude each other are alternatives."""
    common = parts[0]
    try:
        for others in parts[1:]:
            common = [both for one in common for other in others if (both := _overlap(one, other, budget))]
    except Undefined:
        return None
    return common if common or is_strict else [*chain.from_iterable(parts)]


def _overlap(one: Piece, other: Piece, budget: Budget) -> Piece | None:
    lows = [(_size(piece.low, budget), not piece.closed_low) for piece in (one, other)]
    highs = [(_size(piece.high, budget), piece.closed_high) for piece in (one, other)]
    low, high = (one if lows[0] >= lows[1] else other), (one if highs[0] <= highs[1] else other)
    (start, is_open), (end, is_closed) = max(lows), min(highs)
    if start > end or (start == end and (is_open or not is_closed)):
        return None
    return Piece(low.low, high.high, low.closed_low, high.closed_high)


def merged(pieces: list[Piece], budget: Budget) -> list[Piece]:
    """The pieces in order, those that touch made one; as they are if an end has no known size."""
    try:
        sizes = {end: _size(end, budget) for piece in pieces for end in (piece.low, piece.high)}
    except Undefined:
        return pieces
    ordered: list[Piece] = []
    for piece in sorted(pieces, key=lambda piece: (sizes[piece.low], not piece.closed_low)):
        last = ordered[-1] if ordered else None
        gap = sizes[piece.low] - sizes[last.high] if last else math.inf
        if last is None or gap > 0 or (gap == 0 and not (piece.closed_low or last.closed_high)):
            ordered.append(piece)
        elif sizes[piece.high] > sizes[last.high]:
            ordered[-1] = replace(last, high=piece.high, closed_high=piece.closed_high)
        elif sizes[piece.high] == sizes[last.high]:
            ordered[-1] = replace(last, closed_high=last.closed_high or piece.closed_high)
    return ordered


def _without(piece: Piece, point: Node, budget: Budget) -> list[Piece]:
    try:
        low, high, at = (_size(end, budget) for end in (piece.low, piece.high, point))
    except Undefined as error:
        raise Unreadable(str(error)) from error
    if low < at < high:
        return [replace(piece, high=point, closed_high=False), replace(piece, low=point, closed_low=False)]
    if at not in (low, high):
        return [piece]
    if low == high:
        return []
    return [replace(piece, closed_low=False) if at == low else replace(piece, closed_high=False)]


def _size(end: Node, budget: Budget) -> float:
    if infinity := infinity_of(end):
        return infinity * math.inf
    if variables(end):
        raise Undefined("an end without a size")
    return float(value(end, Point(), budget))
