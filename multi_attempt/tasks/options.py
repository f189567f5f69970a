"""Tasks on the command line: which, and their settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from multi_attempt.tasks.load import BUILT_IN, DEFAULT, changed_settings

FLAG = "--task-setting"


def add_task_arguments(add: Callable[..., Any]) -> None:
    """Declare ``--task`` and ``--task-setting`` by a parser's ``add_argument``."""
    names = ", ".join(BUILT_IN)
    add("--task", metavar="NAME", help=f"the task of rows that name none: {names}, or module:Class (default {DEFAULT})")
    add(
        FLAG,
        action="append",
        metavar="TASK.KEY=JSON",
        help="a setting of a task (multi_attempt.tasks in a config), as in code.seconds=5",
    )


def task_settings(texts: Sequence[str], base: Mapping[str, Mapping[str, Any]] | None = None) -> dict[str, Any]:
    """Settings of tasks by name, with what the flags say instead; those that are the defaults are left out.

    Raises:
        ValueError: a flag is wrong; the message names it.
    """
    settings = {name: dict(fields) for name, fields in (base or {}).items()}
    for text in texts:
        key, value = json_option(FLAG, text)
        name, _, field = key.rpartition(".")
        settings.setdefault(name, {})[field] = value
    return changed_settings(settings)


def json_option(flag: str, text: str) -> tuple[str, Any]:
    """The key and the value of an argument KEY=JSON.

    Raises:
        ValueError: it is none.
    """
    key, separator, value = text.partition("=")
    try:
        if separator:
            return key, json.loads(value, parse_constant=_no_number)
    except ValueError:
        pass
    raise ValueError(f"{flag} = {text!r}: write KEY=JSON, as in enforce_eager=true or load_format='\"auto\"'")


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
