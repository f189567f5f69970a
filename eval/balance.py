"""Several engines that have the same model, taken for one: an episode is played where least is under way.

All of its attempts are asked for there, so that the engine's prefix cache has what came before. Which engine that is
changes nothing of the result: an attempt's seed follows from its episode alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

from multi_attempt.connection import EngineLost
from multi_attempt.dialogue import Response
from multi_attempt.evaluation.engines import ContextFull, EngineStream, MakeStream, Partner, Request, Server
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import Message

CONCURRENCY = 256
"""Episodes under way at once on each engine, where nothing is said."""


@dataclass(frozen=True)
class Servers:
    """Several servers of the same model.

    Attributes:
        servers: at least two, of different addresses.

    Raises:
        ValueError: an address is there twice.
    """

    servers: tuple[Server, ...]

    def __post_init__(self) -> None:
        shown = [server.connection.shown for server in self.servers]
        if twice := [name for name in shown if shown.count(name) > 1]:
            raise ValueError(f"--server = {twice[0]!r} is named twice; name each server once")

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        """As :meth:`Server.prepare`, of all of them.

        Raises:
            EngineLost: one does not answer.
            ValueError: as there, or they differ in program or context, and so would the results.
        """
        partners = [server.prepare(model, dialogue) for server in self.servers]
        said = [f"{partner.owner or 'unknown'}, {partner.context} tokens" for partner in partners]
        if len(set(said)) > 1:
            each = (f"{server.connection.shown} ({what})" for server, what in zip(self.servers, said, strict=True))
            raise ValueError(
                f"--server: the servers differ in their program or in the context that they give {model!r}, so that "
                f"results would hang on which is asked: {', '.join(each)}; start them alike"
            )
        return partners[0]

    def open(self, partner: Partner) -> AbstractAsyncContextManager[MakeStream]:
        """Connect to all."""
        return opened_together({server.connection.shown: server.open(partner) for server in self.servers})


@dataclass
class _Member:
    """One of the engines.

    Attributes:
        name: for errors.
        make_stream: as it gives them.
        episodes: that it has been given.
        asked: attempts that it is at now.
        most: the greatest number of them so far.
        failed: attempts in a row that it did not answer.
    """

    name: str
    make_stream: MakeStream
    episodes: int = 0
    asked: int = 0
    most: int = 0
    failed: int = 0


class _Stream:
    """An episode on one of the engines."""

    def __init__(self, member: _Member, request: Request) -> None:
        member.episodes += 1
        self._member = member
        self._stream: EngineStream = member.make_stream(request)

    @property
    def used(self) -> int:
        """See :class:`multi_attempt.dialogue.Stream`."""
        return self._stream.used

    @property
    def context_room(self) -> int | None:
        """See :class:`EngineStream`."""
        return self._stream.context_room

    async def open(self, messages: list[Message]) -> int | None:
        """See :class:`multi_attempt.dialogue.Stream`."""
        return await self._stream.open(messages)

    async def tell(self, messages: list[Message], room: int) -> bool:
        """See :class:`multi_attempt.dialogue.Stream`."""
        return await self._stream.tell(messages, room)

    async def respond(self, limit: int) -> Response:
        """See :class:`multi_attempt.dialogue.Stream`.

        Raises:
            EngineLost: the engine cannot go on, or answered nothing of all that it was asked at once; named.
        """
        member = self._member
        member.asked += 1
        member.most = max(member.most, member.asked)
        try:
            response = await self._stream.respond(limit)
        except EngineLost as error:
            raise EngineLost(f"{member.name}: {error}") from error
        except ContextFull:
            raise
        except Exception as error:
            # One of several that answers nothing has always least to do, and would be given every episode.
            member.failed += 1
            if member.failed > member.most:
                raise EngineLost(
                    f"{member.name}: {member.failed} attempts in a row failed, the last by {error}"
                ) from error
            raise
        finally:
            member.asked -= 1
        member.failed = 0
        return response


@asynccontextmanager
async def opened_together(
    engines: Mapping[str, AbstractAsyncContextManager[MakeStream]],
) -> AsyncIterator[MakeStream]:
    """Several engines, by name, as one; they start at the same time.

    Raises:
        EngineLost: one did not start; named.
    """
    async with AsyncExitStack() as stack:
        entered = await asyncio.gather(
            *(stack.enter_async_context(engine) for engine in engines.values()), return_exceptions=True
        )
        members = [_member(name, result) for name, result in zip(engines, entered, strict=True)]
        # An episode asks as soon as it has a stream, before another gets one: no two take the same place.
        yield lambda request: _Stream(min(members, key=lambda member: (member.asked, member.episodes)), request)


def _member(name: str, entered: MakeStream | BaseException) -> _Member:
    if isinstance(entered, EngineLost):
        raise EngineLost(f"{name}: {entered}") from entered
    if isinstance(entered, BaseException):
        raise entered
    return _Member(name, entered)
