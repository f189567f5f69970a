"""What stays of earlier attempts in the context of the next one.

``full`` is the paper's: all of them, in one sequence. With ``answers`` and ``last`` the context is rendered anew before
each attempt, so that each attempt is a sequence of its own. Nothing here knows of tokens or engines.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from multi_attempt.prompts import Message
from multi_attempt.tasks import Task
from multi_attempt.turns import ChatTemplate

FULL, ANSWERS, LAST = "full", "answers", "last"

POLICIES = (FULL, ANSWERS, LAST)
"""What can be chosen: all earlier attempts, the answer of each, or the last one alone."""

NO_ANSWER = "No answer."
"""What ``answers`` shows of an attempt in which no answer was found."""

_CUT = "..."


@dataclass(frozen=True)
class History:
    """What stays of earlier attempts.

    Attributes:
        policy: one of :data:`POLICIES`.
        answer_bytes: bytes of an answer that ``answers`` shows; what is longer is cut, and ends on three dots. A token
            has at least a byte, so that this bounds the tokens as well.

    Raises:
        ValueError: there is no such policy, or no room for an answer; the message names the field as a config has it.
    """

    policy: str = FULL
    answer_bytes: int = 256

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise ValueError(f"history = {self.policy!r}; use {', '.join(POLICIES[:-1])} or {POLICIES[-1]}")
        if self.answer_bytes <= len(_CUT):
            raise ValueError(f"history_answer_bytes = {self.answer_bytes} must be at least {len(_CUT) + 1}")

    @property
    def apart(self) -> bool:
        """Whether each attempt is a sequence of its own."""
        return self.policy != FULL

    def shortened(self, answer: str) -> str:
        """An answer as far as it is shown."""
        whole = answer.encode(errors="replace")
        if len(whole) <= self.answer_bytes:
            return answer
        return whole[: self.answer_bytes - len(_CUT)].decode(errors="ignore") + _CUT

    def context(self, messages: Sequence[Message], opening: int, answers: Sequence[str]) -> list[Message]:
        """The messages before the next attempt.

        Args:
            messages: the whole dialogue so far: its opening, and then for each attempt what was said, the feedback, and
                what else was said until the next.
            opening: how many of the messages are the opening.
            answers: for each attempt a response with its answer alone.
        """
        before, since = list(messages[:opening]), list(messages[opening:])
        if not self.apart or not answers:
            return [*before, *since]
        size = len(since) // len(answers)  # the attempt and the feedback, and with reflections two more
        if self.policy == LAST:
            return [*before, *since[-size:]]
        for number, answer in enumerate(answers):
            since[number * size] = {**since[number * size], "content": answer}
        return [*before, *since]


@dataclass(frozen=True)
class Turn:
    """What may stand between two attempts, at its longest.

    Attributes:
        behind_attempts, behind_reflections: the messages, each of which may do so; none behind reflections where the
            model is not asked for any.
        attempt_tokens, reflection_tokens: tokens that each may have.
    """

    behind_attempts: Sequence[Message]
    behind_reflections: Sequence[Message]
    attempt_tokens: int
    reflection_tokens: int = 0

    def messages(self, said: str) -> Iterator[list[Message]]:
        """A turn with this for the attempt, for each of the messages."""
        attempt, reflection = {"role": "assistant", "content": said}, {"role": "assistant", "content": "?"}
        for behind in self.behind_attempts:
            yield from (
                [[attempt, behind, reflection, last] for last in self.behind_reflections] or [[attempt, behind]]
            )


def most_prompt_tokens(
    history: History, chat: ChatTemplate, task: Task[Any], row: Any, turn: Turn, *, attempts: int
) -> int:
    """The tokens that the prompt of a row's last attempt may have at most.

    An attempt that a model wrote in other tokens than the tokenizer's own may have more of them when it is read again:
    the stream has the last word.

    Args:
        history: what stays of earlier attempts.
        chat: the chat template.
        task: of the row.
        row: the row.
        turn: what may stand between two attempts.
        attempts: the attempts allowed.
    """
    opening = task.opening(row, attempts)
    if attempts == 1 or not history.apart:
        return len(chat.opening(opening))
    before = attempts - 1 if history.policy == ANSWERS else 1
    # What an attempt is shown as, and the tokens that it may have beyond that.
    answer = {task.restated("?"): min(history.answer_bytes, turn.attempt_tokens), NO_ANSWER: 0}
    shown = answer if history.policy == ANSWERS else {"?": turn.attempt_tokens}
    reflection = turn.reflection_tokens if turn.behind_reflections else 0
    return max(
        before * (more + reflection) + len(chat.opening([*opening, *messages * before]))
        for said, more in shown.items()
        for messages in turn.messages(said)
    )
