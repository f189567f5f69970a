"""Sets of real numbers: intervals and points, put in order, those that touch made one."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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
        relation = relation_of(node, Node.__eq__)
        return pieces_of(relation.value, budget) if relation is not None and relation.kind == "region" else None
    if node.op in ("union", "several"):
        pieces: list[Piece] = []
        for part in node.args:
            found = pieces_of(part, budget)
            if found is None:
                return None
            pieces.extend(found)
        return pieces
    if node.op == "minus" and node.args[1].op == "set":
        remaining = pieces_of(node.args[0], budget)
        for item in items_of(node.args[1]) if remaining else []:
            remaining = [part for piece in remaining or [] for part in _without(piece, item, budget)]
        return remaining
    return None


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
