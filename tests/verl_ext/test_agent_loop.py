"""Episodes on a scripted engine, token by token."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from engine import SAMPLING, make_loop
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import DictConfig
from transformers import AutoConfig, GenerationConfig, PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput
from verl.workers.rollout.replica import TokenOutput
from vllm.sampling_params import RequestOutputKind, SamplingParams

from multi_attempt.budget import draw_attempts
from multi_attempt.config import GraderSettings
from multi_attempt.grading import Grader
from multi_attempt.metrics import WAITS
from multi_attempt.toy.tokenizer import CHAT_TEMPLATE, make_tokenizer
from multi_attempt.turns import ChatTemplate
from verl_ext.names import COLOCATE_ASYNC
from verl_ext.rollout.agent_loop import MultiAttemptAgentLoop, TokenStream
from verl_ext.rollout.sampling import request_parameters, was_cut

if TYPE_CHECKING:
    from tests.verl_ext.conftest import FakeServer

    Play = Callable[..., Awaitable[AgentLoopOutput]]

PAD, START, END, NEWLINE = 256, 257, 258, 10
RIGHT, WRONG = [*b"\\boxed{4}", END], [*b"\\boxed{5}", END]
ASSISTANT = [START, *b"assistant\n"]


def prompt(attempts: int) -> list[int]:
    """What the model reads before its first attempt."""
    return [START, *b"user\n2+2=? (%d)" % attempts, END, NEWLINE, *ASSISTANT]


def feedback(attempts_left: int) -> list[int]:
    """What stands between two attempts, from the newline that closes the first one's turn."""
    return [NEWLINE, START, *b"user\nWrong. (%d)" % attempts_left, END, NEWLINE, *ASSISTANT]


FEEDBACK_LENGTH = len(feedback(1))


def transcript(output: AgentLoopOutput) -> dict[str, Any]:
    found: dict[str, Any] = output.extra_fields["multi_attempt"]
    return found


def spans(output: AgentLoopOutput) -> list[tuple[int, int]]:
    return [tuple(attempt["span"]) for attempt in transcript(output)["attempts"]]


@pytest.fixture(scope="module")
def grader() -> Iterator[Grader]:
    """One grader for all tests; it waits long, so that a busy machine changes no verdict."""
    grader = Grader(deadline=60.0)
    yield grader
    grader.close()


@pytest.fixture(autouse=True)
def _shared_grader(monkeypatch: pytest.MonkeyPatch, grader: Grader) -> None:
    monkeypatch.setattr(GraderSettings, "make", lambda _: grader)
    monkeypatch.setattr(MultiAttemptAgentLoop, "_shared", None)


@pytest.fixture
def play(config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer) -> Play:
    """Runs the episode of one row: of "2+2=?", unless told otherwise."""

    async def play(attempts: int | None = None, index: int = 7, step: int = 3, **row: Any) -> AgentLoopOutput:
        extra_info = {"index": index, "split": "train"} | ({} if attempts is None else {"attempts": attempts})
        fields = {
            "raw_prompt": [{"role": "user", "content": "2+2=?"}],
            "data_source": "toy",
            "reward_model": {"style": "rule", "ground_truth": "4"},
            "extra_info": extra_info,
            "index": index,
            "global_steps": step,
            "uid": "a",
            "session_id": 0,
            **row,
        }
        return await make_loop("multi_attempt", config, server, tokenizer).run(dict(SAMPLING), **fields)

    return play


# ---- The tokens of an episode ----


async def test_an_episode_of_one_attempt_is_the_prompt_and_the_engines_tokens(play: Play, server: FakeServer) -> None:
    server.script = [[*b"\\boxed{5}", 258]]
    output = await play(attempts=1)
    assert output.prompt_ids == [257, *b"user\n2+2=? (1)", 258, 10, 257, *b"assistant\n"]
    assert output.response_ids == [*b"\\boxed{5}", 258]
    assert output.response_mask == [1] * 10
    assert output.response_logprobs == [-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0]
    assert spans(output) == [(0, 10)]
    assert transcript(output)["stop"] == "exhausted"


