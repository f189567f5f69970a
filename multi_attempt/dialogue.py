"""Playing an episode on an engine: one loop for the rollout of training and for evaluation.

The caller says how tokens are made and kept, as a :class:`Stream`; the loop says when the model is asked, how much it
may say, and when it is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from multi_attempt.episode import Episode, StopReason
from multi_attempt.history import NO_ANSWER, History
from multi_attempt.reflection import Critic
from multi_attempt.tasks import Message, Verdict

Judge = Callable[[str], Awaitable[Verdict]]
"""Gives the verdict on a response."""


class Response(NamedTuple):
    """What the model said in one attempt.

    Attributes:
        text: its own text, without special tokens.
        span: where its tokens stand in the episode's response, ``[start, stop)``.
        truncated: whether a length limit cut it.
    """

    text: str
    span: tuple[int, int]
    truncated: bool


class PromptTooLong(ValueError):
    """The messages before an attempt have more tokens than there may be."""


class Stream(Protocol):
    """The tokens of one episode, and the engine that continues them.

    They are one sequence, or one for each attempt where less than all stays of the earlier ones.
    """

    @property
    def used(self) -> int:
        """Tokens of the sequence's response so far: all its attempts and the feedback between them."""

    async def open(self, messages: list[Message]) -> int | None:
        """Begin a sequence with the messages before its first attempt.

        Returns:
            The tokens that the model's context leaves for the response; None where that is not known.

        Raises:
            PromptTooLong: it leaves none, or a prompt may not have so many.
        """

    async def respond(self, limit: int) -> Response:
        """Have the model generate an attempt of at most ``limit`` tokens, and append it."""

    async def tell(self, messages: list[Message], room: int) -> bool:
        """Append the feedback, which is the last of the messages, behind the attempt or the reflection before it.

        Returns:
            Whether that leaves room for another attempt, with a response of at most ``room`` tokens in all; if not,
            nothing is appended. The episode then ends on generated tokens: verl puts the reward on the last token, and
            a reward on a feedback token is lost to the critic.
        """


async def play(
    episode: Episode,
    stream: Stream,
    *,
    room: int,
    max_tokens_per_attempt: int | None = None,
    max_tokens_per_reflection: int | None = None,
    judge: Judge | None = None,
    critic: Critic | None = None,
    history: History | None = None,
) -> None:
    """Play an episode to its end.

    Args:
        episode: one that has not begun.
        stream: its tokens.
        room: tokens that the response of a sequence may have: all its attempts and the feedback between them; fewer
            where the context does not hold so many. An episode that runs out of either is truncated, and keeps its
            reward.
        max_tokens_per_attempt: tokens that one attempt may have; None for all that are left.
        max_tokens_per_reflection: tokens that the model's reflection may have, if the episode asks for it; None for all
            that are left. A longer one is cut, and the dialogue goes on.
        judge: where verdicts come from; None for the episode's task.
        critic: who says what is wrong with an attempt, behind the feedback; None for nobody.
        history: what stays of earlier attempts; None for all, in one sequence.

    Raises:
        PromptTooLong: the context holds no more than the prompt.
    """
    sequences = _Sequences(episode, stream, history or History(), room)
    await sequences.begin()
    while not episode.done:
        response = await sequences.respond(max_tokens_per_attempt)
        verdict = await (judge or episode.verdict)(response.text)
        episode.record(response.text, verdict, span=response.span, truncated=response.truncated)
        if episode.done:
            return
        if critic is not None:
            await episode.criticise(critic)
        goes_on = True
        if episode.reflects:
            goes_on = await sequences.tell()
            if goes_on:
                words = await sequences.respond(max_tokens_per_reflection)
                episode.reflect(words.text, span=words.span, truncated=words.truncated)
        if not (goes_on and await sequences.go_on()):
            episode.finish(StopReason.TRUNCATED)


class _Sequences:
    """The sequences of an episode: one, or one for each attempt, with the reflection on it."""

    def __init__(self, episode: Episode, stream: Stream, history: History, room: int) -> None:
        self._episode, self._stream, self._history, self._room = episode, stream, history, room
        self._opening = len(episode.messages)

    async def begin(self) -> None:
        """Begin a sequence with what stays of the dialogue so far."""
        messages = self._episode.messages
        self._before = self._history.context(messages, self._opening, self._answers())
        self._stands_for = len(messages)
        context_room = await self._stream.open(self._before)
        self._room_here = self._room if context_room is None else min(self._room, context_room)
        if self._room_here < 1:
            raise PromptTooLong("the prompt fills the model's context, which leaves no room for an attempt")

    async def respond(self, most: int | None) -> Response:
        """Have the model say something of at most so many tokens, or all that are left."""
        left = self._room_here - self._stream.used
        return await self._stream.respond(min(left, most or left))

    async def tell(self) -> bool:
        """Append the dialogue's last message; whether that leaves room for an answer to it."""
        since = self._episode.messages[self._stands_for :]
        return await self._stream.tell([*self._before, *since], self._room_here)

    async def go_on(self) -> bool:
        """Come to where the next attempt begins; whether there is room for it."""
        if not self._history.apart:
            return await self.tell()
        try:
            await self.begin()
        except PromptTooLong:
            return False
        return True

    def _answers(self) -> list[str]:
        """For each attempt a response with its answer alone."""
        task, shortened = self._episode.task, self._history.shortened
        answers = (attempt.answer for attempt in self._episode.transcript.attempts)
        return [NO_ANSWER if answer is None else task.restated(shortened(answer)) for answer in answers]
