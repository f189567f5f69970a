"""Evaluation through a server that speaks OpenAI's protocol, and that has its bad days."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from scripted import ask, box, settings

from multi_attempt.evaluation.engines import EngineLost, Server
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.statistics import MACRO
from multi_attempt.toy.tokenizer import make_tokenizer

MODEL = Model("model", "served")
END = 258

Fault = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class FakeServer:
    """Answers 5 to every first attempt and 4 to later ones; before that it has its faults, one a request.

    Attributes:
        faults: what to do instead of an answer to the next requests.
        requests: path and body of all requests for an answer.
        gives_ids: whether answers have token ids, as vLLM's do and SGLang's do not.
    """

    faults: list[Fault] = field(default_factory=list)
    requests: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    gives_ids: bool = True
    url: str = ""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path.endswith("/chat/completions"):
            later = sum(message["role"] == "assistant" for message in body["messages"])
            text = box(4 if later else 5)
            length = sum(len(message["content"]) for message in body["messages"])
            choice: dict[str, Any] = {"message": {"role": "assistant", "content": text}}
        else:
            later = bytes(id for id in body["prompt"] if id < 256).count(b"boxed")
            text, length = box(4 if later else 5), len(body["prompt"])
            choice = {"text": text, **({"token_ids": [*text.encode(), END]} if self.gives_ids else {})}
        return {
            "id": "x",
            "object": "completion",
            "created": 0,
            "model": "served",
            "choices": [{"index": 0, "finish_reason": "stop", **choice}],
            "usage": {"prompt_tokens": length, "completion_tokens": len(text) + 1, "total_tokens": 0},
        }

    def next_fault(self) -> Fault | None:
        with self._lock:
            return self.faults.pop(0) if self.faults else None


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


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({"object": "list", "data": [{"id": "served", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fake.requests.append((self.path, body))
            fault = fake.next_fault()
            if fault is None:
                self._reply(fake.answer(self.path, body))
            else:
                self.close_connection = True
                fault(self)

        def _reply(self, content: dict[str, Any]) -> None:
            data = json.dumps(content).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    fake.url = f"http://127.0.0.1:{http.server_port}/v1"
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield fake
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("tokenizer")
    make_tokenizer().save_pretrained(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return str(folder)


def run(engine: Server, output: Path, *questions: str, attempts: int = 2, **changes: Any) -> dict[str, Any]:
    figures = evaluate([MODEL], ask(*questions), settings("oracle", attempts=attempts, **changes), engine, output)
    entry: dict[str, Any] = figures["models"][0]
    return entry


def accuracy(entry: dict[str, Any]) -> list[float]:
    values: list[float] = entry["results"]["oracle"][MACRO]["accuracy"]
    return values


def test_dialogues_go_to_the_server_as_token_ids_and_come_back_as_such(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    entry = run(Server(server.url, tokenizer), tmp_path, "2+2=?")
    assert accuracy(entry) == [0, 1]
    assert {path for path, _ in server.requests} == {"/v1/completions"}
    longest = max((body for _, body in server.requests), key=lambda body: len(body["prompt"]))
    assert bytes(id for id in longest["prompt"] if id < 256) == (
        b"user\n2+2=? (2)\nassistant\n" + box(5).encode() + b"\nuser\nWrong. (1)\nassistant\n"
    )
    for _, body in server.requests:
        assert body["stop_token_ids"] == [END]
        # The sampling of training, whatever the model's generation_config.json says.
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0, 1, -1, 0)
        assert body["repetition_penalty"] == 1


def test_a_server_that_gives_text_only_gets_the_same_token_ids(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    entry = run(Server(server.url, tokenizer), tmp_path / "ids", "2+2=?")
    with_ids = sorted(body["prompt"] for _, body in server.requests)
    server.requests.clear()
    server.gives_ids = False
    assert run(Server(server.url, tokenizer), tmp_path / "text", "2+2=?") == entry
    assert sorted(body["prompt"] for _, body in server.requests) == with_ids


def test_messages_for_servers_that_take_no_token_ids(server: FakeServer, tmp_path: Path) -> None:
    entry = run(Server(server.url, messages=True), tmp_path, "2+2=?")
    assert accuracy(entry) == [0, 1]
    assert {path for path, _ in server.requests} == {"/v1/chat/completions"}
    longest = max((body["messages"] for _, body in server.requests), key=len)
    assert longest == [
        {"role": "user", "content": "2+2=? (2)"},
        {"role": "assistant", "content": box(5)},
        {"role": "user", "content": "Wrong. (1)"},
    ]
    # Tokens as the server counts them: 10 in each attempt.
    assert entry["results"]["oracle"][MACRO]["measures"]["tokens_used"] == [10, 20]
    left = sorted(body["max_tokens"] for _, body in server.requests)
    assert left == [1000 - 10, 1000, 1000]


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(refuse(429), id="429"),
        pytest.param(refuse(503), id="503"),
        pytest.param(drop, id="dropped"),
        pytest.param(hang, id="timed out"),
    ],
)
def test_what_passes_is_tried_again(server: FakeServer, tokenizer: str, tmp_path: Path, fault: Fault) -> None:
    server.faults = [fault, fault]
    entry = run(Server(server.url, tokenizer, timeout=1.0), tmp_path, "2+2=?")
    assert not server.faults
    assert accuracy(entry) == [0, 1]
    assert entry["failed"] == 0


def test_what_does_not_pass_is_a_failed_episode_not_a_wrong_answer(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    server.faults = [refuse(400)]
    engine = Server(server.url, tokenizer, retries=0)
    entry = run(engine, tmp_path, "2+2=?", "3+1=?", attempts=1, concurrency=1)
    assert entry["failed"] == 1
    assert accuracy(entry) == [0]
    assert entry["results"]["oracle"][MACRO]["failed"] == 1
    assert run(engine, tmp_path, "2+2=?", "3+1=?", attempts=1)["failed"] == 0


def test_a_server_that_is_not_there_or_lacks_the_model_is_said_at_once(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    with pytest.raises(EngineLost, match="does not answer"):
        run(Server("http://127.0.0.1:9/v1", tokenizer, retries=0), tmp_path / "a", "x")
    with pytest.raises(ValueError, match="--model = 'other': the server has 'served'"):
        evaluate([Model("m", "other")], ask("x"), settings(), Server(server.url, tokenizer), tmp_path / "b")


def test_a_prompt_that_is_too_long_is_named_before_anything_is_asked(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="--max-prompt-length = 30: the prompt of question 'xxxxxxxxxx"):
        run(Server(server.url, tokenizer), tmp_path, "2+2=?", "x" * 20, max_prompt_length=30)
    assert not server.requests