async def test_two_attempts_stand_in_one_response_with_masked_feedback_between(play: Play, server: FakeServer) -> None:
    server.script = [[*b"\\boxed{5}", 258], [*b"4: \\boxed{4}", 258]]
    output = await play(attempts=2)
    assert output.prompt_ids == [257, *b"user\n2+2=? (2)", 258, 10, 257, *b"assistant\n"]
    assert output.response_ids == [
        *(*b"\\boxed{5}", 258),
        *(10, 257, *b"user\nWrong. (1)", 258, 10, 257, *b"assistant\n"),
        *(*b"4: \\boxed{4}", 258),
    ]
    assert output.response_mask == [1] * 10 + [0] * 30 + [1] * 13
    assert output.response_logprobs == [
        *(-1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -9.0, -10.0),
        *[0.0] * 30,
        *(-11.0, -12.0, -13.0, -14.0, -15.0, -16.0, -17.0, -18.0, -19.0, -20.0, -21.0, -22.0, -23.0),
    ]
    assert spans(output) == [(0, 10), (40, 53)]
    assert transcript(output)["stop"] == "correct"
    assert output.num_turns == 4


@pytest.mark.parametrize(
    ("kind", "rewards"), [("episode", {-1: 1.0}), ("difference", {9: -0.5, -1: 1.5}), ("each", {9: -0.5, -1: 1.0})]
)
async def test_rewards_stand_at_the_ends_of_attempts(
    config: DictConfig, play: Play, server: FakeServer, kind: str, rewards: dict[int, float]
) -> None:
    config.multi_attempt.reward.per_attempt = kind
    server.script = [WRONG, RIGHT]
    output = await play(attempts=2)
    assert "rm_scores" not in output.as_dict()  # until it has been scored
    output.reward_score = sum(rewards.values())
    expected = torch.zeros(len(output.response_ids))
    for place, reward in rewards.items():
        expected[place] = reward
    assert torch.equal(output.as_dict()["rm_scores"], expected)
    output.reward_score = 7.0
    with pytest.raises(ValueError, match=r"the episode's is 7"):
        output.as_dict()


async def test_five_attempts_are_counted_down_to_the_last(play: Play, server: FakeServer) -> None:
    server.script = [WRONG, WRONG, WRONG, WRONG, WRONG]
    output = await play(attempts=5)
    assert output.prompt_ids == prompt(5)
    assert output.response_ids == [
        *(*WRONG, *feedback(4)),
        *(*WRONG, *feedback(3)),
        *(*WRONG, *feedback(2)),
        *(*WRONG, *feedback(1)),
        *WRONG,
    ]
    assert output.response_mask == ([1] * 10 + [0] * 30) * 4 + [1] * 10
    assert spans(output) == [(0, 10), (40, 50), (80, 90), (120, 130), (160, 170)]
    assert transcript(output)["stop"] == "exhausted"
    assert [attempt["repeated"] for attempt in transcript(output)["attempts"]] == [False, True, True, True, True]


@pytest.mark.parametrize("attempts_before", [0, 1, 3])
async def test_the_episode_stops_at_the_first_correct_attempt(
    play: Play, server: FakeServer, attempts_before: int
) -> None:
    server.script = [*[WRONG] * attempts_before, RIGHT, WRONG]
    output = await play(attempts=5)
    assert len(server.calls) == attempts_before + 1
    assert transcript(output)["stop"] == "correct"
    assert [attempt["correct"] for attempt in transcript(output)["attempts"]] == [False] * attempts_before + [True]
    assert output.response_ids[-10:] == RIGHT


@pytest.mark.parametrize(
    "attempt",
    [
        pytest.param([END], id="empty: only the end of the turn"),
        pytest.param([NEWLINE, *b"\\boxed{5}", END], id="begins with a newline"),
        pytest.param([*b"\\boxed{5}\n\n", END], id="ends with newlines"),
        pytest.param([*b"<|im_end|>\n<|im_start|>user\nok", END], id="spells special tokens in letters"),
        pytest.param([START, *b"user", PAD, NEWLINE, END], id="holds special tokens"),
        pytest.param([0xFF, 0xC3, 0x28, END], id="is not UTF-8"),
    ],
)
async def test_an_attempts_tokens_are_kept_as_the_engine_generated_them(
    play: Play, server: FakeServer, attempt: list[int]
) -> None:
    server.script = [attempt, RIGHT]
    output = await play(attempts=2)
    assert output.response_ids == [*attempt, *feedback(1), *RIGHT]
    assert output.response_mask == [1] * len(attempt) + [0] * FEEDBACK_LENGTH + [1] * len(RIGHT)
    assert spans(output) == [(0, len(attempt)), (len(attempt) + 30, len(attempt) + 40)]
    assert transcript(output)["stop"] == "correct"


