"""A server that speaks OpenAI's protocol, and that has its bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from typing import Any

from http_service import Handler
from http_service import serving as serving_http
from scripted import box

# The toy tokenizer's <|im_end|>, by which its template closes a turn, and <|endoftext|> and <|reserved|>, of which the
# first is an end token by the generation_config.
END, OTHER_END, UNKNOWN_END = 258, 256, 259

DRIPS = 30
"""Seconds for which :func:`drip` goes on."""

Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class FakeServer:
    """Answers 5 to every first attempt and 4 to later ones; before that it has its faults, one a request.

    Attributes:
        faults: what to do instead of an answer to the next requests; None to answer.
        model_faults: what to do instead of saying which models there are.
        said: what its messages hold instead of the answer.
        requests: path and body of all requests for an answer.
        ends_by: the token that ends its answers, and why they ended.
        stop_field: where answers to token ids name that token: ``token_ids`` have it, as vLLM's do if asked; else it
            is ``stop_reason`` (vLLM, but for the tokenizer's own end of a text) or ``matched_stop`` (SGLang).
        card: what it says of its model.
        unknown: parameters that it refuses, as OpenAI's does.
    """

    faults: list[Fault | None] = field(default_factory=list)
    model_faults: list[Fault | None] = field(default_factory=list)
    said: dict[str, Any] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    ends_by: tuple[int, str] = (END, "stop")
    stop_field: str = "token_ids"
    card: dict[str, Any] = field(default_factory=dict)
    unknown: tuple[str, ...] = ()
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/chat/completions"):
            later = sum(message["role"] == "assistant" for message in body["messages"])
            text = box(4 if later else 5)
            length = sum(len(message["content"]) for message in body["messages"])
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text, **self.said}}
        else:
            later = bytes(id for id in body["prompt"] if id < 256).count(b"boxed")
            text, length = box(4 if later else 5), len(body["prompt"])
            end = self.ends_by[0]
            choice = {"text": text, self.stop_field: [*text.encode(), end] if self.stop_field == "token_ids" else end}
        return {
            "id": "x",
            "object": "completion",
            "created": 0,
            "model": "served",
            "choices": [{"index": 0, "finish_reason": self.ends_by[1], **choice}],
            "usage": {"prompt_tokens": length, "completion_tokens": len(text) + 1, "total_tokens": 0},
        }

    def next_fault(self, faults: list[Fault | None]) -> Fault | None:
        with self._lock:
            return faults.pop(0) if faults else None


def refuse(status: int) -> Fault:
    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Retry-After-Ms", "10")
        handler.end_headers()
        handler.wfile.write(b"not now")

    return fault


def drop(handler: BaseHTTPRequestHandler) -> None:
    handler.connection.close()


def hang(handler: BaseHTTPRequestHandler) -> None:
    threading.Event().wait(1.5)


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Send a byte ten times a second, for longer than anybody waits."""
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.end_headers()
    for _ in range(10 * DRIPS):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:  # nobody listens any more
            return
        threading.Event().wait(0.1)


def send(content: bytes | dict[str, Any], status: int = 200, kind: str = "application/json", **headers: str) -> Fault:
    """Send something else than an answer."""

    def fault(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Type": kind, **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content if isinstance(content, bytes) else json.dumps(content).encode())

    return fault


def echo(handler: BaseHTTPRequestHandler) -> None:
    """Say what came in, with its keys, and refuse it."""
    send({"error": {"message": f"cannot read {dict(handler.headers)}"}}, 400)(handler)


@contextmanager
def serving() -> Iterator[FakeServer]:
    """A server at work."""
    fake = FakeServer()

    class Answers(Handler):
        def got(self) -> None:
            if fault := fake.next_fault(fake.model_faults):
                self.close_connection = True
                return fault(self)
            self.reply({"object": "list", "data": [{"id": "served", "object": "model", **fake.card}]})

        def posted(self, body: Any) -> None:
            fake.requests.append((self.path, body))
            fault = fake.next_fault(fake.faults)
            if unknown := [name for name in fake.unknown if name in body]:
                self.reply({"error": {"message": f"Unrecognized request argument supplied: {unknown[0]}"}}, 400)
            elif fault is None:
                self.reply(fake.answer(self.path, body))
            else:
                self.close_connection = True
                fault(self)

    with serving_http(Answers) as address:
        fake.url = f"{address}/v1"
        yield fake
