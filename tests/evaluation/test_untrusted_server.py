"""Servers that nobody has to trust: slow ones, ones that send elsewhere, tell secrets, or give what is no answer."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_server import DRIPS, FakeServer, Fault, drip, echo, send, serving
from scripted import ask, box, settings

from multi_attempt.cli import main
from multi_attempt.evaluation.engines import EngineLost, Server
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.statistics import MACRO

MODEL = Model("model", "served")
KEY = "sk-mine-0123456789"
PASSWORD = "tr%40vel-pass"
LOGIN = base64.b64encode(b"me:tr@vel-pass").decode()
SECRETS = (KEY, PASSWORD, "tr@vel-pass", LOGIN)


def run(engine: Server, output: Path, *questions: str, attempts: int = 1, **changes: Any) -> dict[str, Any]:
    how = settings("oracle", attempts=attempts, **changes)
    figures = evaluate([MODEL], ask(*(questions or ("2+2=?",))), how, engine, output)
    entry: dict[str, Any] = figures["models"][0]
    return entry


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "episodes.jsonl").read_text().splitlines()]


@pytest.fixture(params=["token ids", "messages"])
def both_ways(request: pytest.FixtureRequest, server: FakeServer, tokenizer: str) -> dict[str, Any]:
    """How a server is asked: with token ids, or with messages."""
    return {"url": server.url, "tokenizer": tokenizer, "messages": request.param == "messages", "retries": 0}


# ---- Time ----


def test_a_server_that_drips_is_not_waited_for(server: FakeServer, both_ways: dict[str, Any], tmp_path: Path) -> None:
    run(Server(**both_ways), tmp_path / "first")  # which takes long to begin
    server.faults = [drip]
    start = time.monotonic()
    entry = run(Server(**both_ways, timeout=0.5), tmp_path / "second")
    assert time.monotonic() - start < DRIPS
    assert entry["failed"] == 1
    assert "APITimeoutError" in rows(tmp_path / "second")[0]["error"]


def test_a_request_to_a_server_that_drips_once_is_repeated(
    server: FakeServer, both_ways: dict[str, Any], tmp_path: Path
) -> None:
    server.faults = [drip]
    assert run(Server(**{**both_ways, "retries": 1}, timeout=0.5), tmp_path)["failed"] == 0
    assert len(server.requests) == 2


def test_a_list_of_models_that_drips_is_not_waited_for(
    server: FakeServer, both_ways: dict[str, Any], tmp_path: Path
) -> None:
    server.model_faults = [drip]
    with pytest.raises(EngineLost, match="does not answer: APITimeoutError"):
        run(Server(**both_ways, timeout=0.5), tmp_path)


# ---- Other addresses ----


@pytest.fixture
def other() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_questions_go_to_no_other_address(
    server: FakeServer, other: FakeServer, both_ways: dict[str, Any], tmp_path: Path, status: int
) -> None:
    elsewhere = other.url.replace("127.0.0.1", "localhost")
    server.faults = [send(b"", status, Location=f"{elsewhere}/completions")]
    with pytest.raises(
        EngineLost, match=f"sends on to '{elsewhere}/completions', and questions go only to the address"
    ):
        run(Server(**both_ways), tmp_path / "question")
    server.model_faults = [send(b"", status, Location=f"{elsewhere}/models")]
    with pytest.raises(EngineLost, match=f"sends on to '{elsewhere}/models'"):
        run(Server(**both_ways), tmp_path / "models")
    assert not other.requests


# ---- Secrets ----


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, both_ways: dict[str, Any]) -> dict[str, Any]:
    """How a server is asked that has a key and a password."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    return {**both_ways, "url": both_ways["url"].replace("//", f"//me:{PASSWORD}@")}


def all_text(folder: Path) -> str:
    return "".join(path.read_text() for path in folder.rglob("*") if path.is_file())


