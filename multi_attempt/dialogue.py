"""Playing an episode on an engine: one loop for the rollout of training and for evaluation.

The caller says how tokens are made and kept, as a :class:`Stream`; the loop says when the model is asked, how much it
may say, and when it is over.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

from multi_attempt.episode import Episode, StopReason
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


class Stream(Protocol):
    """The tokens of one episode, and the engine that continues them."""

    @property
    def used(self) -> int:
        """Tokens of the response so far: all attempts and the feedback between them."""

    async def open(self, messages: list[Message]) -> int | None:
        """Begin with the messages before the first attempt.

        Returns:
            The tokens that the model's context leaves for the response; None where that is not known.
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
) -> None:
    """Play an episode to its end.

    Args:
        episode: one that has not begun.
        stream: its tokens.
        room: tokens that the response may have: all attempts and the feedback between them; fewer where the context
            does not hold so many. An episode that runs out of either is truncated, and keeps its reward.
        max_tokens_per_attempt: tokens that one attempt may have; None for all that are left.
        max_tokens_per_reflection: tokens that the model's reflection may have, if the episode asks for it; None for all
            that are left. A longer one is cut, and the dialogue goes on.
        judge: where verdicts come from; None for the episode's task.
        critic: who says what is wrong with an attempt, behind the feedback; None for nobody.

    Raises:
        ValueError: the context holds no more than the prompt.
    """
    context_room = await stream.open(episode.messages)
    if context_room is not None:
        room = min(room, context_room)
    if room < 1:
        raise ValueError("the prompt fills the model's context, which leaves no room for an attempt")
    while not episode.done:
        left = room - stream.used
        response = await stream.respond(min(left, max_tokens_per_attempt or left))
        verdict = await (judge or episode.verdict)(response.text)
        episode.record(response.text, verdict, span=response.span, truncated=response.truncated)
        if episode.done:
            return
        if critic is not None:
            await episode.criticise(critic)
        told = await stream.tell(episode.messages, room)
        if told and episode.reflects:
            left = room - stream.used
            words = await stream.respond(min(left, max_tokens_per_reflection or left))
            episode.reflect(words.text, span=words.span, truncated=words.truncated)
            told = await stream.tell(episode.messages, room)
        if not told:
            episode.finish(StopReason.TRUNCATED)
