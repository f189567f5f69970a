"""A model behind an OpenAI-style server that is asked for words: the judge of a task, the critic of an episode."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Collection, Mapping
from string import Template
from typing import Any, Protocol

from multi_attempt.connection import Connection, ServerError
from multi_attempt.prompts import placeholders


class ServedModelSettings(Protocol):
    """How the model is asked.

    Attributes:
        model: its name on the server.
        max_tokens: of a reply.
        temperature: of the model.
        at_once: requests at once, in each process that asks.
    """

    model: str
    max_tokens: int
    temperature: float
    at_once: int

    @property
    def connection(self) -> Connection:
        """How the server is asked."""


class ServedModel:
    """A model on a server, asked from any event loop; connections are opened when they are first needed.

    Args:
        settings: how it is asked.
    """

    def __init__(self, settings: ServedModelSettings) -> None:
        self._settings = settings
        self._asking: _Asking | None = None

    async def reply(self, prompt: str) -> tuple[str, bool]:
        """What the model says to a prompt, and whether it came to its end.

        Raises:
            ServerError: the server does not answer, or with what is no text.
        """
        if self._asking is None or self._asking.loop is not asyncio.get_running_loop():
            self._asking = _Asking(self._settings)
        return await self._asking.reply(prompt)

    def check(self, place: str) -> None:
        """Whether it can be asked at all.

        Args:
            place: where its settings stand.

        Raises:
            ValueError: a setting or the package that asks is missing.
        """
        if not self._settings.model:
            raise ValueError(f"{place}.model is empty: name the model, as its server calls it")
        _ = self._settings.connection
        try:
            import openai  # noqa: F401 - the client
        except ImportError as error:
            raise ValueError(f"{place}: the model is asked by the openai package: pip install openai") from error

    async def close(self) -> None:
        """End the connections."""
        if self._asking is not None and self._asking.loop is asyncio.get_running_loop():
            await self._asking.close()
        self._asking = None


def fenced(template: str, answer: str, **values: str) -> str:
    """A prompt that shows an answer between two lines ``$fence``, which no answer can hold.

    Args:
        template: a :class:`string.Template` with ``$answer``, ``$fence`` and what else ``values`` has.
        answer: a model's own words.
        **values: the others.
    """
    # It depends on the answer, so that no answer can hold it, and nothing else, so that a cache knows the prompt again.
    fence = hashlib.sha256(answer.encode("utf-8", "surrogatepass")).hexdigest()[:16]
    return Template(template).substitute(values, answer=answer, fence=fence)


def check_prompt(template: str, place: str, known: Collection[str]) -> None:
    """Whether a prompt shows an answer, and refers to nothing unknown.

    Raises:
        ValueError: it does not.
    """
    names = placeholders(template)
    if names is None or not names <= {*known} or "answer" not in names:
        raise ValueError(
            f"{place} = {template!r} must show $answer, and use only ${', $'.join(sorted(known))}, and $$ for a "
            "dollar sign"
        )


def check_positive(settings: Any, place: str, names: Collection[str]) -> None:
    """Whether these settings are above 0.

    Raises:
        ValueError: one is not.
    """
    values: Mapping[str, Any] = vars(settings)
    for name in names:
        if not values[name] > 0:
            raise ValueError(f"{place}.{name} = {values[name]} must be above 0")


class _Asking:
    """Requests of one event loop."""

    def __init__(self, settings: ServedModelSettings) -> None:
        # A line for each request would fill a run's log.
        for library in ("httpx", "httpx2"):
            logging.getLogger(library).setLevel(logging.WARNING)
        self.loop = asyncio.get_running_loop()
        self._settings = settings
        self._connection = settings.connection
        self._client = self._connection.client()
        self._some = asyncio.Semaphore(settings.at_once)

    async def reply(self, prompt: str) -> tuple[str, bool]:
        async with self._some:
            request = self._client.chat.completions.create(
                model=self._settings.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=self._settings.temperature,
                max_tokens=self._settings.max_tokens,
            )
            choice = self._connection.choice(await self._connection.ask(request))
        content = getattr(getattr(choice, "message", None), "content", None)
        if not isinstance(content, str):
            raise ServerError(f"the reply of {self._settings.model!r} has no text: {self._connection.excerpt(choice)}")
        return self._connection.hide_in_answer(content), choice.finish_reason == "stop"

    async def close(self) -> None:
        await self._client.close()
