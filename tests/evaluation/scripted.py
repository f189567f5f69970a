"""An engine that answers from a script, for evaluations without a model."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import fields
from typing import Any

from multi_attempt.dialogue import Response
from multi_attempt.evaluation.engines import MakeStream, Partner, Request
from multi_attempt.evaluation.evaluate import Question, Settings
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import Message, load_prompt_set

Script = Callable[[str, int, int, Request], str]
"""(question, attempts allowed, number of the attempt from 1, how it is sampled) -> what the model says."""


class ScriptedStream:
    """Says what the script does; a character is a token, and a text that ends in "..." was cut."""

    def __init__(self, script: Script, request: Request, told: list[list[Message]], context: int | None) -> None:
        self._script, self._request, self._told, self._context = script, request, told, context
        self._attempt = self.used = 0
        self.context_room: int | None = None

    async def open(self, messages: list[Message]) -> int | None:
        match = re.fullmatch(r"(.*) \((\d+)\)", messages[-1]["content"])
        assert match is not None
        self._question, self._budget = match[1], int(match[2])
        if self._context is not None:
            self.context_room = self._context - len(self._question)
        return self.context_room

    async def respond(self, limit: int) -> Response:
        self._attempt += 1
        text = self._script(self._question, self._budget, self._attempt, self._request)
        start = self.used
        self.used += len(text)
        return Response(text, (start, self.used), truncated=text.endswith("...") or len(text) > limit)

    async def tell(self, messages: list[Message], room: int) -> bool:
        self._told.append(messages)
        return self.used < room


class ScriptedEngine:
    """Counts what it was asked, and keeps all dialogues in which something was told.

    Its models have a context of so many tokens, if one is given; of a prompt the question alone counts.
    """

    def __init__(self, script: Script, context: int | None = None) -> None:
        self.script, self.context = script, context
        self.told: list[list[Message]] = []
        self.asked: list[tuple[str, Request]] = []

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        return Partner(model, dialogue, context=self.context)

    @asynccontextmanager
    async def open(self, partner: Partner) -> AsyncIterator[MakeStream]:
        def stream(request: Request) -> ScriptedStream:
            self.asked.append((partner.model, request))
            return ScriptedStream(self.script, request, self.told, partner.context)

        yield stream


def box(answer: object) -> str:
    return f"\\boxed{{{answer}}}"


def ask(*texts: str, benchmark: str = "sums", gold: str = "4") -> list[Question]:
    return [Question(id=text, benchmark=benchmark, text=text, gold=gold) for text in texts]


def settings(*protocols: str, **changes: Any) -> Settings:
    """Those of an evaluation, of the dialogues with the toy's prompts among them."""
    names = {field.name for field in fields(DialogueSettings)}
    dialogue: dict[str, Any] = {"prompts": load_prompt_set("toy"), "max_response_length": 1000} | {
        name: value for name, value in changes.items() if name in names
    }
    others = {name: value for name, value in changes.items() if name not in names}
    return Settings(DialogueSettings(**dialogue), protocols or ("oracle",), **{"concurrency": 4, **others})
