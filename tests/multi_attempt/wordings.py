"""What is wrong with the dialogues of a prompt set, as the checks before a run find it."""

from __future__ import annotations

from collections.abc import Sequence

from multi_attempt import turns
from multi_attempt.feedback import Situation, feedback_message
from multi_attempt.prompts import Message, PromptSet
from multi_attempt.tasks import Words
from multi_attempt.tasks.math import Math, Problem
from multi_attempt.turns import ChatTemplate

REPEATED = ("verdict", "attempts_left", "question")
"""Parts of a feedback that shows the question again."""


def template_problems(
    chat: ChatTemplate, prompts: PromptSet, question: str = "?", attempts: int = 2, parts: Sequence[str] = ()
) -> list[str]:
    """Of a dialogue about a question, with this wording."""
    task, row = Math(words=Words(prompts, tuple(parts))), Problem(question, "")
    return turns.template_problems(
        chat, f"prompt set {prompts.name!r}", task.opening(row, attempts), task.feedbacks(row, attempts)
    )


def after_wrong(
    prompts: PromptSet, question: str, left: int, parts: Sequence[str] = (), *, answered: bool = True
) -> Message:
    """The feedback on a wrong attempt."""
    return feedback_message(prompts, Situation(question, left, answered=answered), parts)


def after_unjudged(prompts: PromptSet, question: str, left: int) -> Message:
    """The feedback where nobody says whether the attempt was right."""
    return feedback_message(prompts, Situation(question, left, blind=True))
