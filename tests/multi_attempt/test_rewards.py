"""What an episode is worth."""

from __future__ import annotations

import math

import pytest

from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.rewards import RewardRule


def episode(*kinds: str, stop: StopReason | None = None) -> Transcript:
    """An episode of attempts that are ``right``, ``wrong`` (in the right format) or ``bad`` (wrong format too).

    An attempt can be right in the wrong format: ``right-bad``.
    """
    attempts = [
        Attempt(
            span=(0, 0),
            answer="3",
            correct=kind.startswith("right"),
            well_formed=not kind.endswith("bad"),
            truncated=False,
            repeated=False,
            method="exact",
            reason="",
        )
        for kind in kinds
    ]
    if stop is None:
        stop = StopReason.CORRECT if any(attempt.correct for attempt in attempts) else StopReason.EXHAUSTED
    return Transcript(budget=max(len(attempts), 1), stop=stop, attempts=attempts)


@pytest.mark.parametrize(
    ("kinds", "reward"),
    [
        (["right"], 1.0),
        (["right-bad"], 1.0),
        (["wrong"], -0.5),
        (["bad"], -1.0),
        # No discount for attempts used.
        (["wrong", "right"], 1.0),
        (["bad", "bad", "bad", "bad", "right"], 1.0),
        (["bad", "right-bad"], 1.0),
        # The last attempt's format.
        (["wrong", "wrong"], -0.5),
        (["bad", "wrong"], -0.5),
        (["wrong", "bad"], -1.0),
        (["bad", "bad"], -1.0),
        (["wrong", "wrong", "bad"], -1.0),
        (["bad", "bad", "wrong"], -0.5),
    ],
)
def test_paper_rewards(kinds: list[str], reward: float) -> None:
    assert RewardRule()(episode(*kinds)) == reward


@pytest.mark.parametrize(
    ("kinds", "reward"),
    [
        (["wrong"], -0.5),
        (["bad"], -1.0),
        (["wrong", "bad"], -0.5),
        (["bad", "wrong", "bad"], -0.5),
        (["bad", "bad"], -1.0),
        (["bad", "right"], 1.0),
    ],
)
def test_any_attempts_format_counts_when_configured(kinds: list[str], reward: float) -> None:
    assert RewardRule(format_attempts="any")(episode(*kinds)) == reward


@pytest.mark.parametrize(
    ("kinds", "reward"),
    [
        (["right"], 1.0),
        (["wrong", "right"], 0.5),
        (["wrong", "bad", "right"], 0.25),
        (["wrong"], -0.5),
        (["wrong", "wrong", "wrong"], -0.5),
        (["bad", "bad", "bad"], -1.0),
    ],
)
def test_discount_applies_to_success_only(kinds: list[str], reward: float) -> None:
    assert RewardRule(attempt_discount=0.5)(episode(*kinds)) == reward


@pytest.mark.parametrize(("kinds", "reward"), [(["right"], 2.0), (["wrong"], 0.5), (["bad"], -3.0)])
def test_rewards_are_those_configured(kinds: list[str], reward: float) -> None:
    assert RewardRule(correct=2.0, well_formed=0.5, otherwise=-3.0)(episode(*kinds)) == reward


@pytest.mark.parametrize("kinds", [[], ["right"], ["wrong"], ["bad"]])
@pytest.mark.parametrize("format_attempts", ["last", "any"])
def test_aborted_episode_is_worth_nothing(kinds: list[str], format_attempts: str) -> None:
    rule = RewardRule(format_attempts=format_attempts)
    assert rule(episode(*kinds, stop=StopReason.ABORTED)) == 0.0


