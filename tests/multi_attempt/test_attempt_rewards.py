"""What each attempt is given, and what it sums to."""

from __future__ import annotations

import pytest

from multi_attempt.attempt_rewards import attempt_rewards, episode_reward
from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.rewards import RewardRule


def transcript(*kinds: str, stop: StopReason = StopReason.EXHAUSTED) -> Transcript:
    """Attempts that are right (r), wrong (w), or of the wrong format (f)."""
    attempts = [
        Attempt((4 * k, 4 * k + 2), "5", kind == "r", kind != "f", False, False, "exact", "")
        for k, kind in enumerate(kinds)
    ]
    return Transcript(3, StopReason.CORRECT if "r" in kinds else stop, attempts)


# As in docs/algorithms.md, with the paper's rewards.
TABLE = {
    ("episode", "wfr"): [0, 0, 1],
    ("difference", "wfr"): [-0.5, -0.5, 2],
    ("each", "wfr"): [-0.5, -1, 1],
    ("episode", "ww"): [0, -0.5],
    ("difference", "ww"): [-0.5, 0],
    ("each", "ww"): [-0.5, -0.5],
    ("difference", "r"): [1],
}


@pytest.mark.parametrize(("kind", "attempts"), TABLE)
def test_what_each_attempt_is_given(kind: str, attempts: str) -> None:
    rule = RewardRule(per_attempt=kind)
    given = attempt_rewards(rule, transcript(*attempts))
    assert given == TABLE[kind, attempts]
    assert sum(given) == episode_reward(rule, transcript(*attempts))


@pytest.mark.parametrize("attempts", ["wfr", "ww", "fw", "r"])
def test_only_each_is_another_objective(attempts: str) -> None:
    worth = RewardRule()(transcript(*attempts))
    assert episode_reward(RewardRule(per_attempt="difference"), transcript(*attempts)) == worth
    if len(attempts) > 1:
        assert episode_reward(RewardRule(per_attempt="each"), transcript(*attempts)) != worth


def test_a_late_success_is_discounted_wherever_it_stands() -> None:
    for kind, rewards in {"episode": [0, 0, 0.25], "difference": [0, 0, 0.25], "each": [0, 0, 0.25]}.items():
        rule = RewardRule(1.0, 0.0, 0.0, attempt_discount=0.5, per_attempt=kind)
        assert attempt_rewards(rule, transcript("w", "w", "r")) == rewards


@pytest.mark.parametrize(
    ("attempts", "rewards"), [("wr", [0, 11]), ("rw", [1, -10]), ("rr", [1, 1]), ("wwr", [0, 0, 11]), ("r", [1])]
)
def test_progress_pays_for_what_an_attempt_is_worth_more_than_the_one_before(
    attempts: str, rewards: list[float]
) -> None:
    """As in SCoRe's second stage: alpha (r2 - r1) beside r2."""
    rule = RewardRule(1.0, 0.0, 0.0, per_attempt="each", progress=10.0)
    assert attempt_rewards(rule, transcript(*attempts)) == rewards
    with pytest.raises(ValueError, match=r"multi_attempt.reward.progress = 10.0 .*per_attempt = 'episode' to each"):
        RewardRule(progress=10.0)


def test_an_aborted_episode_is_worth_nothing() -> None:
    rule = RewardRule(per_attempt="each")
    assert attempt_rewards(rule, transcript("w", "w", stop=StopReason.ABORTED)) == [0, 0]
    assert episode_reward(rule, transcript(stop=StopReason.ABORTED)) == 0


def test_another_place_is_an_error_that_names_the_choices() -> None:
    with pytest.raises(ValueError, match=r"multi_attempt\.reward\.per_attempt = 'turn'; use 'episode'"):
        RewardRule(per_attempt="turn")
