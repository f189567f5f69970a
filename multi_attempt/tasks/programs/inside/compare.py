"""Runs in a sandbox of its own, where nothing of a model runs: are these asserts true of what the program gave?

In: JSON with ``setup``; ``tests``, each a list of asserts with the expression ``check`` in which names stand for the
values that were asked for, those ``names``, the ``asked`` expressions and ``expected``, the other side of a plain
comparison; the ``lines`` that the program's sandbox wrote, the first for the program; ``missing``, which says why a
line is not there; and ``length``, the most characters of a value in a note. Out: JSON, for each test whether it
``passed``, and a ``note`` on the first that did not.
"""

from __future__ import annotations

import json
import sys

TYPE_CHECKING = False  # typing takes longer to import than most programs to run
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any


BUILT: dict[str, Any] = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset, "iterator": iter}


def decode(written: Any) -> Any:
    kind, content = written
    if kind == "plain":
        return content
    if kind == "int":
        return int(content, 16)
    if kind == "float":
        return float.fromhex(content)
    if kind == "complex":
        return complex(*map(float.fromhex, content))
    if kind == "bytes":
        return bytes.fromhex(content)
    if kind == "dict":
        return {decode(key): decode(value) for key, value in content}
    return BUILT[kind]([decode(item) for item in content])


def cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[:length] + "..."


def shown(written: Any, length: int) -> str:
    items = ["list", written[1]] if written[0] == "iterator" else written
    try:
        return cut(repr(decode(items)), length)
    except ValueError:  # a number of more digits than Python writes
        return "a value that is too long to be shown"


def failure(assertion: dict[str, Any], answers: Iterator[Any], names: dict[str, Any], length: int) -> str:
    """Why an assert does not hold; empty if it does. Answers are used up, one for each expression asked."""
    mine = [next(answers) for _ in assertion["asked"]]
    for asked, answer in zip(assertion["asked"], mine):  # noqa: B905 - not in Python 3.9
        if "value" not in answer:
            return f"{asked} raised {cut(str(answer['raised']), length)}"
    values = {name: decode(answer["value"]) for name, answer in zip(assertion["names"], mine)}  # noqa: B905
    try:
        if eval(compile(assertion["check"], "assert", "eval"), {**names, **values}):
            return ""
        wrong = ""
    except Exception as error:
        wrong = f" with {type(error).__name__}"
    got = [f"{asked} gave {shown(answer['value'], length)}" for asked, answer in zip(assertion["asked"], mine)]  # noqa: B905
    if assertion["expected"]:
        return f"{got[0]}, expected {cut(assertion['expected'], length)}"
    return f"{assertion['source']} failed{wrong}: {', '.join(got)}"


def judge(test: list[dict[str, Any]], line: str | None, names: dict[str, Any], work: dict[str, Any]) -> str:
    """Why a test does not pass; empty if it does."""
    if line is None:
        return f"{test[0]['source']} was not reached: {work['missing']}"
    try:
        answer = json.loads(line)
        if "raised" in answer:
            return f"{test[0]['source']} was not reached: {cut(str(answer['raised']), work['length'])}"
        answers = iter(answer["values"])
        failures = [failure(assertion, answers, names, work["length"]) for assertion in test]
        return next(filter(None, failures), "")
    except Exception as error:
        return f"{test[0]['source']}: what the program gave cannot be read ({type(error).__name__})"


def loading(work: dict[str, Any]) -> str:
    """Why the program did not even come to its end; empty if it did."""
    if not work["lines"]:
        return str(work["missing"])
    try:
        error = json.loads(work["lines"][0]).get("raised")
        return f"the program raised {cut(str(error), work['length'])}" if error else ""
    except Exception as error:
        return f"what the program gave cannot be read ({type(error).__name__})"


def main() -> None:
    work = json.load(sys.stdin)
    names: dict[str, Any] = {}
    exec(compile(work["setup"], "setup", "exec"), names)
    tests, lines = work["tests"], [*work["lines"][1:], *[None] * len(work["tests"])]
    loaded = loading(work)
    notes = [loaded or judge(test, line, names, work) for test, line in zip(tests, lines)]  # noqa: B905
    print(json.dumps({"passed": [not note for note in notes], "note": next(filter(None, notes), "")}))


main()
