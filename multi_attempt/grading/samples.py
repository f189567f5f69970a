r"""Where formulas are compared besides the points of ``values``: far out, and about every place where one may break.

``|x+4|`` is ``x+4`` between -4 and infinity, ``\lfloor n/20 \rfloor`` is 0 up to 19, and ``\lfloor\log_2 n\rfloor``
differs from a neighbour at powers of 2 alone. So the numbers that stand in the formulas say where to look.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, islice, product, zip_longest

from multi_attempt.grading.reading import Node
from multi_attempt.grading.values import coordinate

Places = tuple[tuple[str, Fraction], ...]
"""A value for each variable's name."""

_BREAKING = frozenset({"abs", "floor", "ceil", "max", "min", "mod", "gcd", "lcm"})
_ROUNDING = frozenset({"floor", "ceil", "mod", "gcd", "lcm"})
_LARGEST_CONSTANT = 10**6  # of which the size says how far out is far
_MOST_CONSTANTS = 8
_MOST_VARIABLES = 3
_FAR = 3  # times the largest constant
_SHARE = 4  # of the budget, that many times the nodes of both trees, goes into a point
_DRAW = 1_000  # the first number of the draws for far points
_WHOLE = (0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 15, 16, 17, 24, 25, 26, 27, 31, 32, 33, 48, 49, 50, 63, 64, 65, 81, 100, 125)


def far_points(nodes: tuple[Node, Node], names: list[str], integers: frozenset[str]) -> Iterator[Places]:
    """Points beyond the constants of both trees: positive, negative (but for whole numbers), and of both signs."""
    scale = _FAR * max(_constants(nodes), default=Fraction(1))
    for number, signs in enumerate(((1, 1), (-1, -1), (1, -1))):
        yield tuple(
            (name, _far(name, scale, number, signs[place % 2], name in integers)) for place, name in enumerate(names)
        )


def _far(name: str, scale: Fraction, number: int, sign: int, is_whole: bool) -> Fraction:
    size = scale * (2 + coordinate(name, _DRAW + number))
    return Fraction(round(size)) if is_whole else sign * size


def break_points(nodes: tuple[Node, Node], names: list[str], integers: frozenset[str], steps: int) -> Iterator[Places]:
    """Points on both sides of where the trees may break, and there; none if nothing in them breaks.

    Args:
        nodes: the two trees.
        names: their variables.
        integers: the names of those that are whole numbers.
        steps: what is left of the budget.
    """
    operations = [part for node in nodes for part in _parts(node)]
    rounds = any(part.op in _ROUNDING for part in operations)
    if not (rounds or any(part.op in _BREAKING or _is_even_root(part) for part in operations)):
        return
    constants = sorted(_constants(nodes))[:_MOST_CONSTANTS]
    lines = [_along(name, names, constants, integers, rounds) for name in names[:_MOST_VARIABLES]]
    found = (places for together in zip_longest(*lines) for places in together if places)
    yield from islice(found, max(0, steps // (_SHARE * len(operations))))


def _along(
    name: str, names: list[str], constants: list[Fraction], integers: frozenset[str], rounds: bool
) -> Iterator[Places]:
    """Points that differ in one variable."""
    is_whole = name in integers
    for place, size in enumerate(_sizes(constants, is_whole or rounds)):
        for sign in (1, -1):
            value = sign * size
            if is_whole and value.denominator != 1:
                continue
            others = ((other, _other(other, place, other in integers)) for other in names if other != name)
            yield tuple([(name, value), *others])


def _other(name: str, place: int, is_whole: bool) -> Fraction:
    draw = coordinate(name, _DRAW + place)
    return Fraction(round(5 + 4 * draw)) if is_whole else 3 * draw


def _sizes(constants: list[Fraction], whole: bool) -> Iterator[Fraction]:
    """Sizes at and about the constants, their ratios and products; and whole numbers about squares and powers."""
    pairs = [both for one, other in product(constants, constants) for both in (one / other, one * other)]
    seen: set[Fraction] = set()
    step = Fraction(1) if whole else Fraction(1, 3)
    about = [size for at in (*constants, *pairs) for size in (at, at + step, at - step, at * 2, at / 2)]
    for size in chain.from_iterable(zip_longest(about, map(Fraction, _WHOLE if whole else _WHOLE[:4]))):
        if size is not None and 0 <= size <= _LARGEST_CONSTANT and size not in seen:
            seen.add(size)
            yield size


def _constants(nodes: tuple[Node, Node]) -> set[Fraction]:
    found = {abs(part.value) for node in nodes for part in _parts(node) if part.op == "number"}
    return {value for value in found if 0 < value <= _LARGEST_CONSTANT}


def _parts(node: Node) -> Iterator[Node]:
    stack = [node]
    while stack:
        part = stack.pop()
        yield part
        stack.extend(part.args)


def _is_even_root(node: Node) -> bool:
    return node.op == "root" and node.args[1].value % 2 == 0 and node.args[0].op != "number"
