"""The value of a tree: exact where it is rational, otherwise to many digits, at points where it has variables.

Bounded by construction, since no clock stops a computation that holds the interpreter lock: every operation costs steps
of a :class:`Budget`, exact numbers have at most :data:`LARGEST_BITS` bits, and the arguments of every function are
limited before it is called.
"""

from __future__ import annotations

import math
import random
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import lru_cache
from typing import Any

from mpmath import MPContext

from multi_attempt.grading.notation import Unreadable
from multi_attempt.grading.reading import Node

LARGEST_BITS = 1 << 16
"""Of a numerator or denominator."""

STEPS = 5_000
"""Operations on small numbers that one case may cost."""

_LARGEST_POWER = 1e6  # |exponent * log(base)|, so that a result has at most some 1.5 million bits of exponent
_LARGEST_ANGLE = 1e9
_LARGEST_GAMMA = 1e4
_LARGEST_FACTORIAL = 3_000

CONSTANTS = frozenset({r"\pi", "e", "i", r"\infty"})
"""Symbols that are no variables."""


class Undefined(Exception):
    """No value: a division by zero, or a root of a negative number over the reals."""


class TooLarge(Exception):
    """A value, or the work to find it, is beyond the limits."""


@dataclass
class Budget:
    """Steps left for a case."""

    steps: int = STEPS

    def spend(self, steps: int = 1) -> None:
        """Raises :class:`TooLarge` when nothing is left."""
        self.steps -= steps
        if self.steps < 0:
            raise TooLarge("steps")


# ---- Exact values ----


def exact(node: Node, budget: Budget) -> Fraction | None:
    """The value of a tree that is rational by its form; None if it may not be.

    Raises:
        Undefined: a division by zero.
        TooLarge: beyond :data:`LARGEST_BITS`, or the budget.
    """
    if node.op == "number":
        return node.value
    operation = _EXACT.get(node.op)
    if operation is None:
        return None
    values = []
    for part in node.args:
        value = exact(part, budget)
        if value is None:
            return None
        values.append(value)
    if node.op in ("!", "binom"):
        budget.spend(min(abs(int(values[0])), _LARGEST_FACTORIAL) >> 3)
    result = operation(*values)
    if result is None:
        return None
    above, below = result.numerator.bit_length(), result.denominator.bit_length()
    if above + below > LARGEST_BITS:
        raise TooLarge("bits")
    # A step is some microseconds: large numbers cost by their length, large fractions, to reduce, by its square.
    budget.spend(1 + (above + below >> 8) + (above * below >> 18))
    return result


def _divide(above: Fraction, below: Fraction) -> Fraction:
    if not below:
        raise Undefined("division by zero")
    return above / below


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    if exponent.denominator != 1:
        return None
    power = exponent.numerator
    if not base:
        if power <= 0:
            raise Undefined("power of zero")
        return base
    if abs(base) == 1:
        return base if power % 2 else Fraction(1)
    if abs(power) * max(base.numerator.bit_length(), base.denominator.bit_length()) > LARGEST_BITS:
        raise TooLarge("bits")
    return base**power


def _exact_root(radicand: Fraction, index: Fraction) -> Fraction | None:
    if index != 2 or radicand < 0:
        return None
    above, below = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
    return Fraction(above, below) if above**2 == radicand.numerator and below**2 == radicand.denominator else None


def _factorial(value: Fraction) -> Fraction | None:
    if value.denominator != 1 or value < 0:
        return None
    if value > _LARGEST_FACTORIAL:
        raise TooLarge("factorial")
    return Fraction(math.factorial(value.numerator))


def _binomial(above: Fraction, below: Fraction) -> Fraction | None:
    if above.denominator != 1 or below.denominator != 1 or above < 0 or below < 0:
        return None
    if above > _LARGEST_FACTORIAL:
        raise TooLarge("binomial")
    return Fraction(math.comb(above.numerator, below.numerator))


def _modulo(value: Fraction, modulus: Fraction) -> Fraction:
    if not modulus:
        raise Undefined("modulo zero")
    return value % modulus


def _integers(function: Callable[..., int]) -> Callable[..., Fraction | None]:
    def of_integers(*values: Fraction) -> Fraction | None:
        if any(value.denominator != 1 for value in values):
            return None
        return Fraction(function(*(value.numerator for value in values)))

    return of_integers


def _product(*values: Fraction) -> Fraction:
    product = values[0]
    for value in values[1:]:
        product *= value
        if product.numerator.bit_length() + product.denominator.bit_length() > LARGEST_BITS:
            raise TooLarge("bits")
    return product


