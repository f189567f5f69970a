"""Intervals: what they cover, and that models are compared on the same questions, of which none is left out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from multi_attempt.evaluation.statistics import MACRO, WEIGHTED, accuracy, difference


def scores(**benchmarks: Sequence[float | None]) -> dict[str, dict[str, list[float | None]]]:
    return {name: {str(number): [value] for number, value in enumerate(row)} for name, row in benchmarks.items()}


def test_intervals_agree_with_the_normal_approximation() -> None:
    row = [1.0] * 300 + [0.0] * 700
    interval = accuracy(scores(one=row))["one"]
    assert interval.value == [0.3]
    half = 1.96 * np.sqrt(0.3 * 0.7 / 1000)
    assert interval.low == pytest.approx([0.3 - half], abs=0.003)
    assert interval.high == pytest.approx([0.3 + half], abs=0.003)


def test_the_macro_means_interval_is_that_of_the_mean_of_independent_benchmarks() -> None:
    table = scores(one=[1.0] * 50 + [0.0] * 50, two=[1.0] * 200 + [0.0] * 200)
    intervals = accuracy(table)
    half = 1.96 * np.sqrt((0.25 / 100 + 0.25 / 400) / 4)
    assert intervals[MACRO].high == pytest.approx([0.5 + half], abs=0.005)
    assert intervals[WEIGHTED].high == pytest.approx([0.5 + 1.96 * np.sqrt(0.25 / 500)], abs=0.005)


def test_a_paired_difference_is_surer_than_two_accuracies() -> None:
    generator = np.random.default_rng(1)
    before = generator.random(400) < 0.5
    after = before | (generator.random(400) < 0.1)
    one, other = scores(x=[float(value) for value in after]), scores(x=[float(value) for value in before])
    interval = difference(one, other)["x"]
    gained = float(np.mean(after) - np.mean(before))
    assert interval.value == pytest.approx([gained])
    assert interval.low[0] is not None
    assert interval.low[0] > 0.02
    assert interval.high[0] == pytest.approx(gained + 1.96 * np.sqrt(gained * (1 - gained) / 400), abs=0.005)


@pytest.mark.parametrize("questions", [1, 2, 30, 500])
def test_intervals_of_right_and_wrong_are_wilsons(questions: int) -> None:
    for right in {0, 1, questions // 3, questions - 1, questions}:
        row = [1.0] * right + [0.0] * (questions - right)
        interval = accuracy(scores(one=row))["one"]
        expected = stats.binomtest(right, questions).proportion_ci(method="wilson")
        assert interval.low == pytest.approx([expected.low])
        assert interval.high == pytest.approx([expected.high])


@pytest.mark.parametrize("share", [0.01, 0.03, 0.1, 0.5, 0.97])
def test_intervals_cover_an_accuracy_as_often_as_they_say(share: float) -> None:
    covered = 0.0
    for right in range(31):
        interval = accuracy(scores(one=[1.0] * right + [0.0] * (30 - right)))["one"]
        assert interval.low[0] is not None
        assert interval.high[0] is not None
        covered += stats.binom.pmf(right, 30, share) * (interval.low[0] <= share <= interval.high[0])
    assert covered > 0.93


@pytest.mark.parametrize("shares", [(0.03, 0.0), (0.02, 0.02), (0.1, 0.0), (0.3, 0.1), (0.9, 0.0)])
def test_paired_intervals_cover_a_difference_as_often_as_they_say(shares: tuple[float, float]) -> None:
    covered = 0.0
    for better in range(31):
        for worse in range(31 - better):
            same = 30 - better - worse
            one = scores(x=[1.0] * better + [0.0] * worse + [1.0] * same)
            other = scores(x=[0.0] * better + [1.0] * worse + [1.0] * same)
            interval = difference(one, other)["x"]
            assert interval.low[0] is not None
            assert interval.high[0] is not None
            chance = stats.multinomial.pmf([better, worse, same], 30, [*shares, 1 - sum(shares)])
            covered += chance * (interval.low[0] <= shares[0] - shares[1] <= interval.high[0])
    assert covered > 0.93


def test_no_interval_is_without_width() -> None:
    for value in (0.0, 0.5, 1.0):
        table = scores(one=[value] * 30, two=[value] * 10)
        for interval in (*accuracy(table).values(), *difference(table, table).values()):
            assert interval.low[0] is not None
            assert interval.high[0] is not None
            assert interval.high[0] - interval.low[0] > 0.03
    # Two models that never differ may still do so on the next questions.
    same = difference(table, table)["one"]
    assert same.low[0] == pytest.approx(-same.high[0] if same.high[0] else None)


def test_shares_of_samples_are_surer_than_single_ones_but_not_beyond_the_questions() -> None:
    """Of 30 questions, each with 8 samples: where all shares are near a half, little is left to chance."""

    def width(row: list[float]) -> float:
        interval = accuracy(scores(one=row))["one"]
        assert interval.low[0] is not None
        assert interval.high[0] is not None
        return interval.high[0] - interval.low[0]

    halves = [3 / 8, 5 / 8] * 15
    assert width(halves) < 0.6 * width([0.0, 1.0] * 15)
    # One right sample of 240 says as little of questions that no one was asked as none.
    assert width([1 / 8, *[0.0] * 29]) > 0.9 * width([0.0] * 30)


def test_what_failed_makes_a_range_of_one_set_of_questions() -> None:
    """Of ten questions four are right at once, two at the second attempt, and four fail there."""
    rows = {"x": {str(number): [float(number < 4), 1.0 if number < 6 else None] for number in range(10)}}
    found = accuracy(rows)
    for interval in found.values():
        assert interval.value == [0.4, 0.6]
        assert interval.most == [0.4, 1.0]
        assert interval.failed == [0, 4]
        four, six = (stats.binomtest(right, 10).proportion_ci(method="wilson") for right in (4, 6))
        assert interval.low == pytest.approx([four.low, six.low])
        assert interval.high == pytest.approx([four.high, 1.0])


def test_what_failed_makes_a_range_of_pairs() -> None:
    one = scores(x=[1.0, None, 0.0, 1.0])
    other = scores(x=[0.0, 1.0, None, 1.0])
    assert accuracy(one)["x"][:2] == ([0.5], [0.75])
    # The four differences are 1, -1 to 0, -1 to 0, and 0.
    found = difference(one, other)["x"]
    assert (found.value, found.most, found.failed) == ([-0.25], [0.25], [2])
    # No failure of either makes a model better than it may be.
    assert difference(scores(x=[1.0, 0.0]), scores(x=[None, 0.0]))["x"].value == [0.0]


def test_a_benchmark_without_any_result_has_no_value() -> None:
    intervals = accuracy(scores(x=[None, None], y=[1.0, 0.0]))
    assert intervals["x"][:4] == ([None],) * 4
    assert intervals["x"].failed == [2]
    assert intervals[MACRO][:4] == ([None],) * 4
    assert (intervals[WEIGHTED].value, intervals[WEIGHTED].most) == ([0.25], [0.75])


def test_only_shared_questions_and_benchmarks_are_compared() -> None:
    one = {"x": {"a": [1.0], "b": [0.0]}, "y": {"a": [1.0]}}
    other = {"x": {"b": [1.0], "c": [0.0]}}
    found = difference(one, other)
    assert set(found) == {"x", MACRO, WEIGHTED}
    assert found["x"].value == [-1.0]
    assert difference(one, {"z": {"a": [1.0]}}) == {}
