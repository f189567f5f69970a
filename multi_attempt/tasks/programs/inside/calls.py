"""Runs in the sandbox around a program of a model: what do these expressions give there?

In: JSON with ``program``, ``setup`` and ``tests``, each with the statements ``before`` and the expressions ``asked``.
Out: a line of JSON for the program and for each test: what was raised, or the values, written so that reading them
runs nothing. The program shares this process and can write here whatever it likes: values, which are all that it is
asked for. What they ought to be is not known here, and is compared elsewhere.
"""

from __future__ import annotations

import itertools
import json
import os
import sys

TYPE_CHECKING = False  # typing takes longer to import than most programs to run
if TYPE_CHECKING:
    from typing import Any


MOST_ITEMS = 100_000  # of an iterator, which need not end
MOST_ERROR = 1000  # characters


def encode(value: Any) -> list[Any]:
    if value is None or isinstance(value, bool):
        return ["plain", value]
    if isinstance(value, str):
        return ["plain", str.__str__(value)]
    if isinstance(value, int):
        return ["int", format(int.__int__(value), "x")]
    if isinstance(value, float):
        return ["float", float.hex(value)]
    if isinstance(value, complex):
        return ["complex", [float.hex(value.real), float.hex(value.imag)]]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", [[encode(key), encode(item)] for key, item in dict.items(value)]]
    kinds: tuple[Any, ...] = (list, tuple, set, frozenset)
    for kind in kinds:
        if isinstance(value, kind):
            return [kind.__name__, [encode(item) for item in kind.__iter__(value)]]
    if hasattr(value, "__iter__"):
        return ["iterator", [encode(item) for item in itertools.islice(value, MOST_ITEMS)]]
    raise TypeError(f"it returned a {type(value).__name__}, which cannot be compared")


def raised(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:MOST_ERROR]


def answer(test: Any, names: dict[str, Any]) -> dict[str, Any]:
    exec(compile(test["before"], "test", "exec"), names)
    values: list[dict[str, Any]] = []
    for expression in test["asked"]:
        try:
            values.append({"value": encode(eval(compile(expression, "test", "eval"), names))})
        except BaseException as error:
            values.append({"raised": raised(error)})
    return {"values": values}


def main() -> None:
    work = json.load(sys.stdin)
    # What the program prints is not asked for, and its input is empty.
    lines = os.fdopen(os.dup(1), "w")
    null = os.open("/dev/null", os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    module = type(sys)("program")
    sys.modules["program"] = module
    names = module.__dict__

    def load(_: Any, names: dict[str, Any]) -> dict[str, Any]:
        exec(compile(work["program"], "program.py", "exec"), names)
        exec(compile(work["setup"], "setup", "exec"), names)
        return {"values": []}

    for step, test in [(load, None), *((answer, test) for test in work["tests"])]:
        try:
            line = json.dumps(step(test, names))
        except BaseException as error:
            line = json.dumps({"raised": raised(error)})
        lines.write(line + "\n")
        lines.flush()


main()