def test_keys_that_a_server_says_again_are_not_written(
    server: FakeServer,
    secrets: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.faults = [
        echo,
        send({"error": {"message": f"no such key: {KEY}"}}, 401),
        send(KEY.encode(), 403, "text/html"),
    ]
    server.faults += [send({"choices": [{"finish_reason": f"no {KEY}", "text": "", "message": {"content": ""}}]})]
    server.faults += [send({"error": f"password {PASSWORD}"}), send(f"<p>{KEY}</p>".encode(), kind="text/html")]
    monkeypatch.setattr(FakeServer, "answer", answer_with_keys)
    asked = [str(number) for number in range(7)]
    entry = run(Server(**secrets), tmp_path, *asked, concurrency=7)
    assert entry["failed"] == 6
    said = all_text(tmp_path) + caplog.text
    assert "***" in said
    assert "authorization" in said.lower()
    for secret in SECRETS:
        assert secret not in said


plain_answer = FakeServer.answer


def answer_with_keys(self: FakeServer, path: str, body: dict[str, Any]) -> dict[str, Any]:
    """A model's answer in which the server says the key again."""
    text = f"{KEY} {LOGIN} {box(5)}"
    content = plain_answer(self, path, body)
    choice = content["choices"][0]
    choice.update(
        {"message": {"content": text}} if "message" in choice else {"text": text, "token_ids": [*text.encode(), 258]}
    )
    return content


@pytest.mark.parametrize(
    "fault",
    [
        echo,
        send(b"<html>"),
        send({"data": [{"id": f"{KEY} {PASSWORD}"}]}),
        send({}, 307, Location=f"http://x/{PASSWORD}"),
    ],
)
def test_keys_are_not_said_where_a_server_does_not_start(
    server: FakeServer, secrets: dict[str, Any], tmp_path: Path, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    server.model_faults = [fault]
    assert command(secrets["url"], secrets["tokenizer"], tmp_path, "--retries", "0") != 0
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert "--server" in said.err or "the server has" in said.err
    for secret in SECRETS:
        assert secret not in said.err + said.out + all_text(tmp_path)


def test_a_password_is_used_and_not_said(server: FakeServer, secrets: dict[str, Any], tmp_path: Path) -> None:
    seen: list[str | None] = []
    server.model_faults = [lambda handler: seen.append(handler.headers["Authorization"])]
    with pytest.raises(EngineLost) as raised:
        run(Server(**secrets), tmp_path)
    assert seen == [f"Basic {LOGIN}"]
    assert f"--server = '{server.url}'" in str(raised.value)
    assert PASSWORD not in repr(Server(**secrets))


def command(url: str, tokenizer: str, folder: Path, *arguments: str) -> int:
    data = folder / "questions.jsonl"
    row = {"prompt": [{"role": "user", "content": "2+2=?"}], "reward_model": {"ground_truth": "4"}}
    data.write_text(json.dumps(row) + "\n")
    where = ("--server", url, "--tokenizer", tokenizer, "--data", str(data), "--output", str(folder / "run"))
    return main(["eval", "--model", "served", "--attempts", "2", "--prompts", "toy", *where, *arguments])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"url": "localhost:8000/v1"},
            r"--server = 'localhost:8000/v1' must be an address like http://localhost:8000/v1",
        ),
        ({"url": "http://me:pass@:1"}, r"--server = '\*\*\*@:1' must be an address"),
        ({"url": "http://host:99999/v1"}, "must be an address"),
        ({"timeout": float("nan")}, "--timeout = nan must be a number of seconds above 0"),
        ({"timeout": 0.0}, "--timeout = 0.0 must be"),
        ({"retries": -1}, "--retries = -1 must be 0 or more"),
    ],
)
def test_a_connection_that_makes_no_sense_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Server(**{"url": "http://localhost:8000/v1", **changes})


# ---- What is no answer ----

NO_ANSWERS = {
    "a page": send(b"<html><body>Sign in</body></html>", kind="text/html"),
    "a page called JSON": send(b"<html>"),
    "an error called a success": send({"error": {"message": "overloaded"}}),
    "an error in words": send({"error": "overloaded"}),
    "a list": send(b"[1]"),
    "null": send(b"null"),
    "nothing": send(b""),
    "no choices": send({"choices": []}),
    "choices that are none": send({"choices": "x"}),
    "an empty choice": send({"choices": [{}]}),
    "null choices": send({"choices": [None]}),
    "a choice without text": send({"choices": [{"finish_reason": "stop", "index": 0}]}),
    "text that is none": send({"choices": [{"finish_reason": "stop", "text": 3, "message": {"content": [3]}}]}),
    "ids that are none": send({"choices": [{"finish_reason": "stop", "token_ids": ["x"], "message": {"content": 3}}]}),
    "no usage": send({"choices": [{"finish_reason": "stop", "token_ids": 1, "message": {"content": "4"}}]}),
    "tokens without end": send(
        {
            "choices": [{"finish_reason": "stop", "token_ids": [-1], "message": {"content": "4"}}],
            "usage": {"prompt_tokens": 1, "completion_tokens": 10**400},
        }
    ),
    "an abort": send({"choices": [{"finish_reason": "abort", "text": "4", "message": {"content": "4"}}]}),
    "a filter": send({"choices": [{"finish_reason": "content_filter", "text": "4", "message": {"content": "4"}}]}),
}


@pytest.mark.parametrize("fault", NO_ANSWERS.values(), ids=NO_ANSWERS)
def test_what_is_no_answer_is_a_failed_episode(
    server: FakeServer, both_ways: dict[str, Any], tmp_path: Path, fault: Fault
) -> None:
    server.faults = [fault]
    entry = run(Server(**both_ways), tmp_path, "2+2=?", "1+3=?", concurrency=1)
    assert entry["failed"] == 1
    [error] = [row["error"] for row in rows(tmp_path) if row["error"]]
    assert error.startswith(("ServerError: ", "OverflowError: "))