async def test_the_end_of_the_turn_is_no_part_of_the_attempts_text(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.prompts = "paper"
    config.data.max_prompt_length = 1024
    server.script = [[*b"<think>2+2</think> <answer>\\boxed{4}</answer>", END]]
    [attempt] = transcript(await play(attempts=1))["attempts"]
    assert attempt["well_formed"]


async def test_feedback_takes_the_role_and_the_wording_of_the_prompt_set(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.prompts = "boxed"
    config.multi_attempt.feedback = ["verdict", "attempts_left", "question"]
    config.data.max_response_length = 1000
    server.script = [WRONG, RIGHT]
    output = await play(attempts=2)
    system = b"system\nReason step by step and put the final answer in \\boxed{}. You have 2 attempts."
    assert output.prompt_ids == [
        *(START, *system, END, NEWLINE),
        *(START, *b"user\n2+2=?", END, NEWLINE),
        *ASSISTANT,
    ]
    told = b"The answer is not correct. You have 1 attempt left. Try something else. The question was:\n\n2+2=?"
    assert output.response_ids == [
        *(*WRONG, NEWLINE),
        *(START, *b"system\n", *told, END, NEWLINE),
        *ASSISTANT,
        *RIGHT,
    ]
    assert output.num_turns == 3  # user and two of the assistant; as in verl's loops, system messages are no turns


# ---- Length limits ----


async def test_an_attempt_cut_by_its_own_cap_ends_the_episode(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.max_tokens_per_attempt = 9
    server.script = [WRONG]
    output = await play(attempts=5)
    assert output.response_ids == [*b"\\boxed{5}"]
    assert output.response_mask == [1] * 9
    assert transcript(output)["stop"] == "truncated"
    assert transcript(output)["attempts"][0]["truncated"]


async def test_a_cut_attempt_is_graded_on_what_it_holds(config: DictConfig, play: Play, server: FakeServer) -> None:
    config.multi_attempt.max_tokens_per_attempt = 9
    server.script = [RIGHT]
    output = await play(attempts=5)
    assert transcript(output)["stop"] == "truncated"
    assert transcript(output)["attempts"][0]["correct"]


async def test_an_attempt_of_exactly_its_cap_is_not_cut(config: DictConfig, play: Play, server: FakeServer) -> None:
    config.multi_attempt.max_tokens_per_attempt = len(WRONG)
    server.script = [WRONG, RIGHT]
    assert transcript(await play(attempts=2))["stop"] == "correct"


async def test_an_attempt_cut_by_the_response_length_ends_the_episode(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.data.max_response_length = 45
    server.script = [WRONG, WRONG]
    output = await play(attempts=5)
    assert output.response_ids == [*WRONG, *feedback(4), *b"\\boxe"]
    assert output.response_mask == [1] * 10 + [0] * 30 + [1] * 5
    assert transcript(output)["stop"] == "truncated"


@pytest.mark.parametrize("length", [10, 11, 39, 40])
async def test_feedback_that_leaves_no_room_for_an_attempt_is_left_out(
    config: DictConfig, play: Play, server: FakeServer, length: int
) -> None:
    config.data.max_response_length = length
    server.script = [WRONG]
    output = await play(attempts=5)
    assert output.response_ids == WRONG
    assert output.response_mask == [1] * 10
    assert output.response_logprobs == [-float(number) for number in range(1, 11)]
    assert transcript(output)["stop"] == "truncated"


async def test_one_token_of_room_is_enough_for_another_attempt(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.data.max_response_length = 41
    server.script = [WRONG, RIGHT]
    output = await play(attempts=5)
    assert output.response_ids == [*WRONG, *feedback(4), ord("\\")]
    assert output.response_mask == [1] * 10 + [0] * 30 + [1]


@pytest.mark.parametrize(
    ("cap", "max_tokens"),
    [(None, [200, 160, 120, 80, 40]), (50, [50, 50, 50, 50, 40]), (1000, [200, 160, 120, 80, 40])],
)
async def test_an_attempt_may_have_what_is_left_and_no_more_than_its_cap(
    config: DictConfig, play: Play, server: FakeServer, cap: int | None, max_tokens: list[int]
) -> None:
    config.multi_attempt.max_tokens_per_attempt = cap
    server.script = [WRONG, WRONG, WRONG, WRONG, WRONG]
    await play(attempts=5)
    assert [call.sampling_params["max_tokens"] for call in server.calls] == max_tokens


async def test_the_context_bounds_an_episode_that_the_response_length_would_not(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.actor_rollout_ref.rollout.max_model_len = len(prompt(5)) + 45
    server.script = [WRONG, WRONG]
    output = await play(attempts=5)
    assert [call.sampling_params["max_tokens"] for call in server.calls] == [45, 5]
    assert output.response_ids == [*WRONG, *feedback(4), *b"\\boxe"]
    assert (transcript(output)["stop"], transcript(output)["error"]) == ("truncated", "")


async def test_without_a_limit_of_its_own_the_engine_has_the_models_context(
    config: DictConfig, play: Play, server: FakeServer, model_folder: Path
) -> None:
    positions = AutoConfig.from_pretrained(model_folder).max_position_embeddings
    config.data.max_response_length = 10 * positions
    server.script = [RIGHT]
    await play(attempts=1)
    assert server.calls[0].sampling_params["max_tokens"] == positions - len(prompt(1))


async def test_a_prompt_longer_than_its_limit_fails_the_episode(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.data.max_prompt_length = len(prompt(1)) - 1
    output = await play(attempts=1)
    assert transcript(output)["stop"] == "aborted"
    assert "more than data.max_prompt_length" in transcript(output)["error"]


# ---- What ends an attempt ----


async def test_an_attempt_that_ends_by_another_end_token_gets_its_turn_closed(
    play: Play, server: FakeServer, config: DictConfig, model_folder: Path, tmp_path: Path
) -> None:
    """As Qwen2.5-Math does, whose generation_config ends it at <|endoftext|> too."""
    shutil.copytree(model_folder, tmp_path, dirs_exist_ok=True)
    GenerationConfig(eos_token_id=[END, PAD]).save_pretrained(tmp_path)
    config.actor_rollout_ref.model.path = str(tmp_path)
    ended = [*b"\\boxed{5}", PAD]
    server.script = [ended, RIGHT]
    output = await play(attempts=2)
    assert server.calls[0].sampling_params["stop_token_ids"] == [PAD, END]
    assert output.response_ids == [*ended, END, *feedback(1), *RIGHT]
    assert output.response_mask == [1] * len(ended) + [0] * (1 + FEEDBACK_LENGTH) + [1] * len(RIGHT)
    assert transcript(output)["stop"] == "correct"


def completed(tokens: list[int], reason: str = "completed") -> TokenOutput:
    return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), stop_reason=reason)


@pytest.mark.parametrize("reason", ["completed", "stop"])
async def test_an_engine_that_stops_at_a_token_of_its_own_is_believed(
    play: Play, server: FakeServer, reason: str
) -> None:
    stopped = [*b"\\boxed{5}", 1]
    server.script = [completed(stopped, reason), RIGHT]
    output = await play(attempts=2)
    assert output.response_ids == [*stopped, END, *feedback(1), *RIGHT]
    assert not transcript(output)["attempts"][0]["truncated"]


@pytest.mark.parametrize(
    ("attempt", "limit", "truncated"),
    [
        pytest.param(completed([1, 2]), 3, False, id="fewer than asked for"),
        pytest.param(completed([1, 2, 3]), 3, True, id="all that were asked for"),
        pytest.param(completed([1, 2, END]), 3, False, id="all, but the last ends a turn"),
        pytest.param(completed([1, 2, 3], "stop"), 3, False, id="SGLang: a stop at the last token"),
        pytest.param(completed([1, 2], "length"), 3, True, id="SGLang: a cut by the context"),
        pytest.param(completed([1, 2, END], "length"), 3, False, id="resumed: the last ends a turn"),
    ],
)
def test_an_attempt_was_cut_if_the_engine_says_so_or_gave_all_it_could(
    attempt: TokenOutput, limit: int, truncated: bool
) -> None:
    assert was_cut(attempt, limit, {END}) is truncated


async def test_a_family_whose_builder_in_verl_does_not_fit_the_tokenizer_is_no_matter(
    config: DictConfig, server: FakeServer
) -> None:
    """As DeepSeek-R1-Distill-Qwen: a Qwen2 model without Qwen2's marks, which verl's builder of the family refuses."""
    other = make_tokenizer()
    other.add_special_tokens({"eos_token": "<end>"})
    other.chat_template = CHAT_TEMPLATE.replace("<|im_end|>", "<end>").replace("<|im_start|>", "@")
    config.data.max_response_length = 200
    loop = make_loop("multi_attempt", config, server, other)
    assert isinstance(loop, MultiAttemptAgentLoop)
    assert loop.chat.end_ids == {other.convert_tokens_to_ids("<end>")}


# ---- What is asked of the engine ----


async def test_every_call_continues_the_one_before(play: Play, server: FakeServer) -> None:
    server.script = [WRONG, [*b"?", END], RIGHT]
    await play(attempts=3)
    assert [call.prompt_ids for call in server.calls] == [
        prompt(3),
        [*prompt(3), *WRONG, *feedback(2)],
        [*prompt(3), *WRONG, *feedback(2), *b"?", END, *feedback(1)],
    ]


async def test_an_episode_keeps_its_request_id_and_another_has_another(play: Play, server: FakeServer) -> None:
    server.script = [WRONG, RIGHT, WRONG, RIGHT]
    await play(attempts=2)
    await play(attempts=2)
    first, second, third, fourth = (call.request_id for call in server.calls)
    assert first == second != third == fourth


async def test_verls_sampling_parameters_reach_the_engine(play: Play, server: FakeServer) -> None:
    server.script = [WRONG, RIGHT]
    await play(attempts=2)
    for call, room in zip(server.calls, (200, 160), strict=True):
        assert call.sampling_params == {**SAMPLING, "max_tokens": room, **request_parameters("vllm", {END})}


def test_vllm_is_asked_for_one_output_without_text() -> None:
    parameters = SamplingParams(**request_parameters("vllm", {END, PAD}))
    assert parameters.stop_token_ids == [PAD, END]
    assert parameters.output_kind is RequestOutputKind.FINAL_ONLY
    assert not parameters.detokenize


async def test_vllm_gives_outputs_on_the_way_where_attempts_are_aborted(
    play: Play, server: FakeServer, config: DictConfig
) -> None:
    config.trainer.v1.trainer_mode = COLOCATE_ASYNC
    server.script = [RIGHT]
    await play(attempts=1)
    assert server.calls[0].sampling_params == {
        **SAMPLING,
        "max_tokens": 200,
        "stop_token_ids": [END],
        "detokenize": False,
    }


def test_another_engine_is_asked_for_nothing_that_it_does_not_know() -> None:
    assert request_parameters("sglang", {END, PAD}) == {"stop_token_ids": [PAD, END]}


async def test_weight_versions_are_those_of_the_first_and_the_last_attempt(play: Play, server: FakeServer) -> None:
    def versions(tokens: list[int], first: int, last: int) -> TokenOutput:
        facts = {"min_global_steps": first, "max_global_steps": last}
        return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), extra_fields=facts)

    server.script = [versions(WRONG, 5, 6), versions(WRONG, 6, 7), versions(RIGHT, 8, 9)]
    output = await play(attempts=3, step=4)
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (5, 9)


async def test_without_weight_versions_the_step_is_taken(play: Play, server: FakeServer) -> None:
    server.script = [RIGHT]
    output = await play(attempts=1, step=4)
    assert (output.extra_fields["min_global_steps"], output.extra_fields["max_global_steps"]) == (4, 4)


async def test_an_episode_says_how_long_it_waited_and_for_what(play: Play, server: FakeServer) -> None:
    server.script = [WRONG, RIGHT]
    output = await play(attempts=2)
    seconds = transcript(output)["seconds"]
    assert set(seconds) == set(WAITS)
    assert all(value > 0 for value in seconds.values())
    assert seconds["generate"] == output.metrics.generate_sequences


async def test_cached_prompt_tokens_are_counted_from_the_second_attempt_on(play: Play, server: FakeServer) -> None:
    def cached(tokens: list[int], count: int | None) -> TokenOutput:
        return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), extra_fields={"num_cached_tokens": count})

    server.script = [cached(WRONG, 11), cached(WRONG, 32), cached(WRONG, None), cached(RIGHT, 96)]
    counted = transcript(await play(attempts=4))
    assert counted["prompt_tokens"] == len(server.calls[1].prompt_ids) + len(server.calls[3].prompt_ids)
    assert counted["cached_tokens"] == 32 + 96


async def test_preemptions_of_all_attempts_are_summed(play: Play, server: FakeServer) -> None:
    server.script = [
        TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), num_preempted=preempted)
        for tokens, preempted in ((WRONG, 1), (RIGHT, 2))
    ]
    assert (await play(attempts=2)).metrics.num_preempted == 3


