"""What is said between two attempts, in tokens: blind, with parts of one's own, with reflection and with a critique."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from engine import SAMPLING, make_loop
from fake_server import FakeServer as JudgeServer
from fake_server import serving
from omegaconf import DictConfig
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from verl_ext.rollout.agent_loop import MultiAttemptAgentLoop

if TYPE_CHECKING:
    from tests.verl_ext.conftest import FakeServer

START, END, NEWLINE = 257, 258, 10
ASSISTANT = [START, *b"assistant\n"]


def box(answer: str) -> list[int]:
    return [*f"\\boxed{{{answer}}}".encode(), END]


def told(text: str) -> list[int]:
    """A message of the user's behind an attempt that ended its turn, up to the next attempt."""
    return [NEWLINE, START, *f"user\n{text}".encode(), END, NEWLINE, *ASSISTANT]


@pytest.fixture(autouse=True)
def _anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MultiAttemptAgentLoop, "_shared", None)


class Play:
    """Runs the episode of 2+2=?."""

    def __init__(self, config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer) -> None:
        self.config, self._tokenizer, self.server = config, tokenizer, server
        config.data.max_response_length = 1000

    async def __call__(self, attempts: int, *script: list[int], **settings: Any) -> AgentLoopOutput:
        self.config.multi_attempt.update(settings)
        self.server.script = list(script)
        row = {
            "raw_prompt": [{"role": "user", "content": "2+2=?"}],
            "data_source": "toy",
            "reward_model": {"ground_truth": "4"},
            "extra_info": {"index": 7, "attempts": attempts},
            **{"index": 7, "global_steps": 3, "uid": "a", "session_id": 0},
        }
        return await make_loop("multi_attempt", self.config, self.server, self._tokenizer).run(dict(SAMPLING), **row)


@pytest.fixture
def play(config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer) -> Play:
    return Play(config, tokenizer, server)


def transcript(output: AgentLoopOutput) -> dict[str, Any]:
    found: dict[str, Any] = output.extra_fields["multi_attempt"]
    return found


async def test_the_wrong_answers_so_far_are_ruled_out(play: Play) -> None:
    parts = ["verdict", "ruled_out", "attempts_left", "last_attempt"]
    output = await play(3, box("5"), box("6"), box("4"), feedback=parts)
    first, second = told("Wrong. Not 5. (2)"), told("Wrong. Not 5, 6. (!)")
    assert output.response_ids == [*box("5"), *first, *box("6"), *second, *box("4")]
    assert output.response_mask == [*[1] * 10, *[0] * len(first), *[1] * 10, *[0] * len(second), *[1] * 10]


async def test_blind_a_right_attempt_ends_nothing_and_the_last_one_counts(play: Play) -> None:
    output = await play(3, box("4"), box("5"), box("4"), tell="blind")
    assert output.response_ids == [*box("4"), *told("Again. (2)"), *box("5"), *told("Again. (1)"), *box("4")]
    assert [attempt["correct"] for attempt in transcript(output)["attempts"]] == [True, False, True]
    assert transcript(output)["stop"] == "correct"
    assert transcript(await play(2, box("4"), box("5"), tell="blind"))["stop"] == "exhausted"


async def test_a_reflection_is_generated_like_an_attempt_and_not_graded(play: Play) -> None:
    words = [*b"I added 1. \\boxed{4}", END]
    output = await play(2, box("5"), words, box("6"), reflect="self")
    asked, retry = told("Wrong. (1) Why?"), told("Now.")
    assert output.response_ids == [*box("5"), *asked, *words, *retry, *box("6")]
    length = len(words)
    assert output.response_mask == [*[1] * 10, *[0] * len(asked), *[1] * length, *[0] * len(retry), *[1] * 10]
    assert output.response_logprobs is not None
    assert [bool(each) for each in output.response_logprobs] == [bool(each) for each in output.response_mask]
    begin = 10 + len(asked)
    assert transcript(output)["reflections"] == [
        {
            "attempt": 1,
            "by": "self",
            "text": "I added 1. \\boxed{4}",
            "span": (begin, begin + length),
            "truncated": False,
            "knew_gold": False,
        }
    ]
    # The box in the reflection is no attempt.
    assert [attempt["correct"] for attempt in transcript(output)["attempts"]] == [False, False]
    assert play.server.calls[1].prompt_ids[-len(ASSISTANT) :] == ASSISTANT