def _total(*values: Fraction) -> Fraction:
    total = values[0]
    for value in values[1:]:
        total += value
        if total.denominator.bit_length() > LARGEST_BITS:
            raise TooLarge("bits")
    return total


_EXACT: dict[str, Callable[..., Fraction | None]] = {
    "+": _total,
    "*": _product,
    "/": _divide,
    "^": _power,
    "neg": lambda value: -value,
    "root": _exact_root,
    "!": _factorial,
    "binom": _binomial,
    "mod": _modulo,
    "abs": abs,
    "floor": lambda value: Fraction(math.floor(value)),
    "ceil": lambda value: Fraction(math.ceil(value)),
    "percent": lambda value: value / 100,
    "unit": lambda value: value,
    "max": lambda *values: max(values),
    "min": lambda *values: min(values),
    "gcd": _integers(math.gcd),
    "lcm": _integers(math.lcm),
}


# ---- Values to many digits ----

_contexts = threading.local()


def context(digits: int) -> Any:
    """mpmath's arithmetic with so many digits; one for each thread, since its functions change it while they run."""
    contexts = _contexts.__dict__.setdefault("by_digits", {})
    if digits not in contexts:
        contexts[digits] = MPContext()
        contexts[digits].dps = digits
    return contexts[digits]


@lru_cache(maxsize=4096)
def coordinate(name: str, number: int) -> Fraction:
    """A draw for a name, between -1.2 and 1.2, the same in every process."""
    return Fraction(random.Random(zlib.crc32(name.encode()) + number).uniform(-1.2, 1.2)).limit_denominator(10**6)


def variables(node: Node) -> frozenset[str]:
    """The names of a tree's variables (and of its unknown functions)."""
    found: set[str] = set()
    stack = [node]
    while stack:
        part = stack.pop()
        if (part.op == "symbol" and part.name not in CONSTANTS) or part.op == "call":
            found.add(part.name)
        stack.extend(part.args)
    return frozenset(found)


def holds_divisors(node: Node) -> bool:
    """Whether a greatest common divisor, or a least common multiple, is a part of a tree."""
    return node.op in ("gcd", "lcm") or any(map(holds_divisors, node.args))


def holds_pi(node: Node) -> bool:
    """Whether pi is a part of a tree."""
    return (node.op == "symbol" and node.name == r"\pi") or any(map(holds_pi, node.args))


@dataclass(frozen=True)
class Point:
    """Where trees are evaluated; the same name has the same coordinate in every tree.

    Attributes:
        number: which point, up to :data:`POSITIVE_POINTS` plus :data:`SIGNED_POINTS`.
        integers: names that take integers only.
        real: over the reals: roots and logarithms of negative numbers are undefined.
        log_base: of a logarithm without a base: 0 for e.
        digits: of the arithmetic.
        places: values of variables; if there are any, the number says nothing.
    """

    number: int = 0
    integers: frozenset[str] = frozenset()
    real: bool = True
    log_base: int = 0
    digits: int = 50
    places: tuple[tuple[str, Fraction], ...] = ()

    def constant(self, number: Fraction) -> Any:
        """A rational number in the point's arithmetic."""
        return context(self.digits).mpf(number.numerator) / number.denominator

    def coordinate(self, name: str) -> Any:
        """A variable's value."""
        for given, number in self.places:
            if given == name:
                return self.constant(number)
        draw = coordinate(name, self.number)
        mp = context(self.digits)
        if name in self.integers:
            return mp.mpf(round(6 + 4 * draw) + self.number)
        value = mp.exp(mp.mpf(draw.numerator) / draw.denominator)
        negative = self.number == POSITIVE_POINTS or (self.number > POSITIVE_POINTS and draw.numerator % 2)
        return -value if negative else value


POSITIVE_POINTS = 8
"""Points whose coordinates are all positive. At the next all are negative, and the later ones have both signs."""

SIGNED_POINTS = 5
"""Points that follow."""


def value(node: Node, point: Point, budget: Budget) -> Any:
    """A tree's value at a point, as an mpmath number.

    Raises:
        Undefined: it has none there.
        TooLarge: beyond the limits.
        Unreadable: the tree is no expression.
    """
    return _Evaluation(point, budget).of(node)


