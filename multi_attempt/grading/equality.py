r"""What counts as equal: the rules for numbers, expressions, relations, lists, sets, intervals and matrices.

The table of rules, with examples each way, is ``tests/multi_attempt/equality_rules.yaml``; where a rule is a matter of
judgement it is a field of :class:`multi_attempt.grading.policies.Policies`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import chain
from typing import Any

from multi_attempt.grading.notation import Unreadable
from multi_attempt.grading.policies import Policies
from multi_attempt.grading.reading import Node, number
from multi_attempt.grading.regions import infinity_of, is_interval, label_of_conditions, merged, pieces_of
from multi_attempt.grading.relations import (
    FLIPPED,
    STRUCTURES,
    Relation,
    is_labelled,
    is_numbered,
    items_of,
    label_of,
    plus_minus,
    relation_of,
    renamed,
    same_label,
    substituted,
    unlabelled,
    values_in_order,
)
from multi_attempt.grading.samples import break_points, far_points
from multi_attempt.grading.tolerance import Tolerance
from multi_attempt.grading.units import conversion
from multi_attempt.grading.values import (
    FAR_DIGITS,
    LARGEST_BITS,
    POSITIVE_POINTS,
    SIGNED_POINTS,
    Budget,
    Point,
    TooLarge,
    Undefined,
    equal_at,
    exact,
    holds_divisors,
    holds_pi,
    value,
    variables,
)

# Points to compare formulas at, and how many of them are enough.
_SAMPLES = (
    (range(POSITIVE_POINTS), 4),
    (range(POSITIVE_POINTS, POSITIVE_POINTS + SIGNED_POINTS), 3),
)
_BOTH_SIGNS = (0, 1, 2, POSITIVE_POINTS, POSITIVE_POINTS + 1, POSITIVE_POINTS + 2, 3, 4)
_NOTHING_LEFT = 1e-30  # what is left of a difference by rounding
_FLOAT_DIGITS = 15
_MOST_ANSWERS = 60  # side by side, spelt differently on both sides; more are not compared in any order
_REGIONS = frozenset({"union", "minus", "both"})
_MARKS = frozenset({"remark", "compound", "unit", "degree", "percent", "base", "modulo"})


@dataclass
class Comparison:
    """One comparison of two trees.

    Attributes:
        policies: the judgement calls.
        budget: what it may cost.
        expands: whether a part may hold a plus-or-minus sign.
        tolerance: how far a number may be from the other one; None for exactly.
    """

    policies: Policies = field(default_factory=Policies)
    budget: Budget = field(default_factory=Budget)
    expands: bool = True
    tolerance: Tolerance | None = None

    def same(self, left: Node, right: Node) -> bool:
        """Whether two trees are equal.

        Raises:
            Unreadable: a part is beyond the rules: another layer must decide.
            TooLarge: a part is beyond the limits.
        """
        self.budget.spend()
        if left == right:
            return left.op != "relation" or relation_of(left, self.same) is not None
        if self.expands:
            left, right = plus_minus(left), plus_minus(right)
        if "relation" in (left.op, right.op):
            return self._same_relations(left, right)
        if left.op in _MARKS or right.op in _MARKS:
            return self._same_marks(left, right)
        if left.op in STRUCTURES or right.op in STRUCTURES:
            return self._same_structures(left, right)
        return self._same_values(left, right)

    # ---- Marks: units, degrees, percent, bases ----

    def _same_marks(self, left: Node, right: Node) -> bool:
        if any(node.op in _MARKS and node.args[0].op == node.op for node in (left, right)):
            return False  # 50%% is no percentage
        if left.op in _MARKS and right.op in _MARKS and left.op != right.op and "compound" not in (left.op, right.op):
            return False  # each may be left out, but 40% is not 40 degrees
        for mark, compare in (
            ("remark", self._same_remark),
            ("compound", self._same_compound),
            ("unit", self._same_unit),
            ("modulo", self._same_modulo),
            ("percent", self._same_percent),
            ("degree", self._same_degrees),
            ("base", self._same_base),
        ):
            if left.op == mark:
                return compare(left, right)
            if right.op == mark:
                return compare(right, left)
        raise AssertionError("a mark without a rule")

    def _same_remark(self, marked: Node, other: Node) -> bool:
        """Words that change a value are a part of it: 8 p.m. is neither 8 a.m. nor 8."""
        said = [re.sub(r"[\W_]", "", node.name).casefold() for node in (marked, other)]
        return other.op == "remark" and said[0] == said[1] and self.same(marked.args[0], other.args[0])

    def _same_compound(self, marked: Node, other: Node) -> bool:
        """7 ft 3 in is 87 in, and nothing without a unit."""
        if other.op == "compound":
            other = _in_last_unit(other)
        return other.op == "unit" and self._same_unit(_in_last_unit(marked), other)

    def _same_unit(self, marked: Node, other: Node) -> bool:
        if other.op == "unit":
            factor = conversion(marked.name, other.name)
            if factor is None:
                return False
            value = marked.args[0] if factor == 1 else Node("*", (marked.args[0], number(factor)))
            return self.same(value, other.args[0])
        return self.policies.bare_unit and other.op not in ("text", "ratio") and self.same(marked.args[0], other)

    def _same_modulo(self, marked: Node, other: Node) -> bool:
        if other.op == "modulo":
            return self.same(marked.args[1], other.args[1]) and self.same(marked.args[0], other.args[0])
        return self.policies.bare_base and self.same(marked.args[0], other)

    def _same_percent(self, marked: Node, other: Node) -> bool:
        if other.op == "percent":
            return self.same(marked.args[0], other.args[0])
        if self.policies.bare_percent and self.same(marked.args[0], other):
            return True
        return self.same(Node("/", (marked.args[0], number(100))), other)

    def _same_degrees(self, marked: Node, other: Node) -> bool:
        if other.op == "degree":
            return self.same(marked.args[0], other.args[0])
        if self.policies.bare_degrees and self.same(marked.args[0], other):
            return True
        radians = Node("/", (Node("*", (marked.args[0], Node("symbol", name=r"\pi"))), number(180)))
        return holds_pi(other) and self.same(radians, other)

    def _same_base(self, marked: Node, other: Node) -> bool:
        if other.op == "base":
            return marked.name == other.name and marked.args[0].value == other.args[0].value
        return self.policies.bare_base and other.op == "number" and other.value == marked.args[0].value

    # ---- Values ----

    def _same_values(self, left: Node, right: Node) -> bool:
        if infinity_of(left) or infinity_of(right):
            return infinity_of(left) == infinity_of(right)
        try:
            left_exact, right_exact = exact(left, self.budget), exact(right, self.budget)
        except Undefined:
            return False
        if left_exact is not None and right_exact is not None:
            if left_exact == right_exact:
                return True
            return (
                self._is_rounding(left, left_exact, right, right_exact)
                or self._is_rounding(right, right_exact, left, left_exact)
                or self._is_tolerated(left, right)
            )
        names = variables(left) | variables(right)
        if names:
            return self._same_everywhere(left, right)
        if self._rounds_to(left, left_exact, right) or self._rounds_to(right, right_exact, left):
            return True
        same = any(self._same_at(left, right, base) for base in _log_bases(left, right))
        return same or self._is_tolerated(left, right)

    def _same_at(self, left: Node, right: Node, log_base: int) -> bool:
        """Equality of constants, over the reals or, where they leave them, over the complex numbers."""
        for real in (True, False):
            try:
                return equal_at(left, right, Point(real=real, log_base=log_base), self.budget)
            except Undefined:
                continue
        return False

    def _same_everywhere(self, left: Node, right: Node) -> bool:
        integers = frozenset(self.policies.integers.split())
        if holds_divisors(left) or holds_divisors(right):
            integers = variables(left) | variables(right)
        return any(self._agree(left, right, integers, base) for base in _log_bases(left, right))

    def _agree(self, left: Node, right: Node, integers: frozenset[str], log_base: int) -> bool:
        """Equality at points where both are defined over the reals; where none is found, at complex values.

        Some of the points are positive (where most formulas are defined), some have both signs (``|x|`` is not ``x``).
        """
        seen = 0
        for numbers, enough in _SAMPLES:
            found = 0
            for at in numbers:
                same = self._equal_where_defined(left, right, Point(at, integers, True, log_base))
                if same is False:
                    return False
                found += same is True
                if found == enough:
                    break
            seen += found
        for point in self._other_points(left, right, integers, log_base):
            same = self._equal_where_defined(left, right, point)
            if same is False:
                return False
            seen += same is True
        if seen > 1:
            return True
        for at in _SAMPLES[0][0][:4]:
            same = self._equal_where_defined(left, right, Point(at, integers, False, log_base))
            if same is False:
                return False
            seen += same is True
        return seen > 1

    def _other_points(self, left: Node, right: Node, integers: frozenset[str], log_base: int = 0) -> Iterator[Point]:
        """Points far out, and about the places where a formula may break."""
        nodes, names = (left, right), sorted(variables(left) | variables(right))
        for places in far_points(nodes, names, integers):
            yield Point(0, integers, True, log_base, FAR_DIGITS, places)
        for places in break_points(nodes, names, integers, self.budget.steps):
            yield Point(0, integers, True, log_base, places=places)

    def _equal_where_defined(self, left: Node, right: Node, point: Point) -> bool | None:
        try:
            return equal_at(left, right, point, self.budget)
        except Undefined:
            return None
        except TooLarge:
            if self.budget.steps < 0:
                raise
            return None

    def _is_tolerated(self, left: Node, right: Node) -> bool:
        if self.tolerance is None:
            return False
        try:
            return self.tolerance.allows(*(value(node, Point(), self.budget) for node in (left, right)))
        except Undefined:
            return False

    def _is_rounding(self, decimal: Node, rounded: Fraction, other: Node, exactly: Fraction) -> bool:
        """Whether a decimal is cut or rounded from a fraction whose own decimals never end."""
        if _last_place(other) is not None or _terminates(exactly):
            return False
        return self._is_near(decimal, rounded, exactly, self.policies.rounded_digits)

    def _rounds_to(self, decimal: Node, rounded: Fraction | None, other: Node) -> bool:
        """Whether a decimal is cut or rounded from a constant that is no fraction."""
        if rounded is None or _last_place(decimal) is None:
            return False
        point, digits = Point(), self.policies.rounded_digits
        try:
            return self._is_near(decimal, point.constant(rounded), value(other, point, self.budget), digits - 1)
        except Undefined:
            return False

    def _is_near(self, decimal: Node, rounded: Any, exactly: Any, digits: int) -> bool:
        """Whether a decimal of enough digits after the point (and significant ones) is cut or rounded from a value."""
        place = _last_place(decimal)
        if place is None or not self.policies.rounded_digits or _digits_after_point(decimal) < digits:
            return False
        scale = type(rounded)(place.numerator) / place.denominator
        if abs(rounded) < scale * 10 ** (self.policies.rounded_digits - 1):
            return False
        if abs(rounded) >= scale * 10 ** (_FLOAT_DIGITS - 1):  # a float as it is printed: its last digit may be off
            return bool(abs(rounded - exactly) <= scale)
        cut = abs(exactly) - abs(rounded)
        return bool(2 * abs(rounded - exactly) <= scale or (rounded * exactly > 0 and 0 <= cut < scale))

    # ---- Structures ----

    def _same_structures(self, left: Node, right: Node) -> bool:
        if "text" in (left.op, right.op):
            return _same_text(left, right)
        if "builder" in (left.op, right.op):
            return left.op == right.op and self._same_built(left, right)
        if "piecewise" in (left.op, right.op):
            return left.op == right.op and self._same_pieces(list(left.args), list(right.args))
        left, right = _only_element(left), _only_element(right)
        if not {left.op, right.op} & STRUCTURES:
            return self.same(left, right)
        if "ratio" in (left.op, right.op):
            return self._same_ratios(left, right)
        if "matrix" in (left.op, right.op):
            return self._same_matrices(left, right)
        if left.op in _REGIONS or right.op in _REGIONS or (is_interval(left) and is_interval(right)):
            return self._same_regions(left, right)
        kinds = {left.op, right.op}
        if kinds <= {"several", "set"}:
            return self._same_several(left, right)
        if kinds == {"group"}:
            return self._same_groups(left, right)
        if kinds == {"group", "several"}:
            group, bare = (left, right) if left.op == "group" else (right, left)
            values = values_in_order(bare.args) if is_labelled(bare) else bare.args
            return group.name == "()" and self._same_in_order(group.args, values)
        if "several" in kinds and not kinds <= STRUCTURES:
            several, value = (left, right) if left.op == "several" else (right, left)
            return several.name == "or" and all(self.same(item, value) for item in several.args)  # 1/2 or 50%
        return False

    def _same_built(self, left: Node, right: Node) -> bool:
        """Whether sets have the same elements, with the same conditions, whatever they call them."""
        names = [sorted(variables(built.args[0])) for built in (left, right)]
        if len(names[0]) == len(names[1]) == 1 and names[0] != names[1]:
            new, old = (Node("symbol", name=name) for [name] in names)
            right = substituted(right, old, new)
        return self._same_in_order(left.args, right.args)

    def _same_pieces(self, left: list[Node], right: list[Node]) -> bool:
        """Whether the pieces of functions are the same, in any order; the last condition may be "otherwise"."""
        if len(left) != len(right):
            return False
        for piece in left:
            found = next((other for other in right if self._same_in_order(piece.args, other.args)), None)
            if found is not None:
                right = [other for other in right if other is not found]
                left = [other for other in left if other is not piece]
        if not left:
            return True
        conditions = [piece.args[1].name for piece in (*left, *right)]
        return len(left) == 1 and "otherwise" in conditions and self.same(left[0].args[0], right[0].args[0])

    def _same_in_order(self, left: Sequence[Node], right: Sequence[Node]) -> bool:
        return len(left) == len(right) and all(map(self.same, left, right))

    def _same_groups(self, left: Node, right: Node) -> bool:
        # Of two parts the brackets say which ends belong to an interval; longer ones are vectors.
        if left.name != right.name and (len(left.args) < 3 or not {left.name, right.name} <= {"()", "[]"}):
            return False
        return self._same_in_order(left.args, right.args)

    def _same_several(self, left: Node, right: Node) -> bool:
        left_items, right_items = items_of(left), items_of(right)
        if is_labelled(left) or is_labelled(right):
            first, second = ({label_of(item): item for item in items} for items in (left_items, right_items))
            if is_labelled(left) and is_labelled(right):
                if first.keys() != second.keys():  # the labels are then compared, too: some may say the same
                    return self._same_in_order(left_items, right_items)
                return all(self.same(item, second[label]) for label, item in first.items())
            if is_numbered(left_items) != is_numbered(right_items):  # the roots of an equation
                return self._same_in_any_order(list(map(unlabelled, left_items)), list(map(unlabelled, right_items)))
            if all(label_of(item) is not None for item in (*left.args, *right.args)):  # x = 2, y = 3 and x = 2, x = 3
                return self._same_in_any_order(list(left.args), list(right.args))
            return self._same_in_order(values_in_order(left_items), values_in_order(right_items))
        if not self.policies.any_order and "set" not in (left.op, right.op):
            return self._same_in_order(left_items, right_items)
        return self._same_in_any_order(left_items, right_items, right.op == "set")

    def _same_in_any_order(self, left: list[Node], right: list[Node], is_set: bool = True) -> bool:
        """Whether an answer's items (left) are the gold answer's; one that this repeats must be met in number."""
        answers, golds = left, right
        common = Counter(left) & Counter(right)
        left, right = list((Counter(left) - common).elements()), list((Counter(right) - common).elements())
        if not left and not right:
            return True
        if max(len(left), len(right)) > _MOST_ANSWERS:
            return False
        if len(left) != len(right):
            # A repeated answer adds none, unless it is all there is: (-2, -2) are two roots.
            left, right = self._distinct(answers), self._distinct(golds)
            if len(left) != len(right) or len(left) < 2 or (len(right) < len(golds) and not is_set):
                return False
        unmatched = list(right)
        for item in left:
            for index, other in enumerate(unmatched):
                if self.same(item, other):
                    del unmatched[index]
                    break
            else:
                return False
        return True

    def _distinct(self, items: list[Node]) -> list[Node]:
        distinct: list[Node] = []
        for item in items:
            if not any(self.same(item, other) for other in distinct):
                distinct.append(item)
        return distinct

    def _same_matrices(self, left: Node, right: Node) -> bool:
        if left.op == right.op:
            shapes = [(len(matrix.args), len(matrix.args[0].args) if matrix.args else 0) for matrix in (left, right)]
            return shapes[0] == shapes[1] and all(
                self._same_in_order(row.args, other.args) for row, other in zip(left.args, right.args, strict=True)
            )
        matrix, other = (left, right) if left.op == "matrix" else (right, left)
        if other.op in ("group", "several") and self.policies.vector_as_tuple:
            entries = [entry for row in matrix.args for entry in row.args]
            is_vector = len(matrix.args) == 1 or all(len(row.args) == 1 for row in matrix.args)
            return is_vector and self._same_in_order(entries, other.args)
        if other.op in STRUCTURES:
            return False
        raise Unreadable("matrix arithmetic")

    def _same_ratios(self, left: Node, right: Node) -> bool:
        if left.op != right.op:
            ratio, other = (left, right) if left.op == "ratio" else (right, left)
            if len(ratio.args) != 2 or other.op in STRUCTURES or _is_time(ratio):
                return False
            return self.same(Node("/", ratio.args), other)
        if len(left.args) != len(right.args):
            return False
        if self._same_in_order(left.args, right.args):
            return True
        if left.name == right.name == "time" or _is_time(left) or _is_time(right):
            return False  # half past two is not a quarter past one
        if any(exact(part, self.budget) == 0 for part in (*left.args, *right.args)):
            return False
        (first, *rest), (other, *others) = left.args, right.args
        return all(
            self.same(Node("/", (part, first)), Node("/", (counterpart, other)))
            for part, counterpart in zip(rest, others, strict=True)
        )

    # ---- Relations ----

    def _same_relations(self, left: Node, right: Node) -> bool:
        if left.op != "relation" or right.op != "relation":
            relation, other = (left, right) if left.op == "relation" else (right, left)
            return self._same_as_value(relation_of(relation, self.same), other)
        first, second = relation_of(left, self.same), relation_of(right, self.same)
        if first is None or second is None:
            return False
        if first.kind == second.kind == "value":
            if same_label(first.label, second.label):
                return self.same(*self._with_same_parameter(*renamed(first, second), first, second))
            return self._same_equations(first, second)
        if {first.kind, second.kind} <= {"value", "equation"}:
            return self._same_equations(first, second)
        if first.kind == second.kind == "chain":
            return self._same_chains(first, second)
        if "region" in (first.kind, second.kind) and {first.kind, second.kind} <= {"region", "value"}:
            return same_label(first.label, second.label) and self.same(first.value, second.value)
        if {first.kind, second.kind} == {"region", "chain"}:
            return self._same_chains(first, second)
        return False

    def _with_same_parameter(self, left: Node, right: Node, first: Relation, second: Relation) -> tuple[Node, Node]:
        """Both values, with one name for the whole number that solutions run through: 2 pi k, 2 pi n."""
        fixed = {name for relation in (first, second) if relation.label for name in variables(relation.label)}
        whole = set(self.policies.integers.split()) - fixed
        one, other = variables(left) & whole, variables(right) & whole
        if len(one) == len(other) == 1 and one != other:
            [new], [old] = one, other
            right = substituted(right, Node("symbol", name=old), Node("symbol", name=new))
        return left, right

    def _same_as_value(self, relation: Relation | None, other: Node) -> bool:
        if relation is None or relation.kind not in ("value", "region"):
            return False
        if other.op in ("several", "both") and (label := label_of_conditions(other)) is not None:
            return same_label(relation.label, label) and self._same_regions(relation.value, other)
        if not self.policies.bare_label and relation.label is not None:
            return False
        if relation.kind == "region" and other.op not in ("group", "union", "minus", "set", "symbol"):
            return relation.value.op == "set" and other.op == "several" and self.same(relation.value, other)
        return self.same(relation.value, other)

    def _same_equations(self, first: Relation, second: Relation) -> bool:
        """Whether the differences of both sides are proportional."""
        if len(first.parts) != 2 or len(second.parts) != 2:
            return False
        if self._same_in_order(first.parts, second.parts) or self._same_in_order(first.parts, second.parts[::-1]):
            return True
        if any(part.op in STRUCTURES for relation in (first, second) for part in relation.parts):
            return False
        factor = self._factor(_difference(*first.parts), _difference(*second.parts))
        return factor is not None

    def _same_chains(self, first: Relation, second: Relation) -> bool:
        """Whether inequalities agree part by part, or, of two parts, by the sign of their difference."""
        if len(first.parts) != len(second.parts):
            return False
        if "in" in (*first.signs, *second.signs):
            return first.signs == second.signs and self._same_in_order(first.parts, second.parts)
        if first.signs == second.signs and self._same_in_order(first.parts, second.parts):
            return True
        flipped = [FLIPPED[sign] for sign in reversed(second.signs)]
        if first.signs == flipped and self._same_in_order(first.parts, second.parts[::-1]):
            return True
        if len(first.parts) != 2 or any(part.op in STRUCTURES for part in (*first.parts, *second.parts)):
            return False
        factor = self._factor(_difference(*first.parts), _difference(*second.parts))
        if factor is None:
            return False
        return first.signs == second.signs if factor > 0 else [FLIPPED[first.signs[0]]] == second.signs

    def _factor(self, first: Node, second: Node) -> float | None:
        """The constant that one tree is a multiple of the other by; None if there is none, or it is 0."""
        if not variables(first) and not variables(second):
            return None
        factor, seen = None, 0
        near = (Point(at) for at in _BOTH_SIGNS)
        for point in chain(near, self._other_points(first, second, frozenset())):
            try:
                above, below = value(first, point, self.budget), value(second, point, self.budget)
            except Undefined:
                continue
            except TooLarge:
                if not point.places or self.budget.steps < 0:
                    raise
                continue
            if point.places:
                above, below = (0 if abs(size) < _NOTHING_LEFT else size for size in (above, below))
            if not above or not below:
                if bool(above) != bool(below):
                    return None
                continue
            if factor is None:
                factor = above / below
            elif abs(above / below - factor) > abs(factor) * 1e-25:
                return None
            seen += 1
        return float(factor) if factor is not None and seen >= 3 else None

    # ---- Intervals and unions ----

    def _same_regions(self, left: Node, right: Node) -> bool:
        first, second = pieces_of(left, self.budget), pieces_of(right, self.budget)
        if first is None or second is None:
            if left.op == right.op in ("union", "both"):
                return self._same_in_any_order(list(left.args), list(right.args))
            return left.op == right.op and self._same_in_order(left.args, right.args)
        first, second = merged(first, self.budget), merged(second, self.budget)
        return len(first) == len(second) and all(
            (one.closed_low, one.closed_high) == (other.closed_low, other.closed_high)
            and self.same(one.low, other.low)
            and self.same(one.high, other.high)
            for one, other in zip(first, second, strict=True)
        )


def _only_element(node: Node) -> Node:
    """The only element of a set, which may stand for it; the set itself where it has none, or several."""
    return node.args[0] if node.op == "set" and len(node.args) == 1 and node.args[0] != Node("set") else node


def _is_time(ratio: Node) -> bool:
    """Whether a ratio is a time of day: it is written like one, and a ratio would be written in lower terms."""
    return ratio.name == "time" and math.gcd(*(part.value.numerator for part in ratio.args)) != 1


def _in_last_unit(compound: Node) -> Node:
    """A quantity in several units in the smallest of them."""
    last = compound.args[-1].name
    sizes = [conversion(part.name, last) or 0 for part in compound.args]
    parts = [Node("*", (*part.args, number(size))) for part, size in zip(compound.args, sizes, strict=True)]
    return Node("unit", (Node("+", tuple(parts)),), last)


def _difference(left: Node, right: Node) -> Node:
    return Node("+", (left, Node("neg", (right,))))


def _log_bases(*nodes: Node) -> Iterator[int]:
    """What a logarithm without a base may mean: base e, or 10."""
    yield 0
    if any(_has_bare_log(node) for node in nodes):
        yield 10


def _has_bare_log(node: Node) -> bool:
    return (node.op == "log" and len(node.args) == 1) or any(map(_has_bare_log, node.args))


def _terminates(fraction: Fraction) -> bool:
    denominator = fraction.denominator
    if denominator.bit_length() > 4096:
        return False
    for prime in (2, 5):
        while denominator % prime == 0:
            denominator //= prime
    return denominator == 1


def _last_place(node: Node) -> Fraction | None:
    """The value of the last digit of a number written as a decimal, also as a multiple of a power of ten."""
    if node.op == "number":
        return Fraction(1, 10**node.places) if node.places > 0 else None
    if node.op == "neg":
        return _last_place(node.args[0])
    if node.op == "*" and len(node.args) == 2:
        place, scale = _last_place(node.args[0]), _power_of_ten(node.args[1])
        return place * scale if place is not None and scale is not None else None
    return None


def _digits_after_point(node: Node) -> int:
    """Of a number written as a decimal, also as a multiple of a power of ten."""
    return node.places if node.op == "number" else _digits_after_point(node.args[0])


def _power_of_ten(node: Node) -> Fraction | None:
    if node.op == "number":
        largest = max(node.value.as_integer_ratio())
        is_power = largest > 0 and 10 ** round(math.log10(largest)) == largest and 1 in node.value.as_integer_ratio()
        return node.value if is_power else None
    if node.op != "^" or node.args[0] != number(10):
        return None
    exponent = node.args[1]
    sign = 1
    if exponent.op == "neg":
        exponent, sign = exponent.args[0], -1
    if exponent.op != "number" or exponent.value.denominator != 1 or exponent.value > LARGEST_BITS // 4:
        return None
    return Fraction(10) ** (sign * exponent.value.numerator)


_NOTHING = frozenset({"emptyset", "none", "nosolution", "nosolutions", "norealsolution", "norealsolutions"})


def _same_text(left: Node, right: Node) -> bool:
    first, second = _letters(left), _letters(right)
    return first is not None and (first == second or {first, second} <= _NOTHING)


def same_words(left: str, right: str) -> bool:
    """Whether two normalised texts say the same, whatever their case and punctuation."""
    return _same_text(Node("text", name=_plain_words(left)), Node("text", name=_plain_words(right)))


def _plain_words(normal: str) -> str:
    return re.sub(r"\\(?:text|mathrm|mbox|textbf|textit)(?![a-zA-Z])", "", normal)


def _letters(node: Node) -> str | None:
    """What a text says: its letters and digits, whatever their case; also of words that were read as a product."""
    if node.op == "text":
        return re.sub(r"[^\w+\-:/<>=]", "", node.name).casefold()
    if node.op == "symbol":
        return node.name.casefold()
    if node == Node("set"):
        return "emptyset"
    if node.op == "*":
        letters = [_letters(part) for part in node.args]
        return None if None in letters else "".join(part or "" for part in letters)
    if node.op == "group" and len(node.args) == 1:
        return _letters(node.args[0])
    return None