async def test_a_reflection_that_is_too_long_is_cut_and_closed_and_the_dialogue_goes_on(play: Play) -> None:
    play.config.multi_attempt.reflection.max_tokens = 4
    output = await play(2, box("5"), [*b"I added one too many.", END], box("4"), reflect="self")
    closed = [END, *told("Now.")]
    assert output.response_ids == [*box("5"), *told("Wrong. (1) Why?"), *b"I ad", *closed, *box("4")]
    assert transcript(output)["reflections"][0]["truncated"]
    assert transcript(output)["stop"] == "correct"


async def test_without_room_for_an_attempt_behind_it_a_reflection_ends_the_episode(play: Play) -> None:
    words = [*b"Hm.", END]
    play.config.data.max_response_length = 10 + len(told("Wrong. (1) Why?")) + len(words) + len(told("Now."))
    output = await play(2, box("5"), words, box("4"), reflect="self")
    assert output.response_ids == [*box("5"), *told("Wrong. (1) Why?"), *words]
    assert output.response_mask[-1] == 1
    assert transcript(output)["stop"] == "truncated"


@pytest.mark.parametrize("history", ["last", "answers"])
async def test_a_reflection_stands_in_the_sample_of_its_attempt_and_before_the_next(play: Play, history: str) -> None:
    play.config.data.max_prompt_length = 400
    words, attempt = [*b"I added 1.", END], [*b"so \\boxed{5}", END]
    samples: Any = await play(3, attempt, words, attempt, words, box("4"), reflect="self", history=history)
    opening = [START, *b"user\n2+2=? (3)", END, NEWLINE, *ASSISTANT]
    asked = [told(f"Wrong. ({left}) Why?") for left in (2, 1)]
    kept = attempt if history == "last" else box("5")
    turns = [[*kept, *each, *words, *told("Now.")] for each in asked]
    shown = turns[1] if history == "last" else [*turns[0], *turns[1]]
    assert [sample.prompt_ids for sample in samples] == [opening, [*opening, *turns[0]], [*opening, *shown]]
    assert [sample.response_ids for sample in samples] == [
        *([*attempt, *each, *words] for each in asked),
        box("4"),
    ]
    for sample, each in zip(samples, asked, strict=False):
        assert sample.response_mask == [*[1] * len(attempt), *[0] * len(each), *[1] * len(words)]
    assert [each["span"] for each in transcript(samples[-1])["reflections"]] == [
        (len(attempt) + len(each), len(attempt) + len(each) + len(words)) for each in asked
    ]


@pytest.fixture
def judge() -> Iterator[JudgeServer]:
    with serving() as server:
        yield server


@pytest.mark.parametrize("knows", [False, True])
async def test_a_judge_says_behind_the_feedback_what_is_wrong(play: Play, judge: JudgeServer, knows: bool) -> None:
    judge.said = {"content": " You added one too many. "}
    play.config.multi_attempt.reflection.update(url=judge.url, model="m")
    if knows:
        play.config.multi_attempt.reflection.prompt = "$question $answer, not $gold"
    output = await play(2, box("5"), box("4"), reflect="judge")
    critique = told("Wrong. (1)\nYou added one too many.")
    assert output.response_ids == [*box("5"), *critique, *box("4")]
    assert output.response_mask == [*[1] * 10, *[0] * len(critique), *[1] * 10]
    [said] = transcript(output)["reflections"]
    assert (said["by"], said["text"], said["span"]) == ("judge", "You added one too many.", (0, 0))
    assert said["knew_gold"] is knows
    [(_, body)] = judge.requests
    shown = body["messages"][0]["content"]
    assert "2+2=?" in shown
    assert "\\boxed{5}" in shown
    assert ("not 4" in shown) is knows


async def test_a_judge_that_says_nothing_is_an_episode_that_failed(play: Play, judge: JudgeServer) -> None:
    judge.said = {"content": " "}
    play.config.multi_attempt.reflection.update(url=judge.url, model="m")
    found = transcript(await play(2, box("5"), box("4"), reflect="judge"))
    assert found["stop"] == "aborted"
    assert "multi_attempt.reflection: 'm' said nothing" in found["error"]
