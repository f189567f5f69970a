"""Accuracy with honest intervals: a bootstrap over questions, in which all models see the same draws."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

MACRO, WEIGHTED = "macro", "weighted"
"""The two means over benchmarks: each benchmark counts the same, or each question does."""

CONFIDENCE = 0.95
RESAMPLES = 10_000

Scores = Mapping[str, Mapping[str, Sequence["float | None"]]]
"""``{benchmark: {question id: [score for each number of attempts]}}``; None where the episode failed."""


class Interval(NamedTuple):
    """Values with their 95% intervals, one for each number of attempts; None where nothing was measured."""

    value: list[float | None]
    low: list[float | None]
    high: list[float | None]


def accuracy(scores: Scores) -> dict[str, Interval]:
    """Mean scores of one protocol: of each benchmark, and both means over them.

    Failed episodes are left out, not counted as wrong. Intervals are percentiles of a bootstrap over questions within
    each benchmark, with draws that depend on the benchmark alone.
    """
    return _estimate({name: _table(list(rows), rows) for name, rows in scores.items()})


def difference(scores: Scores, baseline: Scores) -> dict[str, Interval]:
    """Mean differences to a baseline, paired: over the questions that both answered, in the same draws of them."""
    tables = {}
    for name in scores:
        shared = [question for question in scores[name] if question in baseline.get(name, {})]
        if shared:
            tables[name] = _table(shared, scores[name]) - _table(shared, baseline[name])
    return _estimate(tables)


def _table(questions: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> np.ndarray:
    """Scores as floats, shape [questions, numbers of attempts], NaN where the episode failed."""
    return np.array([[np.nan if value is None else value for value in rows[name]] for name in questions], dtype=float)


def _estimate(tables: Mapping[str, np.ndarray]) -> dict[str, Interval]:
    """Point values and intervals of each table, and of both means over them."""
    tables = {name: table for name, table in tables.items() if table.size}
    if not tables:
        return {}
    # Sums and counts, the first row of the sample as it is, the others of its resamples: [1 + resamples, attempts].
    parts = {name: _resampled(table, name) for name, table in tables.items()}
    means = {name: _ratio(sums, counts) for name, (sums, counts) in parts.items()}
    means[MACRO] = np.mean([means[name] for name in parts], axis=0)
    sums, counts = (np.sum(list(part), axis=0) for part in zip(*parts.values(), strict=True))
    means[WEIGHTED] = _ratio(sums, counts)
    return {name: _interval(values) for name, values in means.items()}


def _resampled(table: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(list(name.encode()))
    questions = len(table)
    draws = generator.multinomial(questions, np.full(questions, 1 / questions), size=RESAMPLES)
    weights = np.vstack([np.ones((1, questions)), draws])
    measured = ~np.isnan(table)
    return weights @ np.where(measured, table, 0.0), weights @ measured.astype(float)


def _ratio(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


def _interval(means: np.ndarray) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    columns: list[tuple[float | None, float | None, float | None]] = []
    for values in means.T:
        if np.isnan(values[0]):
            columns.append((None, None, None))
        else:
            low, high = np.nanquantile(values[1:], [tail, 1 - tail])
            columns.append((float(values[0]), float(low), float(high)))
    value, low_values, high_values = (list(column) for column in zip(*columns, strict=True))
    return Interval(value, low_values, high_values)
