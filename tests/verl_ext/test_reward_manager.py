"""The reward of an episode, from its transcript."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls

from multi_attempt.episode import Attempt, StopReason, Transcript


def attempt(correct: bool = False, well_formed: bool = True, answer: str = "5") -> Attempt:
    return Attempt(
        span=(0, 10),
        answer=answer,
        correct=correct,
        well_formed=well_formed,
        truncated=False,
        repeated=False,
        method="exact",
        reason="",
    )


SOLVED = Transcript(5, StopReason.CORRECT, [attempt(), attempt(), attempt(correct=True, answer="4")])
WELL_FORMED = Transcript(2, StopReason.EXHAUSTED, [attempt(well_formed=False), attempt()])
MALFORMED = Transcript(2, StopReason.EXHAUSTED, [attempt(), attempt(well_formed=False)])
CUT = Transcript(2, StopReason.TRUNCATED, [attempt(well_formed=False)])
ABORTED = Transcript(2, StopReason.ABORTED, [attempt()])
FAILED = Transcript(2, StopReason.ABORTED, [], error="TimeoutError: ")
ALL = {
    "solved": SOLVED,
    "well-formed": WELL_FORMED,
    "malformed": MALFORMED,
    "cut": CUT,
    "aborted": ABORTED,
    "failed": FAILED,
}


def data(extra_fields: dict[str, Any]) -> DataProto:
    """One episode, as verl's ``AgentLoopWorker._compute_score`` hands it to the reward loop."""
    prompts, responses = torch.tensor([[1, 2, 3]]), torch.tensor([[4, 5]])
    ids = torch.cat([prompts, responses], dim=1)
    batch = TensorDict(
        {
            "prompts": prompts,
            "responses": responses,
            "attention_mask": torch.ones_like(ids),
            "input_ids": ids,
            "position_ids": torch.arange(5)[None],
        },
        batch_size=1,
    )
    row = {"uid": "a", "index": 7, "reward_model": {"style": "rule", "ground_truth": "4"}, "data_source": "toy"}
    non_tensor_batch = {
        **{name: np.array([value]) for name, value in row.items()},
        "__num_turns__": np.array([4]),
        "tool_extra_fields": np.array([extra_fields], dtype=object),
        "prompt_len": np.array([3]),
        "response_len": np.array([2]),
    }
    return DataProto(batch=batch, non_tensor_batch=non_tensor_batch)


@pytest.fixture
def score(config: DictConfig, tokenizer: Any) -> Any:
    async def score(transcript: Transcript) -> dict[str, Any]:
        # Looked up and made as verl's reward loop does.
        manager = get_reward_manager_cls("multi_attempt")(config=config, tokenizer=tokenizer, compute_score=None)
        found: dict[str, Any] = await manager.run_single(
            data({"turn_scores": [], "tool_rewards": [], "multi_attempt": transcript.to_dict()})
        )
        return found

    return score


@pytest.mark.parametrize(
    ("name", "reward", "acc"),
    [
        ("solved", 1.0, 1.0),
        ("well-formed", -0.5, 0.0),
        ("malformed", -1.0, 0.0),
        ("cut", -1.0, 0.0),
        ("aborted", 0.0, 0.0),
        ("failed", 0.0, 0.0),
    ],
)
async def test_an_episode_is_worth_what_the_paper_says(score: Any, name: str, reward: float, acc: float) -> None:
    result = await score(ALL[name])
    assert result["reward_score"] == reward
    assert result["reward_extra_info"]["acc"] == acc


async def test_the_reward_rule_is_the_configs(config: DictConfig, score: Any) -> None:
    config.multi_attempt.reward.update(correct=3.0, attempt_discount=0.5, format_attempts="any")
    assert (await score(SOLVED))["reward_score"] == 0.75
    assert (await score(MALFORMED))["reward_score"] == -0.5


async def test_every_episode_has_the_same_measures(score: Any) -> None:
    # verl stacks the keys of a batch's first episode, and needs them in all others.
    keys = {name: list((await score(transcript))["reward_extra_info"]) for name, transcript in ALL.items()}
    assert set(map(tuple, keys.values())) == {tuple(keys["solved"])}
    # verl puts its own "reward" beside them.
    assert "reward" not in keys["solved"]


async def test_measures_say_what_happened(score: Any) -> None:
    measures = (await score(SOLVED))["reward_extra_info"]
    assert measures["success"] == 1.0
    assert measures["first_attempt_accuracy"] == 0.0
    assert measures["retry_success"] == 0.5
    assert measures["attempts_used/success"] == 3.0
    assert measures["stop/correct"] == 1.0
    failed = (await score(FAILED))["reward_extra_info"]
    assert failed["success"] is None
    assert failed["episode_errors"] == 1.0


async def test_an_episode_of_another_agent_loop_is_an_error_that_names_the_remedy(
    config: DictConfig, tokenizer: Any
) -> None:
    manager = get_reward_manager_cls("multi_attempt")(config=config, tokenizer=tokenizer, compute_score=None)
    with pytest.raises(ValueError, match=r"default_agent_loop = multi_attempt"):
        await manager.run_single(data({"turn_scores": [], "tool_rewards": []}))
