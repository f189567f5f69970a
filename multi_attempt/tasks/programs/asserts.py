"""Tests that are Python statements, taken apart: what the program is asked, and what has to be true of its answers.

A program of a model can do what it likes with all that shares a process with it, also with the asserts that test it. So
``assert abs(f(2) - 4.0) < 0.1`` is never run there: the program's sandbox is asked for ``f(2)``, and ``abs(asked - 4.0)
< 0.1`` is worked out where nothing of the program runs. A lie about ``f(2)`` is worth what a function is that returns
it. A test is refused if it would have the program's sandbox work out anything else.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

_BUILTINS = frozenset(
    "abs all any bin bool bytes chr complex dict divmod enumerate filter float frozenset hash hex int isinstance iter "
    "len list map max min next oct ord pow range repr reversed round set slice sorted str sum tuple type zip".split()
)
_CHAIN = (ast.Call, ast.Attribute, ast.Subscript)

# Methods of what a program returns that say whether something is so: it could say yes by itself.
_OWN_WORD = frozenset(
    name
    for kind in (str, bytes, int, float, list, dict, set, tuple)
    for name in dir(kind)
    if name.startswith(("is", "__")) or name in ("startswith", "endswith")
)


@dataclass(frozen=True)
class Assertion:
    """An assert, taken apart.

    Attributes:
        source: the assert without its message.
        check: an expression that has to be true, in which names stand for what was asked.
        names: those names.
        asked: the expressions that the program is asked for, one a name.
        expected: the other side, where the check is ``asked == other``; else empty.
    """

    source: str
    check: str
    names: list[str]
    asked: list[str]
    expected: str


@dataclass(frozen=True)
class Test:
    """One test.

    Attributes:
        before: statements that run in the program's sandbox before anything is asked.
        asserts: at least one.
    """

    before: str
    asserts: list[Assertion]

    @property
    def asked(self) -> dict[str, Any]:
        """What the program's sandbox is told of it (``inside/calls.py``)."""
        return {"before": self.before, "asked": [part for assertion in self.asserts for part in assertion.asked]}

    @property
    def compared(self) -> list[dict[str, Any]]:
        """What the other one is told of it (``inside/compare.py``)."""
        return [asdict(assertion) for assertion in self.asserts]


def take_apart(test: str, setup: str = "") -> Test:
    """A test: asserts, and before them calls of the program, by themselves or as in ``x = f(2)``, and ``x = 2``.

    Args:
        test: Python statements.
        setup: statements that run before all tests, without the program as well: imports, and functions of the tests.

    Raises:
        ValueError: it cannot be taken apart; the message says what cannot.
    """
    statements = _parse(test)
    asserts = [statement for statement in statements if isinstance(statement, ast.Assert)]
    before = statements[: len(statements) - len(asserts)]
    if not asserts or statements[len(before) :] != asserts:
        raise ValueError(f"{test!r}: its asserts must stand at the end, and in no loop or function")
    known = _BUILTINS | {name for statement in _parse(setup) for name in _bound(statement)}
    values: set[str] = set()
    for statement in before:
        values |= _values(statement, known | values)
    return Test(
        "\n".join(map(ast.unparse, before)), [_assertion(statement, known, frozenset(values)) for statement in asserts]
    )


def _parse(text: str) -> list[ast.stmt]:
    try:
        return ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} is no Python: {error}") from error


def _values(statement: ast.stmt, strange: frozenset[str] | set[str]) -> set[str]:
    """The name that a statement before an assert gives a value of the test's own, if it does that."""
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return set()
    if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
        if _is_literal(statement.value):
            return {statement.targets[0].id}
        root = _root(statement.value)
        if root is not None and root not in strange and not hasattr(builtins, root):
            return set()
    raise ValueError(
        f"{ast.unparse(statement)!r} cannot stand before an assert: only calls of the program can, by themselves or as "
        "in x = f(2), and values as in x = 2; what needs no program can stand in `setup`"
    )


def _is_literal(node: ast.expr) -> bool:
    try:
        ast.literal_eval(node)
    except ValueError:
        return False
    return True


def _root(node: ast.AST) -> str | None:
    """The name that an expression hangs on, as ``f`` in ``f(2).size``; None if it hangs on none."""
    while isinstance(node, _CHAIN):
        node = node.func if isinstance(node, ast.Call) else node.value
    return node.id if isinstance(node, ast.Name) else None


def _assertion(statement: ast.Assert, known: frozenset[str], values: frozenset[str]) -> Assertion:
    splitter = _Splitter(statement.test, known, values)
    source = splitter.source
    check = splitter.visit(statement.test)
    asked = splitter.asked
    if not asked:
        raise ValueError(f"{source!r} asks nothing of the program")
    if len(asked) > 1 and splitter.uses_values:
        raise ValueError(f"{source!r} compares the program with what it can see; write the value into the assert")
    return Assertion(source, ast.unparse(check), list(asked), list(asked.values()), _expected(check, list(asked)))


def _expected(check: ast.expr, names: list[str]) -> str:
    if not isinstance(check, ast.Compare) or not isinstance(check.ops[0], ast.Eq) or len(check.ops) > 1:
        return ""
    sides = [ast.unparse(side) for side in (check.left, check.comparators[0])]
    return sides[1 - sides.index(names[0])] if len(names) == 1 and names[0] in sides else ""


class _Splitter(ast.NodeTransformer):
    """Puts names for all that hangs on a name of the program: ``f(2)``, ``f(2).size``, ``Stack().pop()``, ``x[1]``."""

    def __init__(self, test: ast.expr, known: frozenset[str], values: frozenset[str]) -> None:
        self.source = f"assert {ast.unparse(test)}"
        self.asked: dict[str, str] = {}
        self.uses_values = False
        self._bound = frozenset(_bound(test))
        self._known, self._values = known, values

    def visit(self, node: ast.AST) -> Any:
        """Replace a node, or what is in it."""
        root = _root(node)
        if root is None or root in self._known or root in self._bound:
            return self.generic_visit(node)
        self._refuse(node, root)
        self.uses_values |= root in self._values
        name = f"asked_{len(self.asked)}"
        self.asked[name] = ast.unparse(node)
        return ast.Name(name, ast.Load())

    def _refuse(self, node: ast.AST, root: str) -> None:
        text = ast.unparse(node)
        if hasattr(builtins, root):
            raise ValueError(f"{self.source!r}: {root} may not be used in an assert")
        if root in self._values and any(isinstance(part, ast.Call) for part in ast.walk(node)):
            raise ValueError(f"{self.source!r}: {text!r} is no call of the program")
        if loose := sorted((_loaded(node) & self._bound) - set(_bound(node))):
            raise ValueError(
                f"{self.source!r}: the program cannot be asked for {text!r}, in which {loose[0]} changes; write an "
                "assert for each"
            )
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in _OWN_WORD:
            raise ValueError(
                f"{self.source!r}: {text!r} would be the program's own word; write str.{node.func.attr}(...), or the "
                "method of another type, around its value"
            )


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that are given a value somewhere in this."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name) and not isinstance(part.ctx, ast.Load):
            yield part.id
        elif isinstance(part, ast.arg):
            yield part.arg
        elif isinstance(part, ast.alias):
            yield (part.asname or part.name).partition(".")[0]
        elif isinstance(part, (ast.FunctionDef, ast.ClassDef)):
            yield part.name


def _loaded(node: ast.AST) -> set[str]:
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Load)}