@pytest.mark.parametrize(
    ("kinds", "reward"), [(["right"], 1.0), (["wrong"], -0.5), (["bad"], -1.0), (["wrong", "bad"], -1.0), ([], -1.0)]
)
def test_truncated_episode_is_worth_what_its_attempts_are(kinds: list[str], reward: float) -> None:
    assert RewardRule()(episode(*kinds, stop=StopReason.TRUNCATED)) == reward


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"correct": -0.7}, ["correct = -0.7", "well_formed = -0.5"]),
        ({"well_formed": 1.5}, ["correct = 1.0", "well_formed = 1.5"]),
        ({"well_formed": -2.0}, ["well_formed = -2.0", "otherwise = -1.0"]),
        ({"otherwise": 0.0}, ["well_formed = -0.5", "otherwise = 0.0"]),
        ({"correct": math.inf}, ["correct = inf"]),
        ({"otherwise": -math.inf}, ["otherwise = -inf"]),
        ({"correct": math.inf, "well_formed": math.inf}, ["correct = inf"]),
        ({"correct": math.nan}, ["correct = nan"]),
        ({"otherwise": math.nan}, ["otherwise = nan"]),
        ({"attempt_discount": 0.0}, ["attempt_discount = 0.0"]),
        ({"attempt_discount": -0.5}, ["attempt_discount = -0.5"]),
        ({"attempt_discount": 1.1}, ["attempt_discount = 1.1"]),
        ({"attempt_discount": math.nan}, ["attempt_discount = nan"]),
        ({"format_attempts": "first"}, ["format_attempts = 'first'", "last", "any"]),
    ],
)
def test_invalid_rule_is_refused_by_name_and_value(changes: dict[str, object], named: list[str]) -> None:
    with pytest.raises(ValueError, match="reward") as caught:
        RewardRule(**changes)  # type: ignore[arg-type]
    assert all(text in str(caught.value) for text in named), str(caught.value)


def test_equal_rewards_are_allowed() -> None:
    rule = RewardRule(correct=1.0, well_formed=0.0, otherwise=0.0)
    assert [rule(episode(kind)) for kind in ("right", "wrong", "bad")] == [1.0, 0.0, 0.0]


# ---- Repeating ----


def answered(*answers: str | None, right_at_last: bool = False) -> Transcript:
    """An episode of attempts with these answers, as the episode itself would record them."""
    made: list[Attempt] = []
    for number, answer in enumerate(answers, 1):
        repeated = answer is not None and answer in [attempt.answer for attempt in made]
        correct = right_at_last and number == len(answers)
        made.append(Attempt((0, 0), answer, correct, True, False, repeated, "exact", ""))
    return Transcript(len(answers), StopReason.CORRECT if right_at_last else StopReason.EXHAUSTED, made)


@pytest.mark.parametrize(
    ("answers", "repeats", "share"),
    [
        (("3", "4", "5"), 0, 0.0),
        (("3", "3", "3"), 2, 2 / 3),
        (("3", "4", "3"), 1, 1 / 3),
        # What is no answer repeats none, and is none of the answers.
        ((None, None, "3", "3"), 1, 1 / 2),
        ((None, None), 0, 0.0),
    ],
)
def test_what_repeating_a_wrong_answer_costs(answers: tuple[str | None, ...], repeats: int, share: float) -> None:
    assert RewardRule(repeat=0.25)(answered(*answers)) == pytest.approx(-0.5 - 0.25 * repeats)
    assert RewardRule(repeat_share=0.3)(answered(*answers)) == pytest.approx(-0.5 - 0.3 * share)
    assert RewardRule(repeat=0.25, repeat_share=0.3)(answered(*answers)) == pytest.approx(
        -0.5 - 0.25 * repeats - 0.3 * share
    )
    assert RewardRule()(answered(*answers)) == -0.5


def test_a_solved_episode_pays_for_its_repeats_too() -> None:
    assert RewardRule(repeat=0.25)(answered("3", "3", "4", right_at_last=True)) == 0.75


def test_an_aborted_episode_pays_nothing() -> None:
    assert RewardRule(repeat=1.0)(Transcript(3, StopReason.ABORTED, answered("3", "3").attempts)) == 0.0


@pytest.mark.parametrize("name", ["repeat", "repeat_share"])
@pytest.mark.parametrize("value", [-0.1, math.inf, math.nan])
def test_repeating_is_never_paid_for(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=rf"multi_attempt.reward.{name} = {value} must be 0 or more"):
        RewardRule(**{name: value})  # type: ignore[arg-type]
