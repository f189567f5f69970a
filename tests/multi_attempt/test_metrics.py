"""What is measured of episodes, in validation (one at a time) and in training (a batch)."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.metrics import PREFIX, batch_metrics, episode_metrics

# One name for each measure of an episode; a batch has success_by_budget/k as well.
NAMES = {
    "success",
    "first_attempt_accuracy",
    "retry_success",
    "wrong_to_right",
    "right_to_wrong",
    "attempts_used/success",
    "attempts_used/failure",
    "repeat_rate",
    "answer_rate",
    "format_rate",
    "stop/correct",
    "stop/exhausted",
    "stop/truncated",
    "stop/aborted",
    "tokens_per_attempt",
    "tokens_per_reflection",
    "generated_tokens",
    *(f"seconds/{wait}" for wait in ("generate", "grade", "tokens")),
    "cached_token_fraction",
    "grader_timeouts",
    "grader_memory_limits",
    "episode_errors",
}


def attempt(
    correct: bool = False,
    *,
    tokens: int = 10,
    answer: str | None = "3",
    well_formed: bool = True,
    repeated: bool = False,
    reason: str = "",
) -> Attempt:
    return Attempt(
        span=(5, 5 + tokens),
        answer=answer,
        correct=correct,
        well_formed=well_formed,
        truncated=False,
        repeated=repeated,
        method="exact",
        reason=reason,
    )


SOLVED_AT_ONCE = Transcript(2, StopReason.CORRECT, [attempt(True, tokens=10)])
SOLVED_LATE = Transcript(
    3,
    StopReason.CORRECT,
    [attempt(tokens=20, well_formed=False), attempt(tokens=30, repeated=True), attempt(True, tokens=40)],
    prompt_tokens=300,
    cached_tokens=240,
    seconds={"generate": 3.0, "grade": 0.5, "tokens": 0.25},
)
FAILED = Transcript(
    2,
    StopReason.EXHAUSTED,
    [attempt(tokens=50, reason="timeout"), attempt(tokens=60, answer=None, well_formed=False, reason="timeout")],
    prompt_tokens=100,
    cached_tokens=0,
    seconds={"generate": 5.0, "grade": 0.0, "tokens": 0.75},
)
CUT = Transcript(3, StopReason.TRUNCATED, [attempt(tokens=70, answer=None, well_formed=False)])
CUT_BEFORE_THE_FIRST_ATTEMPT = Transcript(3, StopReason.TRUNCATED)
ABORTED = Transcript(3)
BROKEN = Transcript(
    3, StopReason.ABORTED, [attempt(True), attempt(reason="timeout", repeated=True)], error="OSError: gone"
)

attempts = st.builds(
    attempt,
    st.booleans(),
    tokens=st.integers(1, 100),
    answer=st.sampled_from([None, "3"]),
    well_formed=st.booleans(),
    repeated=st.booleans(),
    reason=st.sampled_from(["", "timeout", "crash"]),
)
transcripts = st.builds(
    Transcript,
    budget=st.integers(1, 3),
    stop=st.sampled_from(StopReason),
    attempts=st.lists(attempts, max_size=3),
    prompt_tokens=st.integers(0, 100),
    cached_tokens=st.integers(0, 100),
    error=st.sampled_from(["", "OSError: gone"]),
)


@given(transcripts)
def test_every_episode_has_the_same_measures(transcript: Transcript) -> None:
    assert set(episode_metrics(transcript)) == NAMES


@given(st.lists(transcripts, max_size=4), st.integers(1, 5))
def test_every_batch_has_the_same_measures(batch: list[Transcript], max_attempts: int) -> None:
    metrics = batch_metrics(batch, max_attempts)
    by_budget = {f"success_by_budget/{budget}" for budget in range(1, max_attempts + 1)}
    by_attempt = {f"repeat_rate/{number}" for number in range(2, max_attempts + 1)}
    assert set(metrics) == {PREFIX + name for name in NAMES | by_budget | by_attempt}
    assert all(type(value) is float for value in metrics.values())


@given(transcripts)
def test_batch_of_one_episode_has_the_measures_of_the_episode(transcript: Transcript) -> None:
    # Training and validation must not report different things under one name.
    batch = batch_metrics([transcript], 3)
    single = episode_metrics(transcript)
    expected = {name: math.nan if value is None else value for name, value in single.items()}
    assert {name: batch[PREFIX + name] for name in NAMES} == pytest.approx(expected, nan_ok=True)


def test_measures_of_a_solved_episode() -> None:
    assert episode_metrics(SOLVED_LATE) == pytest.approx(
        {
            "success": 1.0,
            "first_attempt_accuracy": 0.0,
            "retry_success": 1 / 2,
            "wrong_to_right": 1 / 2,
            "right_to_wrong": None,
            "attempts_used/success": 3.0,
            "attempts_used/failure": None,
            "repeat_rate": 1 / 2,
            "answer_rate": 1.0,
            "format_rate": 2 / 3,
            "stop/correct": 1.0,
            "stop/exhausted": 0.0,
            "stop/truncated": 0.0,
            "stop/aborted": 0.0,
            "tokens_per_attempt": 30.0,
            "tokens_per_reflection": None,
            "generated_tokens": 90.0,
            "seconds/generate": 3.0,
            "seconds/grade": 0.5,
            "seconds/tokens": 0.25,
            "cached_token_fraction": 0.8,
            "grader_timeouts": 0.0,
            "grader_memory_limits": 0.0,
            "episode_errors": 0.0,
        }
    )


def test_measures_of_a_failed_episode() -> None:
    assert episode_metrics(FAILED) == pytest.approx(
        {
            "success": 0.0,
            "first_attempt_accuracy": 0.0,
            "retry_success": 0.0,
            "wrong_to_right": 0.0,
            "right_to_wrong": None,
            "attempts_used/success": None,
            "attempts_used/failure": 2.0,
            "repeat_rate": 0.0,
            "answer_rate": 1 / 2,
            "format_rate": 1 / 2,
            "stop/correct": 0.0,
            "stop/exhausted": 1.0,
            "stop/truncated": 0.0,
            "stop/aborted": 0.0,
            "tokens_per_attempt": 55.0,
            "tokens_per_reflection": None,
            "generated_tokens": 110.0,
            "seconds/generate": 5.0,
            "seconds/grade": 0.0,
            "seconds/tokens": 0.75,
            "cached_token_fraction": 0.0,
            "grader_timeouts": 2.0,
            "grader_memory_limits": 0.0,
            "episode_errors": 0.0,
        }
    )


def test_single_attempt_has_no_measure_of_retries() -> None:
    metrics = episode_metrics(SOLVED_AT_ONCE)
    assert (metrics["retry_success"], metrics["repeat_rate"]) == (None, None)
    assert (metrics["first_attempt_accuracy"], metrics["attempts_used/success"]) == (1.0, 1.0)


@pytest.mark.parametrize(("transcript", "errors"), [(ABORTED, 0.0), (BROKEN, 1.0)])
def test_aborted_episode_counts_as_neither_success_nor_failure(transcript: Transcript, errors: float) -> None:
    metrics = episode_metrics(transcript)
    undecided = (
        "success",
        "first_attempt_accuracy",
        "retry_success",
        "wrong_to_right",
        "right_to_wrong",
        "attempts_used/success",
        "attempts_used/failure",
        "repeat_rate",
        "answer_rate",
        "format_rate",
        "tokens_per_attempt",
    )
    assert [metrics[name] for name in undecided] == [None] * len(undecided)
    assert (metrics["stop/aborted"], metrics["episode_errors"]) == (1.0, errors)


def test_measures_of_a_batch() -> None:
    metrics = batch_metrics([SOLVED_AT_ONCE, SOLVED_LATE, FAILED, CUT, ABORTED, BROKEN], 3)
    expected = {
        # Of the four episodes that came to an end.
        "success": 2 / 4,
        "first_attempt_accuracy": 1 / 4,
        "success_by_budget/1": math.nan,
        "success_by_budget/2": 1 / 2,
        "success_by_budget/3": 1 / 2,
        # Three attempts were not the first of their episode: two of SOLVED_LATE, one of FAILED. The mean of the
        # episodes' rates would be 1/4.
        "retry_success": 1 / 3,
        "wrong_to_right": 1 / 3,
        "right_to_wrong": math.nan,
        "repeat_rate": 1 / 3,
        "repeat_rate/2": 1 / 2,
        "repeat_rate/3": 0.0,
        "attempts_used/success": (1 + 3) / 2,
        "attempts_used/failure": (2 + 1) / 2,
        # Seven attempts; five of them with an answer, and four in the right format.
        "answer_rate": 5 / 7,
        "format_rate": 4 / 7,
        "tokens_per_attempt": (10 + 20 + 30 + 40 + 50 + 60 + 70) / 7,
        # Those of the broken episode were generated too.
        "generated_tokens": 280.0 + 20.0,
        "tokens_per_reflection": math.nan,
        # Of the two that say.
        "seconds/generate": (3.0 + 5.0) / 2,
        "seconds/grade": (0.5 + 0.0) / 2,
        "seconds/tokens": (0.25 + 0.75) / 2,
        # Of all six.
        "stop/correct": 2 / 6,
        "stop/exhausted": 1 / 6,
        "stop/truncated": 1 / 6,
        "stop/aborted": 2 / 6,
        # By tokens; the mean of the episodes' fractions would be 0.4.
        "cached_token_fraction": 240 / 400,
        "grader_timeouts": 2.0,
        "grader_memory_limits": 0.0,
        "episode_errors": 1.0,
    }
    assert metrics == pytest.approx({PREFIX + name: value for name, value in expected.items()}, nan_ok=True)


@pytest.mark.parametrize("batch", [[], [ABORTED], [ABORTED, BROKEN]], ids=["no episode", "aborted", "all aborted"])
def test_batch_without_a_finished_episode_has_no_rates(batch: list[Transcript]) -> None:
    metrics = batch_metrics(batch, 2)
    for name in ("success", "first_attempt_accuracy", "success_by_budget/1", "success_by_budget/2", "format_rate"):
        assert math.isnan(metrics[PREFIX + name])
    assert metrics[PREFIX + "grader_timeouts"] == 0.0


def test_episode_without_attempts_is_a_failure_without_a_first_attempt() -> None:
    metrics = batch_metrics([CUT_BEFORE_THE_FIRST_ATTEMPT, SOLVED_AT_ONCE], 3)
    assert metrics[PREFIX + "success"] == 0.5
    assert metrics[PREFIX + "first_attempt_accuracy"] == 1.0
    assert metrics[PREFIX + "attempts_used/failure"] == 0.0


def test_truncated_but_correct_attempt_is_a_success() -> None:
    metrics = batch_metrics([Transcript(1, StopReason.TRUNCATED, [attempt(True)])], 1)
    assert metrics[PREFIX + "success"] == 1.0
    assert (metrics[PREFIX + "stop/truncated"], metrics[PREFIX + "stop/correct"]) == (1.0, 0.0)


def test_what_the_next_attempt_makes_of_one_in_blind_episodes() -> None:
    right, wrong = attempt(True), attempt()
    blind = [
        Transcript(4, StopReason.EXHAUSTED, [right, wrong, wrong, wrong]),
        Transcript(3, StopReason.CORRECT, [wrong, right, right]),
    ]
    metrics = batch_metrics(blind, 4)
    assert metrics[PREFIX + "wrong_to_right"] == 1 / 3
    assert metrics[PREFIX + "right_to_wrong"] == 1 / 2
    assert metrics[PREFIX + "success"] == 1 / 2
