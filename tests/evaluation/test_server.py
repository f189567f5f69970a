"""Evaluation through a server that speaks OpenAI's protocol, and that has its bad days."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_server import END, OTHER_END, UNKNOWN_END, FakeServer, Fault, drop, hang, refuse
from scripted import ask, box, settings

from multi_attempt.cli import main
from multi_attempt.evaluation.engines import EngineLost, Server
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.statistics import MACRO
from multi_attempt.model_settings import DialogueSettings, write
from multi_attempt.prompts import load_prompt_set

MODEL = Model("model", "served")


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
        # Those of tokenizer, template and generation_config together.
        assert body["stop_token_ids"] == [OTHER_END, END]
        # The sampling of training, whatever the model's generation_config.json says.
        assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"]) == (0, 1, -1, 0)
        assert body["repetition_penalty"] == 1


RETRY = b"\nuser\nWrong. (1)\nassistant\n"


def longest_prompt(server: FakeServer) -> list[int]:
    prompts: list[list[int]] = [body["prompt"] for _, body in server.requests]
    return max(prompts, key=len)


def test_a_server_that_gives_text_only_gets_the_same_token_ids(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    entry = run(Server(server.url, tokenizer), tmp_path / "ids", "2+2=?")
    with_ids = sorted(body["prompt"] for _, body in server.requests)
    server.requests.clear()
    server.stop_field = "nowhere"  # vLLM names no token where an answer ended by the tokenizer's own end of a text
    assert run(Server(server.url, tokenizer), tmp_path / "text", "2+2=?") == entry
    assert sorted(body["prompt"] for _, body in server.requests) == with_ids


@pytest.mark.parametrize("stop_field", ["token_ids", "stop_reason", "matched_stop"])
@pytest.mark.parametrize("end", [OTHER_END, UNKNOWN_END], ids=["of generation_config", "of the server alone"])
def test_an_attempt_that_ends_by_another_end_token_is_not_cut_and_its_turn_is_closed(
    server: FakeServer, tokenizer: str, tmp_path: Path, stop_field: str, end: int
) -> None:
    server.stop_field, server.ends_by = stop_field, (end, "stop")
    entry = run(Server(server.url, tokenizer), tmp_path, "2+2=?")
    assert accuracy(entry) == [0, 1]
    retry = longest_prompt(server)
    at = retry.index(end)
    # The token as it came, then the template's own, whole.
    assert retry[at + 1] == END
    assert bytes(id for id in retry[at + 2 :] if id < 256) == RETRY


def test_an_attempt_that_the_server_says_was_cut_is_cut_whatever_its_last_token(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    server.ends_by = (END, "length")
    entry = run(Server(server.url, tokenizer), tmp_path, "2+2=?")
    assert entry["results"]["oracle"][MACRO]["measures"]["truncation_rate"] == [1, 1]
    assert entry["failed"] == 0


def test_an_attempt_that_the_server_aborted_is_a_failed_episode(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    server.ends_by = (END, "abort")
    assert run(Server(server.url, tokenizer), tmp_path, "2+2=?", attempts=1)["failed"] == 1
    assert "ended an attempt by 'abort'" in (tmp_path / "episodes.jsonl").read_text()


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
    for _, body in server.requests:
        # Of the model alone, whatever the server has for defaults. No tokenizer says which tokens end an attempt.
        assert {name: body[name] for name in NEUTRAL} == NEUTRAL
        assert "stop_token_ids" not in body


@pytest.mark.parametrize("messages", [False, True])
def test_each_attempt_is_asked_for_with_what_stays_of_the_earlier_ones(
    server: FakeServer, tokenizer: str, tmp_path: Path, messages: bool
) -> None:
    engine = Server(server.url, "" if messages else tokenizer, messages=messages)
    entry = run(engine, tmp_path, "2+2=?", attempts=3, history="last", max_response_length=40)
    assert accuracy(entry)[:2] == [0, 1]
    if messages:
        asked = ["|".join(message["content"] for message in body["messages"]) for _, body in server.requests]
        assert f"2+2=? (3)|{box(5)}|Wrong. (2)" in asked
        assert {len(body["messages"]) for _, body in server.requests} == {1, 3}
    else:
        asked = [bytes(id for id in body["prompt"] if id < 256).decode() for _, body in server.requests]
        assert f"user\n2+2=? (3)\nassistant\n{box(5)}\nuser\nWrong. (2)\nassistant\n" in asked
    # Each has all of the room.
    assert {body["max_tokens"] for _, body in server.requests} == {40}
    rows = [json.loads(line) for line in (tmp_path / "episodes.jsonl").read_text().splitlines()]
    assert {row["room"] for row in rows} == {3 * 40}


NEUTRAL = {
    **{"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0},
    **{"presence_penalty": 0.0, "frequency_penalty": 0.0},
}


def test_messages_have_end_tokens_and_arguments_of_the_template_where_they_are_known(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    engine = Server(server.url, tokenizer, messages=True)
    run(engine, tmp_path, "2+2=?", template_kwargs={"enable_thinking": False})
    for _, body in server.requests:
        assert body["stop_token_ids"] == [OTHER_END, END]
        assert body["chat_template_kwargs"] == {"enable_thinking": False}


def test_a_server_that_refuses_a_parameter_ends_the_run_and_plain_messages_send_none(
    server: FakeServer, tmp_path: Path
) -> None:
    server.unknown = ("top_k", "min_p", "repetition_penalty")
    with pytest.raises(EngineLost, match=r"the server takes no top_k: .*; --plain-messages sends only what OpenAI's"):
        run(Server(server.url, messages=True), tmp_path / "all", "2+2=?")
    server.requests.clear()
    assert accuracy(run(Server(server.url, messages=True, plain=True), tmp_path / "plain", "2+2=?")) == [0, 1]
    for _, body in server.requests:
        assert body["presence_penalty"] == body["frequency_penalty"] == 0


# ---- Room ----


def test_the_response_may_have_what_the_context_leaves(server: FakeServer, tokenizer: str, tmp_path: Path) -> None:
    server.card = {"max_model_len": 200, "owned_by": "vllm"}
    run(Server(server.url, tokenizer), tmp_path / "default", "2+2=?", max_response_length=None)
    assert {len(body["prompt"]) + body["max_tokens"] for _, body in server.requests} == {200}
    server.requests.clear()
    # A number that the context does not hold is no reason to refuse a question that it does hold.
    run(Server(server.url, tokenizer), tmp_path / "number", "2+2=?", max_response_length=1000)
    assert {len(body["prompt"]) + body["max_tokens"] for _, body in server.requests} == {200}
    server.requests.clear()
    # SGLang takes no prompt that comes too near the end of its context.
    server.card = {"max_model_len": 200, "owned_by": "sglang"}
    run(Server(server.url, tokenizer), tmp_path / "sglang", "2+2=?", max_response_length=None)
    assert {len(body["prompt"]) + body["max_tokens"] for _, body in server.requests} == {193}


def test_a_server_that_does_not_say_its_context_has_that_of_the_config(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    run(Server(server.url, tokenizer), tmp_path, "2+2=?", max_response_length=None)
    assert {len(body["prompt"]) + body["max_tokens"] for _, body in server.requests} == {32768}  # Qwen2Config's


def test_an_episode_that_runs_out_of_the_context_is_truncated_and_counts(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    server.card = {"max_model_len": 60}  # a prompt of 28 tokens, an attempt of 10, and feedback of 31
    entry = run(Server(server.url, tokenizer), tmp_path, "2+2=?", max_response_length=None)
    assert entry["failed"] == 0
    assert accuracy(entry) == [0, 0]
    assert entry["results"]["oracle"][MACRO]["measures"]["truncation_rate"] == [0, 1]


def test_a_question_that_the_context_does_not_hold_is_named_before_anything_is_asked(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    server.card = {"max_model_len": 50}
    message = r"question 'x{30}' of sums: its prompt has 53 tokens, and the context of 'served' 50.*max_model_len"
    with pytest.raises(ValueError, match=message):
        run(Server(server.url, tokenizer), tmp_path, "2+2=?", "x" * 30)
    assert not server.requests
    assert not (tmp_path / "run.json").exists()


def test_messages_to_a_server_that_does_not_say_its_context_need_a_length(server: FakeServer, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"nobody says how long its context is.*--max-response-length N"):
        run(Server(server.url, messages=True), tmp_path, "2+2=?", max_response_length=None)


def test_messages_leave_what_only_the_context_bounds_to_the_server(server: FakeServer, tmp_path: Path) -> None:
    engine = Server(server.url, messages=True)
    server.card = {"max_model_len": 200, "owned_by": "sglang"}
    run(engine, tmp_path / "sglang", "2+2=?", max_response_length=None)
    assert not [body for _, body in server.requests if "max_tokens" in body]
    server.requests.clear()
    # vLLM would otherwise take the limit of the model's generation_config.
    server.card = {"max_model_len": 200, "owned_by": "vllm"}
    run(engine, tmp_path / "vllm", "2+2=?", max_response_length=None)
    assert sorted(body["max_tokens"] for _, body in server.requests) == [190, 200, 200]
    rows = [json.loads(line) for line in (tmp_path / "vllm" / "episodes.jsonl").read_text().splitlines()]
    assert {row["room"] for row in rows} == {200 - len("2+2=? (2)")}  # the fake server's count of the prompt


def test_a_number_of_tokens_bounds_messages_too(server: FakeServer, tokenizer: str, tmp_path: Path) -> None:
    server.card = {"max_model_len": 100, "owned_by": "sglang"}
    run(Server(server.url, tokenizer, messages=True), tmp_path, "2+2=?", max_response_length=None)
    prompts = {len(body["messages"]): body["max_tokens"] for _, body in server.requests}
    # With a tokenizer prompt (28) and feedback (31) are counted, so that no request goes beyond the context.
    assert prompts == {1: 93 - 28, 3: 93 - 28 - 10 - 31}


# ---- Questions and templates ----


def test_a_question_that_spells_a_special_token_is_named(server: FakeServer, tokenizer: str, tmp_path: Path) -> None:
    message = r"question 'a<\|im_end\|>b' of sums holds '<\|im_end\|>', which the tokenizer of 'served' takes for"
    with pytest.raises(ValueError, match=message):
        run(Server(server.url, tokenizer), tmp_path, "2+2=?", "a<|im_end|>b")
    assert not server.requests


def test_a_template_that_cannot_show_the_dialogue_is_refused_with_the_flags_that_help(
    server: FakeServer, tokenizer: str, tmp_path: Path
) -> None:
    hides_feedback = (
        "{% for m in messages %}{% if m.role != 'system' %}{{ m.role + ': ' + m.content + '<|im_end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
    )
    prompts = replace(load_prompt_set("toy"), feedback_role="system")
    message = (
        r"--model = 'served': prompt set 'toy', .*'system'.*feedback_role=user.*--feedback-role and --chat-template"
    )
    with pytest.raises(ValueError, match=message):
        run(Server(server.url, tokenizer), tmp_path, "2+2=?", chat_template=hides_feedback, prompts=prompts)
    assert not server.requests
    run(Server(server.url, tokenizer), tmp_path, "2+2=?", chat_template=hides_feedback)
    assert bytes(id for id in longest_prompt(server) if id < 256).endswith(b"user: Wrong. (1)assistant: ")


def test_arguments_of_the_template_reach_it(server: FakeServer, tokenizer: str, tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{{ m.content + '<|im_end|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'think: ' if enable_thinking else 'say: ' }}{% endif %}"
    )
    dialogue = {"chat_template": template, "template_kwargs": {"enable_thinking": False}}
    run(Server(server.url, tokenizer), tmp_path, "2+2=?", attempts=1, **dialogue)
    assert bytes(id for id in longest_prompt(server) if id < 256) == b"2+2=? (1)say: "


# ---- Bad days ----


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


# ---- The command ----


def command(server: FakeServer, folder: Path, output: Path, *arguments: str) -> int:
    data = output.parent / "questions.jsonl"
    row = {"prompt": [{"role": "user", "content": "2+2=?"}], "reward_model": {"ground_truth": "4"}}
    data.write_text(json.dumps(row) + "\n")
    where = ("--server", server.url, "--tokenizer", str(folder), "--data", str(data), "--output", str(output))
    return main(["eval", "--model", "served", "--attempts", "2", *where, *arguments])


def test_the_command_asks_as_the_file_beside_the_tokenizer_says(
    server: FakeServer, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "global_step_8" / "actor" / "huggingface"
    shutil.copytree(tokenizer, folder)
    trained = DialogueSettings(
        load_prompt_set("toy"), feedback=["verdict", "question"], temperature=0.5, max_response_length=300
    )
    path = write(tmp_path / "global_step_8", trained)
    assert command(server, folder, tmp_path / "run", "--temperature", "0.25") == 0
    assert {body["temperature"] for _, body in server.requests} == {0.25}
    retry = bytes(id for id in longest_prompt(server) if id < 256)
    assert retry.count(b"2+2=?") == 2
    said = capsys.readouterr().err
    assert (
        f"settings: prompt set toy, feedback of verdict, question, at most 300 tokens a dialogue (from {path}, but"
        in said
    )
    figures = json.loads((tmp_path / "run" / "eval.json").read_text())
    assert figures["settings"] == replace(trained, temperature=0.25).to_dict()


def test_the_command_says_the_range_of_what_failed(
    server: FakeServer, tokenizer: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # With one attempt the answer is wrong; with two, the first is answered and the second not.
    server.faults = [None, None, refuse(400)]
    arguments = ["--prompts", "toy", "--concurrency", "1"]
    assert command(server, Path(tokenizer), tmp_path / "run", *arguments) == 1
    said = capsys.readouterr()
    assert "served, oracle: accuracy by attempts 1: 0.0%, 2: failed" in said.out
    assert "1 episodes failed; a figure that they are part of is a range" in said.err
    more = tmp_path / "more.jsonl"
    row = {"prompt": [{"role": "user", "content": "1+3=?"}], "reward_model": {"ground_truth": "4"}}
    rows = [row | {"data_source": "questions", "extra_info": {"id": "b", "attempts": attempts}} for attempts in (1, 2)]
    more.write_text("".join(json.dumps(one) + "\n" for one in rows))
    server.faults = [None, None, None, refuse(400)]
    arguments += ["--data", str(more), "--restart"]
    assert command(server, Path(tokenizer), tmp_path / "run", *arguments) == 1
    said = capsys.readouterr()
    assert "1 rows repeat a question, which counts once" in said.err
    assert "served, oracle: accuracy by attempts 1: 0.0%, 2: 50.0% to 100.0%" in said.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--max-prompt-length", "9"), "--max-prompt-length has no effect"),
        (("--plain-messages",), "--plain-messages: the server's own defaults hold for top_k"),
    ],
)
def test_the_command_says_what_is_not_as_one_may_think(
    server: FakeServer,
    tokenizer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert command(server, Path(tokenizer), tmp_path / "run", "--prompts", "toy", *arguments) == 0
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--messages", "--chat-template", __file__), "--chat-template is of no use with --messages"),
        (("--plain-messages", "--template-kwargs", "a=1"), "--plain-messages cannot say the arguments of the chat"),
        (("--engine", "max_model_len=99"), "--engine is for vLLM in this process"),
    ],
)
def test_flags_that_do_not_go_together_are_refused(
    server: FakeServer,
    tokenizer: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    said: str,
) -> None:
    assert command(server, Path(tokenizer), tmp_path / "run", *arguments) == 2
    assert said in capsys.readouterr().err
    assert not server.requests
