"""What is wrong with the dialogues of a prompt set, as the checks before a run find it."""

from __future__ import annotations

from multi_attempt import turns
from multi_attempt.prompts import PromptSet
from multi_attempt.turns import ChatTemplate


def template_problems(
    chat: ChatTemplate, prompts: PromptSet, question: str = "?", attempts: int = 2, repeat_question: bool = False
) -> list[str]:
    """Of a dialogue about a question, with this wording."""
    feedbacks = prompts.feedbacks(question, attempts - 1, repeat_question) if attempts > 1 else []
    opening = prompts.opening(question, attempts)
    return turns.template_problems(chat, f"prompt set {prompts.name!r}", opening, feedbacks)
