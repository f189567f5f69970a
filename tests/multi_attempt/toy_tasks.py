"""The toy's questions as rows of every built-in task: who can answer them in mathematics can in all of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from multi_attempt.data.rows import make_row
from multi_attempt.toy.questions import ToyQuestion

TASKS = ("math", "match", "code", "judge")
"""The built-in tasks."""

SETTINGS: dict[str, dict[str, Any]] = {
    "match": {"prompts": "toy"},
    "code": {"prompts": "toy", "seconds": 5, "memory_mb": 512, "note_length": 20},
    "judge": {"prompts": "toy", "model": "served", "retries": 0, "note_length": 40},
}
"""Their settings, but for the judge's address; notes are short, since each of their bytes is a token of the toy's."""


def judged(path: str, body: dict[str, Any]) -> dict[str, Any]:
    """What an honest judge replies to the judge task's own prompt: a server's answer."""
    prompt = body["messages"][0]["content"]
    reference, _, answer = re.findall(r"says: (.*)\n\n([0-9a-f]+)\n(.*)\n\2\n", prompt)[0]
    text = "Right.\nSCORE: 10" if answer == reference else "Not quite.\nSCORE: 5"
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    return {"id": "x", "object": "chat.completion", "created": 0, "model": "served", "choices": [choice]}


def mixed_rows(
    questions: Sequence[ToyQuestion], split: str, attempts: int | None = None, first: int = 0
) -> list[dict[str, Any]]:
    """Rows whose tasks take turns. A program goes on from ``def f(): return``, so that a number in a box is one."""
    rows = []
    for index, question in enumerate(questions):
        name = TASKS[index % len(TASKS)]
        row = make_row(
            question.question, question.answer, data_source=name, index=first + index, split=split, attempts=attempts
        )
        row["extra_info"] |= {"task": name, "solution": None, "tests": None, "begin": None}
        if name == "code":
            tests = [f"assert f() == {question.answer}", "assert type(f()) is int"]
            row["extra_info"] |= {"solution": question.answer, "tests": tests, "begin": "def f(): return "}
        rows.append(row)
    return rows