async def test_without_log_probs_of_the_engine_there_are_none(play: Play, server: FakeServer) -> None:
    server.gives_log_probs = False
    server.script = [WRONG, RIGHT]
    output = await play(attempts=2)
    assert output.response_logprobs is None
    assert output.response_ids == [*WRONG, *feedback(1), *RIGHT]
    assert output.response_mask == [1] * 10 + [0] * 30 + [1] * 10


# ---- Less than all of the earlier attempts ----

LONG = [*b"so \\boxed{5}", END]
NOTHING = [*b"hm", END]


def again(attempts: int, *turns: tuple[bytes, int]) -> list[int]:
    """What the model reads where the dialogue is rendered anew: the question, and attempts with the attempts left."""
    told = [[*said, END, *feedback(left)] for said, left in turns]
    return [*prompt(attempts), *(token for turn in told for token in turn)]


@pytest.mark.parametrize(
    ("history", "second", "third"),
    [
        ("last", [(b"so \\boxed{5}", 2)], [(b"hm", 1)]),
        ("answers", [(b"\\boxed{5}", 2)], [(b"\\boxed{5}", 2), (b"No answer.", 1)]),
    ],
)
async def test_each_attempt_is_a_sample_of_its_own(
    config: DictConfig, play: Play, server: FakeServer, history: str, second: Any, third: Any
) -> None:
    config.multi_attempt.history = history
    config.data.max_prompt_length = 200
    server.script = [LONG, NOTHING, RIGHT]
    samples: Any = await play(attempts=3)
    assert [sample.prompt_ids for sample in samples] == [prompt(3), again(3, *second), again(3, *third)]
    assert [call.prompt_ids for call in server.calls] == [sample.prompt_ids for sample in samples]
    assert [sample.response_ids for sample in samples] == [LONG, NOTHING, RIGHT]
    assert [sample.response_mask for sample in samples] == [[1] * 13, [1] * 3, [1] * 10]
    assert samples[1].response_logprobs == [-14.0, -15.0, -16.0]
    # verl takes an episode's reward, and what it is measured by, from its last sample.
    assert ["multi_attempt" in sample.extra_fields for sample in samples] == [False, False, True]
    assert spans(samples[-1]) == [(0, 13), (0, 3), (0, 10)]
    assert transcript(samples[-1])["stop"] == "correct"
    assert [call.sampling_params["max_tokens"] for call in server.calls] == [200, 200, 200]
    assert len({call.request_id for call in server.calls}) == 1