@pytest.mark.parametrize(
    "name", ["a page", "a page called JSON", "an error called a success", "a list", "null", "nothing"]
)
def test_what_is_no_list_of_models_is_said_at_once(
    server: FakeServer, both_ways: dict[str, Any], tmp_path: Path, name: str
) -> None:
    server.model_faults = [NO_ANSWERS[name]]
    with pytest.raises(EngineLost, match=r"--server = '.*' (does not answer|gives no list of models)"):
        run(Server(**both_ways), tmp_path)


@pytest.mark.parametrize("length", ["4096", -1, 0, True, [], 1e9])
def test_a_context_that_is_none_is_not_believed(
    server: FakeServer, tokenizer: str, tmp_path: Path, length: object
) -> None:
    server.card = {"max_model_len": length, "owned_by": 3}
    run(Server(server.url, tokenizer), tmp_path, max_response_length=None)
    assert {len(body["prompt"]) + body["max_tokens"] for _, body in server.requests} == {32768}  # Qwen2Config's


# ---- Answers without content ----


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"content": None, "reasoning_content": box(4)}, "reasoning_content"),
        ({"content": "", "reasoning_content": box(4)}, "reasoning_content"),
        ({"content": "\n\n", "reasoning": box(4)}, "reasoning"),
        ({"content": None, "refusal": "I will not"}, "refusal"),
        ({"content": None, "tool_calls": [{"id": "x", "type": "function"}]}, "tool_calls"),
        ({"content": None}, "content=None"),
    ],
)
def test_an_answer_without_content_is_not_scored_wrong(
    server: FakeServer, tmp_path: Path, said: dict[str, Any], named: str
) -> None:
    server.said = said
    entry = run(Server(server.url, messages=True), tmp_path)
    assert entry["failed"] == 1
    assert entry["results"]["oracle"][MACRO]["accuracy"] == [None]
    [row] = rows(tmp_path)
    assert "the answer has no content to grade" in row["error"]
    assert named in row["error"]


def test_an_answer_that_was_cut_in_its_thoughts_is_wrong(server: FakeServer, tmp_path: Path) -> None:
    server.said, server.ends_by = {"content": None, "reasoning_content": "hm"}, (258, "length")
    entry = run(Server(server.url, messages=True), tmp_path)
    assert entry["failed"] == 0
    assert entry["results"]["oracle"][MACRO]["accuracy"] == [0]
    assert entry["results"]["oracle"][MACRO]["measures"]["truncation_rate"] == [1]


def test_an_answer_with_thoughts_beside_it_is_graded_and_one_of_nothing_is_wrong(
    server: FakeServer, tmp_path: Path
) -> None:
    server.said = {"content": box(4), "reasoning_content": "hm"}
    entry = run(Server(server.url, messages=True), tmp_path / "right")
    assert entry["results"]["oracle"][MACRO]["accuracy"] == [1]
    server.said = {"content": "", "reasoning_content": ""}
    entry = run(Server(server.url, messages=True), tmp_path / "nothing")
    assert (entry["failed"], entry["results"]["oracle"][MACRO]["accuracy"]) == (0, [0])


# ---- Dialogues that are too long ----

TOO_LONG = send({"error": {"message": "This model's maximum context length is 60 tokens.", "code": 400}}, 400)


def test_a_dialogue_that_outgrows_a_context_is_the_models_failure(server: FakeServer, tmp_path: Path) -> None:
    # The one attempt of one, and the first of two; the second is too long, also where no limit is named.
    server.faults = [None, None, TOO_LONG, TOO_LONG]
    entry = run(Server(server.url, messages=True), tmp_path, attempts=2, concurrency=1)
    found = entry["results"]["oracle"][MACRO]
    assert (entry["failed"], found["failed"], found["accuracy"]) == (0, 0, [0, 0])
    assert found["measures"]["truncation_rate"] == [0, 1]
    assert rows(tmp_path)[1]["stop"] == "truncated"
    assert [len(row["attempts"]) for row in rows(tmp_path)] == [1, 1]


def test_a_limit_that_is_too_long_is_what_the_context_leaves(server: FakeServer, tmp_path: Path) -> None:
    server.faults = [TOO_LONG]
    entry = run(Server(server.url, messages=True), tmp_path)
    assert entry["failed"] == 0
    assert [body.get("max_tokens") for _, body in server.requests] == [1000, None]


def test_a_question_that_is_too_long_fails(server: FakeServer, tmp_path: Path) -> None:
    server.faults = [TOO_LONG, TOO_LONG]
    entry = run(Server(server.url, messages=True), tmp_path)
    assert entry["failed"] == 1
    assert "maximum context length" in rows(tmp_path)[0]["error"]
