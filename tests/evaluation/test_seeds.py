"""Arms over seeds: means, intervals by Student's t, and the form that figures and tables read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import report_files

from multi_attempt.evaluation import plots
from multi_attempt.evaluation.seeds import estimate, over_seeds, training_over_seeds
from multi_attempt.evaluation.tables import markdown, protocol_tables

T_2 = 4.302652729911275
"""The 97.5% quantile of Student's t with 2 degrees of freedom, from a printed table."""


def test_interval_is_students() -> None:
    found = estimate([0.1, 0.2, 0.6])
    deviation = math.sqrt((0.2**2 + 0.1**2 + 0.3**2) / 2)
    reach = T_2 * deviation / math.sqrt(3)
    assert found == pytest.approx((0.3, 0.3 - reach, 0.3 + reach))


def test_one_seed_has_no_interval_and_equal_seeds_have_one_of_no_width() -> None:
    assert estimate([0.4]) == (0.4, None, None)
    assert estimate([0.4, 0.4, 0.4]) == pytest.approx((0.4, 0.4, 0.4))


def models(*accuracies: list[float | None], **benchmarks: int) -> list[dict[str, Any]]:
    """A model a seed."""
    return [report_files.model(f"seed {seed}", accuracy, list(benchmarks)) for seed, accuracy in enumerate(accuracies)]


def arms(**seeds: list[list[float | None]]) -> dict[str, Any]:
    found = {name: models(*accuracies, a=30, b=10) for name, accuracies in seeds.items()}
    evaluation = report_files.evaluation(*next(iter(found.values())), benchmarks={"a": 30, "b": 10, "hard": 5})
    return over_seeds(evaluation, found, ["a", "b"])


def test_an_arm_is_a_model_with_intervals_over_seeds() -> None:
    multi = arms(multi=[[0.4, 0.6], [0.5, 0.7], [0.6, 0.8]])["models"][0]
    found = multi["results"]["oracle"]
    assert multi["name"] == "multi"
    for figures in (found["benchmarks"]["a"], found["macro"], found["weighted"]):
        assert figures["accuracy"] == pytest.approx([0.5, 0.7])
        assert figures["low"] == pytest.approx([value - T_2 * 0.1 / math.sqrt(3) for value in (0.5, 0.7)])
        assert figures["high"] == pytest.approx([0.5 + T_2 * 0.1 / math.sqrt(3), 0.7 + T_2 * 0.1 / math.sqrt(3)])
    assert multi["scores"]["oracle"]["a"]["q4"] == pytest.approx([2 / 3, 1.0])


def test_what_failed_in_a_seed_makes_a_range_of_the_mean() -> None:
    first, second = models([0.5, 0.6], [0.5, 0.6], a=30)
    first["results"]["oracle"]["benchmarks"]["a"] = report_files.figures([0.5, 0.6], failed=6)
    evaluation = report_files.evaluation(first, benchmarks={"a": 30})
    found = over_seeds(evaluation, {"arm": [first, second]}, ["a"])["models"][0]["results"]["oracle"]["macro"]
    assert found["accuracy"] == pytest.approx([0.5, 0.6])
    assert found["accuracy_at_most"] == pytest.approx([0.5, 0.7])
    assert (found["failed_by_attempts"], found["high"][1]) == ([0, 6], 1.0)


def test_means_over_benchmarks_are_within_each_seed_and_over_those_chosen() -> None:
    first, second = models([0.0], [0.0], a=30, b=10)
    for model, a, b in ((first, 0.2, 0.6), (second, 0.4, 0.8)):
        for name, accuracy in (("a", a), ("b", b)):
            model["results"]["oracle"]["benchmarks"][name] = report_files.figures([accuracy])
    evaluation = report_files.evaluation(first, attempts=[1], benchmarks={"a": 30, "b": 10})
    results = over_seeds(evaluation, {"arm": [first, second]}, ["a", "b"])["models"][0]["results"]["oracle"]
    assert results["macro"]["accuracy"] == pytest.approx([0.5])
    assert results["benchmarks"]["b"]["accuracy"] == pytest.approx([0.7])
    only_b = over_seeds(evaluation, {"arm": [first, second]}, ["b"])
    assert [benchmark["name"] for benchmark in only_b["benchmarks"]] == ["b"]
    assert only_b["models"][0]["results"]["oracle"]["macro"]["accuracy"] == pytest.approx([0.7])


def test_what_a_seed_did_not_measure_is_missing_from_accuracies_and_left_out_of_measures() -> None:
    found = arms(multi=[[0.4, None], [0.6, 0.8]])["models"][0]["results"]["oracle"]["macro"]
    assert found["accuracy"] == pytest.approx([0.5, None])
    assert (found["low"][1], found["high"][1]) == (None, None)
    # No attempt was wrong before the first.
    assert found["measures"]["wrong_to_right"] == pytest.approx([None, 0.25])


def test_intervals_stay_shares() -> None:
    found = arms(multi=[[0.9, 1.0], [1.0, 1.0], [0.2, 0.1]])["models"][0]["results"]["oracle"]["macro"]
    assert found["high"] == [1.0, 1.0]
    assert found["low"] == [0.0, 0.0]


def test_arms_are_tabulated_and_drawn_as_models_are(tmp_path: Path) -> None:
    evaluation = arms(single=[[0.4, 0.4], [0.5, 0.5]], multi=[[0.4, 0.8], [0.5, 0.9]])
    assert "| multi" in markdown(protocol_tables(evaluation))
    plots.accuracy_by_attempts(evaluation).savefig(tmp_path / "accuracy.png")


def test_training_over_seeds() -> None:
    runs = [[{"step": step, "reward": step + seed, "rare": None} for step in range(1, 21)] for seed in (0.0, 1.0, 2.0)]
    runs[0].append({"step": 21, "reward": 9.0})  # the others have not come so far
    for run in runs:
        run[7]["validated"] = 0.5
    rows = training_over_seeds(runs, ["reward", "rare", "validated"], width=5)
    assert [row["step"] for row in rows] == list(range(1, 21))
    assert rows[9]["reward"] == pytest.approx(11.0)
    # The mean of five steps of a straight line is the one in the middle.
    assert rows[9]["reward:low"] == pytest.approx(11.0 - T_2 / math.sqrt(3))
    assert rows[0]["reward:high"] == pytest.approx(3.0 + T_2 / math.sqrt(3))
    assert [row["step"] for row in rows if "validated" in row] == [8]
    assert not any("rare" in row for row in rows)
