"""The connection to a server that speaks OpenAI's protocol, which nobody has to trust.

An exchange ends in time however slowly the server sends; questions go to no other address than the one that was named;
keys and passwords stay out of what is written; and what is no answer is said to be none.
"""

from __future__ import annotations

import asyncio
import base64
import json
import math
import os
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

KEY = "OPENAI_API_KEY"
"""The variable of the environment that has the server's key."""

_NO_KEYS = ("", "none", "null", "EMPTY")  # what is given where a server needs none
_HIDDEN = "***"
_SHORTEST_IN_ERRORS = 3
_SHORTEST_IN_ANSWERS = 8  # shorter ones are words that a model may say
_EXCERPT = 500

_TOO_LONG = re.compile(
    r"context[ _-]?(length|size|window)|max_model_len|maximum (input|sequence) length", re.IGNORECASE
)
_REFUSALS = (400, 413, 422)
_REDIRECTS = range(300, 400)


class EngineLost(RuntimeError):
    """The engine cannot go on; asking it again is of no use."""


class ServerError(RuntimeError):
    """A request was not answered, or by something that is no answer.

    Attributes:
        status: of HTTP; None without an answer that has one.
    """

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status

    @property
    def refused(self) -> bool:
        """Whether the server found fault with the request itself."""
        return self.status in _REFUSALS

    @property
    def too_long(self) -> bool:
        """Whether it says that the model's context does not hold what was asked."""
        return self.refused and _TOO_LONG.search(str(self)) is not None


@dataclass(frozen=True)
class Connection:
    """How a server is asked.

    Requests that fail to connect, time out, or are answered 408, 409, 429 or 5xx are repeated with growing pauses by
    the ``openai`` client, which keeps to ``Retry-After``.

    Attributes:
        url: the base address, as in ``http://localhost:8000/v1``; it may have user and password.
        timeout: seconds until a request must have been answered whole.
        retries: how often a request is repeated.
        names: what the user calls these three.

    Raises:
        ValueError: one of them makes no sense; the message names it.
    """

    url: str = field(repr=False)
    timeout: float
    retries: int
    names: tuple[str, str, str] = ("--server", "--timeout", "--retries")

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ValueError(f"{self.named} must be an address like http://localhost:8000/v1")
        if not 0 < self.timeout < math.inf:
            raise ValueError(f"{self.names[1]} = {self.timeout} must be a number of seconds above 0")
        if self.retries < 0:
            raise ValueError(f"{self.names[2]} = {self.retries} must be 0 or more")

    @property
    def shown(self) -> str:
        """The address as others may see it: without user, password, and what follows a question mark."""
        # Of what is no address nobody knows where a password would stand.
        return _without_secrets(self.url) if _is_address(self.url) else re.sub(r"^.*@", f"{_HIDDEN}@", self.url)

    @property
    def named(self) -> str:
        """The setting and the address, for an error."""
        return f"{self.names[0]} = {self.shown!r}"

    def client(self) -> Any:
        """A client of the server, to be used as an asynchronous context."""
        from openai import AsyncOpenAI

        return AsyncOpenAI(
            base_url=self.url,
            api_key=os.environ.get(KEY) or "none",
            timeout=self.timeout,
            max_retries=self.retries,
            http_client=_bounded_client(self.timeout),
        )

    async def ask(self, request: Awaitable[Any]) -> Any:
        """The answer to a request of the client.

        Raises:
            ServerError: there is none.
            EngineLost: the server sends elsewhere.
        """
        from openai import APIStatusError, OpenAIError

        # Without their causes, which have headers and addresses.
        try:
            return await request
        except APIStatusError as error:
            if error.status_code in _REDIRECTS:
                place = self.hide(error.response.headers.get("location", "nowhere"))
                raise EngineLost(
                    f"{self.named} sends on to {place!r}, and questions go only to the address that was "
                    "named; name that one, if they should go there"
                ) from None
            message = error.body.get("message") if isinstance(error.body, Mapping) else None
            told = isinstance(message, str) and message in str(error)
            text = str(error) if told or not error.body else f"{error}: {error.body}"
            raise ServerError(f"{type(error).__name__}: {self.excerpt(text)}", error.status_code) from None
        except (OpenAIError, ValueError) as error:  # the latter where JSON was announced, and is none
            raise ServerError(f"{type(error).__name__}: {self.excerpt(str(error))}") from None

    def choice(self, answer: Any) -> Any:
        """What a server chose to say.

        Raises:
            ServerError: its answer is none, as a page or an error that it calls a success.
        """
        choices = getattr(answer, "choices", None)
        if not isinstance(choices, list) or not choices or not hasattr(choices[0], "finish_reason"):
            raise ServerError(f"the server's answer is no completion: {self.excerpt(answer)}")
        return choices[0]

    def excerpt(self, content: Any) -> str:
        """The beginning of what a server sent, for an error."""
        text = self.hide(content if isinstance(content, str) else repr(content)).strip()
        return text if len(text) <= _EXCERPT else f"{text[:_EXCERPT]}..."

    def hide(self, text: str, shortest: int = _SHORTEST_IN_ERRORS) -> str:
        """A text without key and password, of at least so many characters."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            if len(secret) >= shortest:
                text = text.replace(secret, _HIDDEN)
        return text

    def hide_in_answer(self, text: str) -> str:
        """An answer of a model without key and password, which a server can say again."""
        return self.hide(text, _SHORTEST_IN_ANSWERS)

    def _secrets(self) -> set[str]:
        parts = urlsplit(self.url)
        user, password = parts.username or "", parts.password or ""
        login = base64.b64encode(f"{unquote(user)}:{unquote(password)}".encode()).decode() if user or password else ""
        given = [value for _, value in parse_qsl(parts.query)]
        secrets = {os.environ.get(KEY, ""), password, unquote(password), login, *given} - {*_NO_KEYS}
        return {
            form for secret in secrets for form in (secret, quote(secret), repr(secret)[1:-1], json.dumps(secret)[1:-1])
        }


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        return False


def _without_secrets(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def _bounded_client(seconds: float) -> Any:
    """An HTTP client that is answered whole within these seconds, and follows no redirects."""
    from openai import DefaultAsyncHttpxClient

    class Bounded(DefaultAsyncHttpxClient):
        async def send(self, request: Any, **how: Any) -> Any:
            # The client's own timeout is for each piece of an answer: a server that drips would never meet it.
            try:
                return await asyncio.wait_for(super().send(request, **how), seconds)
            except asyncio.TimeoutError as error:
                raise _timeout_error(request) from error

    return Bounded(follow_redirects=False)


def _timeout_error(request: Any) -> Exception:
    """The one that the ``openai`` client repeats a request after: of httpx or httpx2, by its version."""
    library = import_module(type(request).__module__.partition(".")[0])
    error: Exception = library.ReadTimeout("the answer was not whole in time", request=request)
    return error
