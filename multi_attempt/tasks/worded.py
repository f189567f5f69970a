"""Tasks whose words are a prompt set: they differ in what is right."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any, ClassVar

from multi_attempt.prompts import Message, load_prompt_set
from multi_attempt.tasks.task import RowT, Task, Words


class WordedTask(Task[RowT]):
    """A task with a setting ``prompts`` of its own, and rows with a ``question``.

    Attributes:
        words_file: the task's own prompt set, in this folder.
        prompts: the one that the settings name, or else that, with the feedback by whom all tasks have it.
    """

    words_file: ClassVar[str]

    def __init__(self, settings: Any, words: Words) -> None:
        super().__init__(settings, words)
        own = str(files(__package__).joinpath(self.words_file))
        self.prompts = load_prompt_set(settings.prompts or own)

    def opening(self, row: Any, attempts: int) -> list[Message]:
        """See :class:`Task`."""
        return self.prompts.opening(row.question, attempts)

    def feedback(self, row: Any, attempts: Sequence[Any], left: int) -> Message:
        """See :class:`Task`."""
        last = attempts[-1]
        return self.prompts.after_wrong(
            row.question, left, self.words.repeat_question, answered=last.answer is not None, note=last.note
        )

    def neutral(self, row: Any, left: int) -> Message:
        """See :class:`Task`."""
        return self.prompts.after_unjudged(row.question, left)