class _Evaluation:
    def __init__(self, point: Point, budget: Budget) -> None:
        self._point = point
        self._budget = budget
        self._mp = context(point.digits)
        self._coordinates: dict[str, Any] = {}

    def of(self, node: Node) -> Any:
        self._budget.spend()
        if node.op == "number":
            return self._point.constant(node.value)
        if node.op == "symbol":
            return self._symbol(node.name)
        if node.op == "log":
            return self._log(node)
        operation = _OPERATIONS.get(node.op)
        if operation is None:
            raise Unreadable(node.op)
        values = [self.of(part) for part in node.args]
        result = operation(self, node, *values)
        if not self._mp.isfinite(result):
            raise Undefined(node.op)
        return result

    def _symbol(self, name: str) -> Any:
        if name == r"\pi":
            return +self._mp.pi
        if name == "e":
            return +self._mp.e
        if name == "i":
            if self._point.real:
                raise Undefined("i")
            return self._mp.mpc(0, 1)
        if name == r"\infty":
            raise Undefined("infinity")
        if name not in self._coordinates:
            self._coordinates[name] = self._point.coordinate(name)
        return self._coordinates[name]

    def _real(self, result: Any, defined: bool) -> Any:
        if self._point.real and not defined:
            raise Undefined("over the reals")
        return result

    def _limit(self, size: Any, largest: float) -> None:
        if size > largest:
            raise TooLarge("argument")

    def _divide(self, above: Any, below: Any) -> Any:
        if not below:
            raise Undefined("division by zero")
        return above / below

    def power(self, base: Any, exponent: Any) -> Any:
        mp = self._mp
        if not base:
            if mp.re(exponent) <= 0:
                raise Undefined("power of zero")
            return base
        self._limit(abs(exponent) * (abs(mp.mag(base)) + 1), _LARGEST_POWER)
        if mp.isint(exponent):
            return base ** int(mp.re(exponent))
        if self._point.real and base < 0:
            raise Undefined("over the reals")
        return mp.power(base, exponent)

    def root(self, radicand: Any, index: Any) -> Any:
        mp = self._mp
        if not mp.isint(index) or not 1 < mp.re(index) < 1000:  # a whole number may come as a complex one
            return self.power(radicand, self._divide(mp.mpf(1), index))
        index = mp.re(index)
        if index == 2:
            if self._point.real and radicand < 0:
                raise Undefined("over the reals")
            return mp.sqrt(radicand)
        if not mp.im(radicand) and mp.re(radicand) < 0:
            if int(index) % 2:
                return -mp.root(-mp.re(radicand), int(index))
            self._real(None, False)
        return mp.root(radicand, int(index))

    def log(self, argument: Any) -> Any:
        if not argument or (self._point.real and argument < 0):
            raise Undefined("logarithm")
        return self._mp.log(argument)

    def _log(self, node: Node) -> Any:
        logarithm = self.log(self.of(node.args[0]))
        if len(node.args) == 2:
            return self._divide(logarithm, self.log(self.of(node.args[1])))
        return logarithm / self._mp.log(self._point.log_base) if self._point.log_base else logarithm

    def exp(self, argument: Any) -> Any:
        self._limit(abs(argument), _LARGEST_POWER)
        return self._mp.exp(argument)

    def angle(self, name: str, argument: Any) -> Any:
        """A function of an angle, or a hyperbolic one."""
        mp = self._mp
        self._budget.spend(2)
        self._limit(abs(argument), _LARGEST_ANGLE if not mp.im(argument) and name[-1] != "h" else 1e4)
        if name in _RECIPROCAL:
            return self._divide(mp.mpf(1), getattr(mp, _RECIPROCAL[name])(argument))
        return getattr(mp, name)(argument)

    def inverse(self, name: str, argument: Any) -> Any:
        mp = self._mp
        self._budget.spend(4)
        self._limit(abs(argument), _LARGEST_ANGLE)
        if name in ("asin", "acos") and self._point.real and abs(argument) > 1:
            raise Undefined("over the reals")
        if name == "acot":
            return mp.pi / 2 - mp.atan(argument)
        if name in ("acosh", "atanh"):
            if self._point.real and ((name == "acosh" and argument < 1) or (name == "atanh" and abs(argument) >= 1)):
                raise Undefined("over the reals")
            if name == "atanh" and abs(argument) == 1:
                raise Undefined("pole")
        return getattr(mp, name)(argument)

    def gamma(self, argument: Any) -> Any:
        mp = self._mp
        self._budget.spend(20 if mp.isint(argument) else 150)
        self._limit(abs(argument), _LARGEST_GAMMA)
        if mp.isint(argument) and mp.re(argument) <= 0:
            raise Undefined("factorial of a negative number")
        return mp.gamma(argument)

    def binomial(self, above: Any, below: Any) -> Any:
        return self._divide(self.gamma(above + 1), self.gamma(below + 1) * self.gamma(above - below + 1))

    def whole(self, name: str, argument: Any) -> Any:
        if self._mp.im(argument):
            raise Undefined(name)
        self._limit(abs(argument), 10.0 ** (self._point.digits // 2))
        nearest = self._mp.nint(argument)  # the logarithm of 8 to base 2 is 3, and not a little less
        is_whole = abs(argument - nearest) < self._mp.mpf(10) ** (-(self._point.digits * 2) // 5)
        return nearest if is_whole else getattr(self._mp, name)(argument)

    def modulo(self, number: Any, modulus: Any) -> Any:
        if not modulus or self._mp.im(number) or self._mp.im(modulus):
            raise Undefined("modulo")
        self._limit(abs(number / modulus), 1e20)
        return number - modulus * self.whole("floor", number / modulus)

    def extreme(self, choose: Callable[..., Any], *values: Any) -> Any:
        if any(self._mp.im(number) for number in values):
            raise Undefined("order")
        return choose(self._mp.re(number) for number in values)

    def divisors(self, function: Callable[..., int], *values: Any) -> Any:
        if not all(self._mp.isint(number) and self._mp.re(number) > 0 for number in values):
            raise Undefined("divisors of what is no positive whole number")
        self._limit(max(map(abs, values)), _LARGEST_ANGLE)
        return self._mp.mpf(function(*(int(self._mp.re(number)) for number in values)))

    def call(self, name: str, *arguments: Any) -> Any:
        """An unknown function: smooth and arbitrary, the same wherever its name is the same."""
        mp = self._mp
        result = mp.mpf(1)
        for number, argument in enumerate(arguments):
            self._limit(abs(argument), 1e4)
            result += mp.sin(argument * self._point.constant(coordinate(f"{name}()", number)) + 1) + argument / 7
        return result


_RECIPROCAL = {"cot": "tan", "sec": "cos", "csc": "sin"}


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "+": lambda at, node, *values: sum(values[1:], start=values[0]),
    "*": lambda at, node, *values: math.prod(values[1:], start=values[0]),
    "/": lambda at, node, above, below: at._divide(above, below),
    "^": lambda at, node, base, exponent: at.power(base, exponent),
    "neg": lambda at, node, number: -number,
    "root": lambda at, node, radicand, index: at.root(radicand, index),
    "abs": lambda at, node, number: abs(number),
    "!": lambda at, node, number: at.gamma(number + 1),
    "binom": lambda at, node, above, below: at.binomial(above, below),
    "floor": lambda at, node, number: at.whole("floor", number),
    "ceil": lambda at, node, number: at.whole("ceil", number),
    "mod": lambda at, node, number, modulus: at.modulo(number, modulus),
    "percent": lambda at, node, number: number / 100,
    "unit": lambda at, node, number: number,
    "degree": lambda at, node, number: number * at._mp.pi / 180,
    "ln": lambda at, node, number: at.log(number),
    "exp": lambda at, node, number: at.exp(number),
    "max": lambda at, node, *values: at.extreme(max, *values),
    "min": lambda at, node, *values: at.extreme(min, *values),
    "gcd": lambda at, node, *values: at.divisors(math.gcd, *values),
    "lcm": lambda at, node, *values: at.divisors(math.lcm, *values),
    "call": lambda at, node, *arguments: at.call(node.name, *arguments),
    **{name: lambda at, node, number: at.angle(node.op, number)
       for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh")},
    **{f"arc{name}": lambda at, node, number: at.inverse("a" + node.op[3:], number)
       for name in ("sin", "cos", "tan", "cot", "sinh", "cosh", "tanh")},
}  # fmt: skip


# ---- Equality of values ----

_CLOSE = 35  # digits to which equal values agree, of 50
_FINER = 120  # digits for the second look
FAR_DIGITS = 120
"""Digits far out, where large terms may cancel."""


def equal_at(left: Node, right: Node, point: Point, budget: Budget) -> bool:
    """Whether two trees have the same value at a point; raises as :func:`value` does.

    Two numbers that agree to :data:`_CLOSE` digits are equal. Where rounding could hide or feign a difference (nearly
    equal, or nearly zero by cancellation), a second look with more digits decides: what was rounding has shrunk.
    """
    first, second = value(left, point, budget), value(right, point, budget)
    difference, size = abs(first - second), max(abs(first), abs(second))
    mp = context(point.digits)
    if difference <= size * mp.mpf(10) ** -_CLOSE:
        return True
    if difference > size * 1e-6 and size > 1e-12 and min(abs(first), abs(second)) > size * 1e-20:
        return False
    finer = replace(point, digits=_FINER if point.digits < _FINER else 2 * _FINER)
    first, second = value(left, finer, budget), value(right, finer, budget)
    closer, size = abs(first - second), max(abs(first), abs(second))
    mp = context(finer.digits)
    return bool(
        closer <= size * mp.mpf(10) ** (-finer.digits + 15) or closer <= difference * mp.mpf(10) ** -(_FINER // 3)
    )
