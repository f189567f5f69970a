"""Evaluation on several engines at once: processes of this machine, and servers."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_server import FakeServer, refuse, serving
from scripted import ScriptedEngine, ask, box, settings
from scripted_process import ScriptedProcess, notes

from multi_attempt.cli import main
from multi_attempt.evaluation.balance import Servers, opened_together
from multi_attempt.evaluation.engines import Engine, EngineLost, Partner, Request, Server
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.replicas import VISIBLE, Replicas, device_groups
from multi_attempt.model_settings import DialogueSettings

MODEL = Model("model", "served")
QUESTIONS = ask(*(f"{first}+{second}=?" for first in range(4) for second in range(3)))


def run(engine: Engine, output: Path, **changes: Any) -> dict[str, Any]:
    asked = settings("oracle", "independent", temperature=1.0, attempts=3, **changes)
    return evaluate([MODEL], QUESTIONS, asked, engine, output)


# ---- The balance ----


class Together:
    """Scripted engines as one."""

    def __init__(self, *engines: ScriptedEngine) -> None:
        self.engines = engines

    def prepare(self, model: str, dialogue: DialogueSettings) -> Partner:
        return self.engines[0].prepare(model, dialogue)

    def open(self, partner: Partner) -> Any:
        return opened_together({f"engine {number}": engine.open(partner) for number, engine in enumerate(self.engines)})


def by_seed(question: str, budget: int, attempt: int, request: Request) -> str:
    return box(request.seed(attempt) % 6)


def test_episodes_are_shared_out_and_come_to_what_one_engine_gives(tmp_path: Path) -> None:
    alone, one, other = (ScriptedEngine(by_seed) for _ in range(3))
    assert run(Together(one, other), tmp_path / "two", concurrency=5) == run(alone, tmp_path / "one", concurrency=5)
    # Each is asked for each episode once, and the same number of them.
    asked = [request.key for engine in (one, other) for _, request in engine.asked]
    assert sorted(asked) == sorted(request.key for _, request in alone.asked)
    assert abs(len(one.asked) - len(other.asked)) <= 1


# ---- Processes ----


def replicas(tokenizer: str, folder: Path, *devices: str | None, **changes: Any) -> Replicas:
    folder.mkdir(exist_ok=True)
    return Replicas(ScriptedProcess(folder=str(folder), vocabulary=tokenizer, **changes), devices)


def test_replicas_are_processes_with_gpus_of_their_own(tokenizer: str, tmp_path: Path) -> None:
    two = run(replicas(tokenizer, tmp_path / "notes", "0,1", "2,3"), tmp_path / "two")
    assert two == run(replicas(tokenizer, tmp_path / "alone", None), tmp_path / "one")
    asked = notes(tmp_path / "notes")
    assert sorted({gpus for said in asked.values() for gpus, _ in said}) == ["0,1", "2,3"]
    assert all(len({gpus for gpus, _ in said}) == 1 for said in asked.values())
    assert str(os.getpid()) not in asked
    # What a retry is asked after was asked of the same process, whose cache has it.
    retries = 0
    for said in asked.values():
        prompts = Counter(prompt for _, prompt in said)
        for prompt in prompts:
            if "Wrong." in prompt:
                retries += 1
                before = prompt[: prompt.rindex("\\boxed")]
                assert before in prompts
    assert retries > len(QUESTIONS)


def test_a_replica_that_dies_ends_the_evaluation_by_name_and_the_rest_is_kept(tokenizer: str, tmp_path: Path) -> None:
    engine = replicas(tokenizer, tmp_path / "notes", "0", "1", dies="1")
    with pytest.raises(EngineLost, match=r"replica 2 of 2 \(GPU 1\): the process of its engine has ended, with -9"):
        run(engine, tmp_path / "run", concurrency=2)
    played = run(replicas(tokenizer, tmp_path / "notes", "0", "1"), tmp_path / "run")
    assert played == run(replicas(tokenizer, tmp_path / "alone", None), tmp_path / "one")


def test_a_replica_that_does_not_start_is_named(tokenizer: str, tmp_path: Path) -> None:
    with pytest.raises(EngineLost, match=r"replica 1 of 2: no memory for \d+ tokens"):
        run(replicas(tokenizer, tmp_path / "notes", None, None, starts=False), tmp_path / "run")


# ---- Their GPUs ----


def test_replicas_take_the_visible_gpus_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 5)
    monkeypatch.delenv(VISIBLE, raising=False)
    assert device_groups("all", {}) == ("0", "1", "2", "3", "4")
    assert device_groups("2", {"tensor_parallel_size": 2}) == ("0,1", "2,3")
    monkeypatch.setenv(VISIBLE, "3,4,5,6,7")
    assert device_groups("all", {"tensor_parallel_size": 2}) == ("3,4", "5,6")


def test_without_gpus_a_number_of_replicas_is_taken_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert device_groups("2", {}) == (None, None)


@pytest.mark.parametrize(
    ("arguments", "gpus", "parts"),
    [
        ("--replicas 3", 2, ["--replicas = 3", "2 GPUs, enough for 2"]),
        (
            "--replicas all --engine tensor_parallel_size=4",
            2,
            ["--replicas = all with 4 GPUs for each", "enough for 0"],
        ),
        ("--replicas all", 0, ["--replicas = 'all'", "no GPUs", "say how many"]),
        ("--replicas 0", 2, ["--replicas = '0'", "or all"]),
        ("--replicas many", 2, ["--replicas = 'many'", "or all"]),
        ("--replicas 1 --engine tensor_parallel_size=0", 2, ["--engine tensor_parallel_size=0"]),
        ("--replicas 2 --server http://a/v1", 2, ["--replicas = 2", "--server URL URL"]),
        ("--server http://a/v1 http://a/v1", 2, ["--server = 'http://a/v1' is named twice"]),
    ],
)
def test_what_cannot_be_is_told_before_anything_starts(
    arguments: str, gpus: int, parts: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    assert main(["eval", "--model", "org/model", "--data", "nowhere", *arguments.split()]) == 2
    message = capsys.readouterr().err
    assert [part for part in parts if part not in message] == [], message


# ---- Servers ----


@pytest.fixture
def other() -> Iterator[FakeServer]:
    with serving() as fake:
        yield fake


def test_questions_are_shared_out_among_servers(
    server: FakeServer, other: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    one = run(Server(server.url, tokenizer), tmp_path / "one")
    prompts = Counter(bytes(id for id in body["prompt"] if id < 256) for _, body in server.requests)
    server.requests.clear()
    both = run(Servers((Server(server.url, tokenizer), Server(other.url, tokenizer))), tmp_path / "two")
    assert both == one
    found = [[bytes(id for id in body["prompt"] if id < 256) for _, body in each.requests] for each in (server, other)]
    assert Counter([*found[0], *found[1]]) == prompts
    assert all(len(said) > len(QUESTIONS) for said in found)
    for said in found:
        for prompt in said:
            before, retried, _ = prompt.partition(box(5).encode())
            assert not retried or before in said


def test_a_server_that_answers_nothing_any_more_is_named(
    server: FakeServer, other: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    other.faults = [refuse(500)] * 1000
    engines = Servers(tuple(Server(each.url, tokenizer, retries=0) for each in (server, other)))
    with pytest.raises(EngineLost, match=rf"{other.url}: \d+ attempts in a row failed, the last by .*500"):
        run(engines, tmp_path)


def test_servers_that_differ_are_refused(server: FakeServer, other: FakeServer, tokenizer: str, tmp_path: Path) -> None:
    server.card, other.card = {"max_model_len": 512}, {"max_model_len": 1024}
    with pytest.raises(ValueError, match=rf"{server.url} \(unknown, 512 tokens\), {other.url} \(unknown, 1024 tokens"):
        run(Servers((Server(server.url, tokenizer), Server(other.url, tokenizer))), tmp_path)
