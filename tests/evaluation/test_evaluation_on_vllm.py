"""``multi-attempt eval`` for real: vLLM in process, killed and started again, and against ``vllm serve``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from vllm_server import ENVIRONMENT, served

from multi_attempt.evaluation.protocols import PROTOCOLS
from multi_attempt.toy.build import build_toy
from multi_attempt.toy.settings import ToySettings

pytestmark = pytest.mark.vllm

_DEADLINE_SECONDS = 600
_END = 258  # the toy tokenizer's <|im_end|>
_QUESTIONS = 16
# 5 dialogues each of oracle and blind, 4 of shuffled, and 5 fresh samples.
_EPISODES = 19 * _QUESTIONS


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learned the format, and little more: its dialogues are long."""
    folder = tmp_path_factory.mktemp("toy")
    build_toy(folder, train_questions=256, heldout_questions=_QUESTIONS, settings=ToySettings(steps=120))
    return folder


def start(toy: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [
        *(sys.executable, "-m", "multi_attempt.cli", "eval", "--output", str(output), "--protocols", "all"),
        *("--data", str(toy / "heldout.parquet"), "--prompts", "toy", "--max-tokens-per-attempt", "48"),
        *("--max-response-length", "384", *arguments),
    ]
    return subprocess.Popen(command, env={**os.environ, **ENVIRONMENT}, start_new_session=True)


def in_process(toy: Path, output: Path, *arguments: str) -> subprocess.Popen[bytes]:
    options = ("--dtype", "float32", "--engine", "enforce_eager=true", "--engine", "block_size=32")
    return start(toy, output, "--model", f"toy={toy / 'model'}", *options, *arguments)


def figures(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "eval.json").read_text())
    return content["models"][0]["results"]


def episodes(output: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = map(json.loads, (output / "episodes.jsonl").read_text().splitlines())
    return {(row["id"], row["protocol"], row["budget"], row["sample"]): row for row in rows}


def kill(process: subprocess.Popen[bytes]) -> None:
    """``kill -9`` of the process and of the engine that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def test_an_end_token_that_generation_config_alone_names_is_a_stop_and_not_a_cut(toy: Path, tmp_path: Path) -> None:
    ends_at_brace = tmp_path / "toy"
    shutil.copytree(toy, ends_at_brace)
    # vLLM stops at these by itself. The toy's answers end on the second, just before the first.
    ends = {"eos_token_id": [_END, ord("}")]}
    (ends_at_brace / "model" / "generation_config.json").write_text(json.dumps(ends))
    output = tmp_path / "run"
    assert in_process(ends_at_brace, output, "--protocols", "single-run").wait(_DEADLINE_SECONDS) == 0
    answered = [row for row in episodes(output).values() if row["attempts"][0]["answer"] is not None]
    assert len(answered) > _QUESTIONS // 2
    for row in answered:
        assert row["messages"][1]["content"].endswith("}")
        assert not row["attempts"][0]["truncated"]
        assert len(row["attempts"]) > 1 or row["stop"] == "correct"
    # Where the engine's tokens are a dialogue's, it goes on to its end.
    assert {row["stop"] for row in answered} & {"exhausted", "correct"}


def test_a_context_that_does_not_fit_the_memory_is_told_with_what_helps(
    toy: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    monkeypatch.delitem(ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE")  # which would come before the engine's argument
    # Half of the toy's context of 1024 tokens: 3 layers, keys and values of 2 heads of width 32, in fp32.
    memory = ("--engine", f"kv_cache_memory_bytes={512 * 3 * 2 * 2 * 32 * 4}", "--protocols", "single-run")
    assert in_process(toy, tmp_path / "all", *memory, "--max-response-length", "none").wait(_DEADLINE_SECONDS) == 1
    said = capfd.readouterr().err
    assert "Where its memory holds no 1024 tokens (max_model_len): lower the context (--engine max_model_len=N)" in said
    # With a bound on the response the engine needs only what the prompts and that take.
    assert in_process(toy, tmp_path / "bounded", *memory).wait(_DEADLINE_SECONDS) == 0


def test_all_protocols_killed_half_way_and_on_replicas_and_served_come_to_the_same(toy: Path, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    process = in_process(toy, killed)
    end = time.monotonic() + _DEADLINE_SECONDS
    file = killed / "episodes.jsonl"
    while not file.exists() or file.read_bytes().count(b"\n") < _EPISODES // 4:
        assert process.poll() is None, "the evaluation ended"
        assert time.monotonic() < end
        time.sleep(0.02)
    kill(process)
    kept = file.read_bytes().count(b"\n")
    assert kept < _EPISODES
    assert not (killed / "eval.json").exists()
    # Goes on with two engines, which changes nothing of the answers.
    assert in_process(toy, killed, "--replicas", "2").wait(_DEADLINE_SECONDS) == 0
    assert file.read_bytes().count(b"\n") == _EPISODES
    assert set(figures(killed)) == set(PROTOCOLS)

    with served(toy / "model", "toy", "--block-size", "32", "--max-model-len", "448") as url:
        server = tmp_path / "served"
        arguments = ("--model", "toy", "--server", url, "--tokenizer", str(toy / "model"))
        assert start(toy, server, *arguments).wait(_DEADLINE_SECONDS) == 0
        messages = tmp_path / "messages"
        assert start(toy, messages, "--model", "toy", "--server", url, "--messages").wait(_DEADLINE_SECONDS) == 0

    ours, theirs = episodes(killed), episodes(server)
    assert len(ours) == _EPISODES
    for place, episode in ours.items():
        if place[1] != "independent":  # greedy
            assert theirs[place] == episode
    for name in ("oracle", "single-run", "blind", "shuffled"):
        assert figures(server)[name] == figures(killed)[name]
    print("sampled alike:", sum(theirs[place] == episode for place, episode in ours.items()), "of", len(ours))
    # The toy tokenizer reads its own text as it was generated, so that messages come to the same, too.
    assert figures(messages)["oracle"] == figures(killed)["oracle"]
