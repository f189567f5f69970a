"""The toy's questions as rows of every built-in task: who can answer them in mathematics can in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multi_attempt.data.rows import make_row
from multi_attempt.toy.questions import ToyQuestion

TASKS = ("math", "match", "code", "judge")
"""The built-in tasks; rows of mathematics name none."""

SETTINGS: dict[str, dict[str, Any]] = {
    "match": {"prompts": "toy"},
    "code": {"prompts": "toy", "seconds": 5, "memory_mb": 512},
    "judge": {"prompts": "toy", "model": "served", "retries": 0},
}
"""Their settings, but for the judge's address."""


def mixed_rows(questions: Sequence[ToyQuestion], split: str, attempts: int | None = None) -> list[dict[str, Any]]:
    """Rows whose tasks take turns. A program goes on from ``def f(): return``, so that a number in a box is one."""
    rows = []
    for index, question in enumerate(questions):
        name = TASKS[index % len(TASKS)]
        row = make_row(
            question.question, question.answer, data_source=name, index=index, split=split, attempts=attempts
        )
        row["extra_info"] |= {"task": "" if name == "math" else name, "solution": None, "tests": None, "begin": None}
        if name == "code":
            tests = [f"assert f() == {question.answer}", "assert type(f()) is int"]
            row["extra_info"] |= {"solution": question.answer, "tests": tests, "begin": "def f(): return "}
        rows.append(row)
    return rows
