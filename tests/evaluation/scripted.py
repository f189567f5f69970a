"""An engine that answers from a script, for evaluations without a model."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from multi_attempt.config import load_settings
from multi_attempt.dialogue import Response, Stream
from multi_attempt.evaluation.engines import Request, Vocabulary
from multi_attempt.evaluation.evaluate import Question, Settings
from multi_attempt.prompts import Message

Script = Callable[[str, int, int, Request], str]
"""(question, attempts allowed, number of the attempt from 1, how it is sampled) -> what the model says."""


class ScriptedStream:
    """Says what the script does; a character is a token, and a text that ends in "..." was cut."""

    def __init__(self, script: Script, request: Request, told: list[list[Message]]) -> None:
        self._script, self._request, self._told = script, request, told
        self._attempt = self.used = 0

    async def open(self, messages: list[Message]) -> None:
        match = re.fullmatch(r"(.*) \((\d+)\)", messages[-1]["content"])
        assert match is not None
        self._question, self._budget = match[1], int(match[2])

    async def respond(self, limit: int) -> Response:
        self._attempt += 1
        text = self._script(self._question, self._budget, self._attempt, self._request)
        start = self.used
        self.used += len(text)
        return Response(text, (start, self.used), truncated=text.endswith("...") or len(text) > limit)

    async def tell(self, answered: list[Message], messages: list[Message], room: int) -> bool:
        self._told.append(messages)
        return self.used < room


class ScriptedEngine:
    """Counts what it was asked, and keeps all dialogues in which something was told."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.told: list[list[Message]] = []
        self.asked: list[tuple[str, Request]] = []

    def vocabulary(self, model: str) -> Vocabulary | None:
        return None

    @asynccontextmanager
    async def open(
        self, model: str, vocabulary: Vocabulary | None, max_model_len: int
    ) -> AsyncIterator[Callable[[Request], Stream]]:
        def stream(request: Request) -> Stream:
            self.asked.append((model, request))
            return ScriptedStream(self.script, request, self.told)

        yield stream


def box(answer: object) -> str:
    return f"\\boxed{{{answer}}}"


def ask(*texts: str, benchmark: str = "sums", gold: str = "4") -> list[Question]:
    return [Question(id=text, benchmark=benchmark, text=text, gold=gold) for text in texts]


def settings(*protocols: str, **changes: object) -> Settings:
    task = load_settings({"prompts": "toy"})
    return Settings(task, protocols or ("oracle",), **{"max_response_length": 1000, "concurrency": 4, **changes})
