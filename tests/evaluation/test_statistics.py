"""Intervals: what they cover, and that models are compared on the same questions in the same draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

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


def test_failed_questions_are_left_out_of_means_and_of_pairs() -> None:
    one = scores(x=[1.0, None, 0.0, 1.0])
    other = scores(x=[0.0, 1.0, None, 1.0])
    assert accuracy(one)["x"].value == pytest.approx([2 / 3])
    assert difference(one, other)["x"].value == [0.5]


def test_a_benchmark_without_any_result_has_no_value() -> None:
    intervals = accuracy(scores(x=[None, None], y=[1.0, 0.0]))
    assert intervals["x"].value == intervals["x"].low == [None]
    assert intervals[MACRO].value == [None]
    assert intervals[WEIGHTED].value == [0.5]


def test_only_shared_questions_and_benchmarks_are_compared() -> None:
    one = {"x": {"a": [1.0], "b": [0.0]}, "y": {"a": [1.0]}}
    other = {"x": {"b": [1.0], "c": [0.0]}}
    found = difference(one, other)
    assert set(found) == {"x", MACRO, WEIGHTED}
    assert found["x"].value == [-1.0]
    assert difference(one, {"z": {"a": [1.0]}}) == {}
