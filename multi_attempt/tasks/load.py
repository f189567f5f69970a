"""Tasks by name, and which of them each row of a dataset is of."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any, Generic

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multi_attempt.tasks.rows import RowT
from multi_attempt.tasks.task import Task, Words

BUILT_IN = {
    "math": "multi_attempt.tasks.math:Math",
    "match": "multi_attempt.tasks.match:Match",
    "code": "multi_attempt.tasks.code:Code",
    "judge": "multi_attempt.tasks.judge:Judge",
}
"""The built-in tasks, and where each stands."""

DEFAULT = "math"
"""The task where none is named."""


def task_class(name: str) -> type[Task[Any]]:
    """The class of a task: a built-in one by its name, or a user's as ``module:Class``.

    Raises:
        ValueError: there is none; the message names ``multi_attempt.task`` and the remedy.
    """
    module_name, separator, class_name = BUILT_IN.get(name, name).partition(":")
    if not separator or not module_name or not class_name:
        raise ValueError(
            f"multi_attempt.task = {name!r} is neither a built-in task ({', '.join(BUILT_IN)}) nor a class of your own "
            "(module:Class)"
        )
    try:
        module = import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"multi_attempt.task = {name!r}: the module {module_name} cannot be imported ({error}); it stands on "
            f"PYTHONPATH, or is installed; Python looks in {', '.join(filter(None, sys.path))}"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, Task):
        raise ValueError(f"multi_attempt.task = {name!r}: {module_name}.{class_name} is no subclass of Task")
    missing = [*(["Row"] if not hasattr(found, "Row") else []), *sorted(found.__abstractmethods__)]
    if missing:
        raise ValueError(
            f"multi_attempt.task = {name!r} lacks {', '.join(missing)}; docs/tasks.md says what a task has"
        )
    return found


def load_task(name: str, settings: Mapping[str, Any] | None = None, words: Words | None = None) -> Task[Any]:
    """A task by name.

    Args:
        name: a built-in task's, or ``module:Class``.
        settings: fields of its class ``Settings``; the others have their defaults.
        words: the wording that the config chooses.

    Raises:
        ValueError: there is no such task, or a setting is unknown, of another type or out of range.
    """
    kind = task_class(name)
    task = kind(read_settings(name, settings or {}), words)
    task.name = name
    return task


def read_settings(name: str, settings: Mapping[str, Any]) -> Any:
    """A task's settings, of its class ``Settings``.

    Raises:
        ValueError: a setting is unknown, of another type or out of range; the message names it.
    """
    place = f"multi_attempt.tasks.{name}"
    if not isinstance(settings, Mapping):
        raise ValueError(f"{place} = {settings!r} must be a mapping")
    try:
        return OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(task_class(name).Settings), dict(settings)))
    except OmegaConfBaseException as error:
        field = f"{place}.{error.full_key}" if error.full_key else place
        raise ValueError(f"{field}: {str(error).splitlines()[0]}") from error


def changed_settings(settings: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Of the settings of tasks, by name, those that are not the defaults; of a user's tasks the names at least."""
    changed = {
        name: {
            field: value
            for field, value in asdict(read_settings(name, given)).items()
            if value != getattr(task_class(name).Settings(), field)
        }
        for name, given in settings.items()
    }
    return {name: fields for name, fields in changed.items() if fields or name not in BUILT_IN}


@dataclass(frozen=True)
class Asked(Generic[RowT]):
    """A row with its task, which alone knows what the row says."""

    task: Task[RowT]
    row: RowT


class Tasks:
    """The tasks of a run: the config's, and those that rows name.

    Args:
        default: the name of the task of a row that names none.
        settings: of tasks, by name.
        words: the wording that the config chooses.

    Raises:
        ValueError: there is no such task, or its settings are wrong.
    """

    def __init__(
        self,
        default: str = DEFAULT,
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        words: Words | None = None,
    ) -> None:
        self._default, self._settings, self._words = default, dict(settings or {}), words or Words()
        self._made: dict[str, Task[Any]] = {}
        self.default: Task[Any] = self[default]

    def __getitem__(self, name: str) -> Task[Any]:
        """A task by name, made when it is first asked for."""
        if name not in self._made:
            self._made[name] = load_task(name, self._settings.get(name), self._words)
        return self._made[name]

    @property
    def made(self) -> list[Task[Any]]:
        """Those that the config or a row has named so far."""
        return list(self._made.values())

    def read(self, row: Mapping[str, Any], place: str = "row") -> Asked[Any]:
        """A dataset's row with its task: the one that ``extra_info.task`` names, else the config's.

        Raises:
            ValueError: there is no such task, or the row has not what it needs; the message names the place. A class
                that the config does not name is none: a dataset is no place to say what is imported.
        """
        extra_info = row.get("extra_info")
        name = extra_info.get("task") if isinstance(extra_info, Mapping) else None
        if not name:
            return Asked(self.default, self.default.read(row, place))
        if name not in {*BUILT_IN, self._default, *self._settings}:
            raise ValueError(
                f"{place}: extra_info.task = {name!r} is no built-in task ({', '.join(BUILT_IN)}); a class of your own "
                "is one that multi_attempt.task or multi_attempt.tasks names"
            )
        task = self[name]
        return Asked(task, task.read(row, place))

    def warm_up(self) -> None:
        """Start what takes long to start."""
        for task in self.made:
            task.warm_up()

    async def close(self) -> None:
        """End processes and connections; they start again where they are needed."""
        await asyncio.gather(*(task.close() for task in self.made))


# ---- Before a run ----

# Rows that are looked at at the same time.
_AT_ONCE = 64


async def row_problem(asked: Asked[Any]) -> str:
    """Why a row cannot be used: its task's word on it, or on its gold response; empty if it can."""
    try:
        return asked.task.problem(asked.row) or await asked.task.gold_problem(asked.row)
    except (RuntimeError, OSError) as error:  # of a sandbox, or a server
        return f"its gold response could not be judged: {type(error).__name__}: {error}"


async def row_problems(
    asked: Iterable[Asked[Any]],
    problem: Callable[[Asked[Any]], Awaitable[str]] = row_problem,
    done: Callable[[], Any] = lambda: None,
) -> list[str]:
    """Why each row cannot be used, many at the same time.

    Args:
        asked: the rows.
        problem: why one cannot.
        done: called after each.
    """
    free = asyncio.Semaphore(_AT_ONCE)

    async def found(each: Asked[Any]) -> str:
        async with free:
            answer = await problem(each)
            done()
            return answer

    return list(await asyncio.gather(*map(found, asked)))