async def test_what_a_model_writes_opens_no_turn_where_it_is_read_again(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.history = "last"
    config.data.max_prompt_length = 200
    server.script = [[*b"<|im_end|>4<|im_start|>", END], RIGHT]
    samples: Any = await play(attempts=2)
    assert samples[1].prompt_ids == again(2, (b"< |im_end|>4< |im_start|>", 1))


async def test_an_attempt_that_leaves_the_next_no_room_ends_the_episode(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.history = "answers"
    config.data.max_prompt_length = len(again(3, (b"\\boxed{5}", 2)))
    server.script = [WRONG, WRONG]
    samples: Any = await play(attempts=3)
    assert [sample.response_ids for sample in samples] == [WRONG, WRONG]
    assert (transcript(samples[-1])["stop"], transcript(samples[-1])["error"]) == ("truncated", "")


async def test_a_context_that_leaves_the_next_no_token_ends_the_episode(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.history = "last"
    config.data.max_prompt_length = 200
    config.actor_rollout_ref.rollout.max_model_len = len(again(2, (b"\\boxed{5}", 1)))
    server.script = [WRONG]
    samples: Any = await play(attempts=2)
    assert [sample.response_ids for sample in samples] == [WRONG]
    assert transcript(samples[-1])["stop"] == "truncated"


async def test_a_failed_episode_is_one_masked_sample(config: DictConfig, play: Play, server: FakeServer) -> None:
    config.multi_attempt.history = "last"
    config.data.max_prompt_length = 200
    server.script = [WRONG, RuntimeError("the engine is gone")]
    samples: Any = await play(attempts=2)
    assert [(sample.prompt_ids, sample.response_mask) for sample in samples] == [(prompt(2), [0])]
    assert transcript(samples[0])["error"] == "RuntimeError: the engine is gone"


async def test_weight_versions_are_the_episodes_in_each_sample(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.history = "last"
    config.data.max_prompt_length = 200
    server.script = [
        TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), extra_fields={"max_global_steps": step})
        for tokens, step in ((WRONG, 5), (RIGHT, 6))
    ]
    samples: Any = await play(attempts=2)
    versions = [(each.extra_fields["min_global_steps"], each.extra_fields["max_global_steps"]) for each in samples]
    assert versions == [(5, 6), (5, 6)]


# ---- How many attempts ----


async def test_a_row_fixes_its_number_of_attempts_whatever_the_range(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.max_attempts = 2
    server.script = [RIGHT]
    output = await play(attempts=4)
    assert output.prompt_ids == prompt(4)
    assert transcript(output)["budget"] == 4


async def test_otherwise_attempts_are_drawn_for_row_and_step(
    config: DictConfig, play: Play, server: FakeServer
) -> None:
    config.multi_attempt.update(min_attempts=2, max_attempts=9, seed=11)
    drawn = {(step, row): draw_attempts(2, 9, seed=11, step=step, row=row) for step in (1, 2) for row in (0, 1, 2, 3)}
    assert len(set(drawn.values())) > 2
    for (step, row), attempts in drawn.items():
        server.script = [RIGHT]
        output = await play(index=row, step=step)
        assert output.prompt_ids == prompt(attempts)
        assert transcript(output)["budget"] == attempts


async def test_no_attempts_of_a_parquet_file_with_other_rows_means_drawn(play: Play, server: FakeServer) -> None:
    server.script = [RIGHT]
    output = await play(extra_info={"index": 7, "attempts": None})
    assert transcript(output)["budget"] == draw_attempts(1, 5, seed=0, step=3, row=7)


async def test_episodes_of_a_run_share_a_grader(
    config: DictConfig, tokenizer: PreTrainedTokenizerFast, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    class WarmedGrader(Grader):
        def warm_up(self) -> None:
            made.append("warm")

    def make(settings: GraderSettings) -> Grader:
        made.append(settings)
        return WarmedGrader()

    monkeypatch.setattr(GraderSettings, "make", make)
    config.multi_attempt.grader.update(deadline=3.0, workers=2, memory_mb=512)
    for _ in range(3):
        make_loop("multi_attempt", config, server, tokenizer)
    assert made == [GraderSettings(deadline=3.0, workers=2, memory_mb=512), "warm"]


# ---- Episodes that fail ----


def assert_masked(output: AgentLoopOutput) -> None:
    """The episode is a single token that carries no gradient."""
    assert output.response_ids == [END]
    assert output.response_mask == [0]
    assert output.response_logprobs == [0.0]


async def test_an_exception_ends_the_episode_and_is_recorded_and_logged(
    play: Play, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [WRONG, ConnectionError("replica 3 is gone")]
    with caplog.at_level(logging.WARNING, "verl_ext"):
        output = await play(attempts=5, index=7, step=3)
    assert_masked(output)
    assert output.prompt_ids == prompt(5)
    found = transcript(output)
    assert (found["stop"], found["error"]) == ("aborted", "ConnectionError: replica 3 is gone")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert "row 7 at step 3" in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ConnectionError)


async def test_an_episode_that_fails_before_its_prompt_still_has_a_prompt_token(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> list[int]:
        raise ValueError("no template")

    monkeypatch.setattr(ChatTemplate, "opening", fail)
    output = await play(attempts=2)
    assert_masked(output)
    assert output.prompt_ids == [END]
    assert transcript(output)["error"] == "ValueError: no template"


async def test_an_engine_that_hangs_is_given_up(
    config: DictConfig, play: Play, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    config.multi_attempt.episode.timeout = 0.2
    server.script = [None]
    output = await play(attempts=2, index=7)
    assert_masked(output)
    assert transcript(output)["stop"] == "aborted"
    assert transcript(output)["error"].startswith("TimeoutError")
    assert "row 7" in caplog.text


def aborted(tokens: list[int], reason: str = "aborted") -> TokenOutput:
    return TokenOutput(token_ids=tokens, log_probs=[0.0] * len(tokens), stop_reason=reason)


@pytest.mark.parametrize(("tolerance", "stop"), [("1e-1", "correct"), ("", "exhausted"), (None, "exhausted")])
async def test_an_answer_within_the_rows_tolerance_is_right(
    play: Play, server: FakeServer, tolerance: str | None, stop: str
) -> None:
    server.script = [[*b"\\boxed{4.1}", 258]]
    output = await play(attempts=1, reward_model={"style": "rule", "ground_truth": "4", "tolerance": tolerance})
    assert transcript(output)["stop"] == stop


@pytest.mark.parametrize("reason", ["aborted", "abort"])
async def test_an_aborted_generation_is_asked_for_again_and_never_graded(
    play: Play, server: FakeServer, grader: Grader, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    graded: list[str | None] = []
    grade = grader.grade_async

    async def record(answer: str | None, *gold: str) -> Any:
        graded.append(answer)
        return await grade(answer, *gold)

    monkeypatch.setattr(grader, "grade_async", record)
    server.script = [WRONG, aborted([*b"\\boxed{9}"], reason), aborted([], reason), RIGHT]
    output = await play(attempts=2)
    assert graded == ["5", "4"]
    assert server.calls[1] == server.calls[2] == server.calls[3]
    assert output.response_ids == [*WRONG, *feedback(1), *RIGHT]
    assert transcript(output)["stop"] == "correct"


async def test_an_episode_that_is_always_aborted_is_no_error(
    config: DictConfig, play: Play, server: FakeServer, caplog: pytest.LogCaptureFixture
) -> None:
    config.multi_attempt.episode.abort_retries = 2
    server.script = [WRONG, aborted([]), aborted([1]), aborted([2, 3]), RIGHT]
    output = await play(attempts=5, index=7)
    assert len(server.calls) == 4
    assert_masked(output)
    assert (transcript(output)["stop"], transcript(output)["error"]) == ("aborted", "")
    [record] = [record for record in caplog.records if record.name.startswith("verl_ext")]
    assert record.levelno == logging.WARNING
    assert "row 7" in record.getMessage()


@pytest.mark.parametrize("before", [[], [WRONG]])
async def test_an_engine_that_generates_nothing_fails_no_more_than_its_episode(
    play: Play, server: FakeServer, before: list[list[int]]
) -> None:
    server.script = [*before, TokenOutput(token_ids=[], log_probs=[], stop_reason="completed")]
    output = await play(attempts=3)
    assert len(output.response_ids) == len(output.response_mask) > 0
    assert transcript(output)["stop"] in ("aborted", "truncated")


def test_tokens_are_appended_with_their_mask_and_log_probs() -> None:
    stream = TokenStream(ids=[1, 2], prompt_length=2)
    stream.generated([3], [-1.0])
    stream.told([4, 5])
    stream.generated([6], [-2.0])
    assert stream == TokenStream([1, 2, 3, 4, 5, 6], 2, [1, 0, 0, 1], [-1.0, 0.0, 0.0, -2.0])


@pytest.mark.parametrize(
    ("log_probs", "message"),
    [([-1.0], "1 log-probs for 2 tokens"), (None, "some attempts and not for others")],
    ids=["too few", "none, after an attempt that had some"],
)
def test_log_probs_that_do_not_fit_the_tokens_are_refused(log_probs: list[float] | None, message: str) -> None:
    stream = TokenStream(ids=[1, 2, 3], prompt_length=2, mask=[1], log_probs=[-1.0])
    with pytest.raises(RuntimeError, match=message):
        stream.generated([4, 5], log_probs)
    assert stream == TokenStream(ids=[1, 2, 3], prompt_length=2, mask=[1], log_probs=[-1.0])


# ---- Any episode ----

TEXTS = st.one_of(
    st.sampled_from([RIGHT, WRONG, [END], [NEWLINE, *WRONG], [*b"\\boxed{", END], [*b"<|im_end|>", END]]),
    st.lists(st.integers(0, 257), max_size=30).map(lambda tokens: [*tokens, END]),
    st.lists(st.integers(0, 257), min_size=1, max_size=30),  # an attempt that the engine itself ended
)


@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(
    texts=st.lists(TEXTS, min_size=5, max_size=5),
    attempts=st.integers(1, 5),
    cap=st.none() | st.integers(1, 30),
    length=st.integers(1, 250),
)
async def test_of_any_episode_the_generated_tokens_are_trained_and_nothing_else(
    config: DictConfig,
    play: Play,
    server: FakeServer,
    texts: list[list[int]],
    attempts: int,
    cap: int | None,
    length: int,
) -> None:
    MultiAttemptAgentLoop._shared = None
    config.multi_attempt.max_tokens_per_attempt = cap
    config.data.max_response_length = length
    server.restart(texts)
    output = await play(attempts=attempts)

    ids, mask, log_probs = output.response_ids, output.response_mask, output.response_logprobs
    assert log_probs is not None
    assert len(ids) == len(mask) == len(log_probs) <= length
    assert mask[-1] == 1

    generated = [token for tokens in server.outputs for token in tokens]
    assert [token for token, trained in zip(ids, mask, strict=True) if trained] == generated
    assert [value for value, trained in zip(log_probs, mask, strict=True) if trained] == [
        -float(number) for number in range(1, len(generated) + 1)
    ]
    assert all(value == 0.0 for value, trained in zip(log_probs, mask, strict=True) if not trained)

    assert [ids[start:stop] for start, stop in spans(output)] == server.outputs
    assert sum(stop - start for start, stop in spans(output)) == sum(mask)

    sent = prompt(attempts)
    for number, (call, tokens) in enumerate(zip(server.calls, server.outputs, strict=True), 1):
        assert call.prompt_ids == sent
        # An attempt that the engine ended by another token is closed as the template closes it.
        told = feedback(attempts - number) if tokens[-1] == END else [END, *feedback(attempts - number)]
        sent = [*sent, *tokens, *told]
    last = len(told)
    assert [*output.prompt_ids, *ids] == sent[:-last]
    assert transcript(output)["stop"] in ("correct", "exhausted", "truncated")
    assert transcript(output)["error"] == ""
