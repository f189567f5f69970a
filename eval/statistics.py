"""Accuracy with honest intervals, and differences between models over the same questions.

An interval is Wilson's score interval, which has a width also where all answers are right, or all are wrong. Questions
that failed are not left out, since it is no chance which fail: those that are hard take more attempts, each of which
can fail. A mean is over all questions, and where some failed a range: from all of them wrong to all of them right.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

MACRO, WEIGHTED = "macro", "weighted"
"""The two means over benchmarks: each benchmark counts the same, or each question does."""

CONFIDENCE = 0.95

Scores = Mapping[str, Mapping[str, Sequence["float | None"]]]
"""``{benchmark: {question id: [score for each number of attempts]}}``; None where the episode failed."""


class Interval(NamedTuple):
    """Means with their 95% intervals, one for each number of attempts; None where nothing was measured.

    Attributes:
        value: the mean over all questions; where some failed, the least that it can be.
        most: the most that it can be; the same as ``value`` where none failed.
        low: the lower end of the interval of ``value``.
        high: the upper end of the interval of ``most``.
        failed: how many questions failed.
    """

    value: list[float | None]
    most: list[float | None]
    low: list[float | None]
    high: list[float | None]
    failed: list[int]


def accuracy(scores: Scores, bounds: tuple[float, float] = (0.0, 1.0)) -> dict[str, Interval]:
    """Mean scores of one protocol: of each benchmark, and both means over them.

    Each mean is over all questions, whatever the number of attempts: of a failed one, only the bounds are known.

    Args:
        scores: of each question.
        bounds: the least and the most that a score can be.
    """
    tables = {name: _table(list(rows), rows) for name, rows in scores.items()}
    return _estimate({name: _filled(table, bounds) for name, table in tables.items() if table.size}, bounds)


def difference(scores: Scores, baseline: Scores) -> dict[str, Interval]:
    """Mean differences to a baseline, paired: over the questions that both were asked."""
    samples = {}
    for name in scores:
        shared = [question for question in scores[name] if question in baseline.get(name, {})]
        if shared:
            one, other = (_filled(_table(shared, rows[name]), (0.0, 1.0)) for rows in (scores, baseline))
            samples[name] = _Sample(one.least - other.most, one.most - other.least, one.failed | other.failed)
    return _estimate(samples, (-1.0, 1.0))


class _Sample(NamedTuple):
    """What each question's score can be at least and at most, and whether it failed; [questions, attempts]."""

    least: np.ndarray
    most: np.ndarray
    failed: np.ndarray


class _Mean(NamedTuple):
    """As :class:`Interval`, for each number of attempts; NaN where nothing was measured."""

    value: np.ndarray
    most: np.ndarray
    low: np.ndarray
    high: np.ndarray
    failed: np.ndarray


def _table(questions: Sequence[str], rows: Mapping[str, Sequence[float | None]]) -> np.ndarray:
    """Scores as floats, shape [questions, numbers of attempts], NaN where the episode failed."""
    return np.array([[np.nan if value is None else value for value in rows[name]] for name in questions], dtype=float)


def _filled(table: np.ndarray, bounds: tuple[float, float]) -> _Sample:
    failed = np.isnan(table)
    return _Sample(np.where(failed, bounds[0], table), np.where(failed, bounds[1], table), failed)


def _estimate(samples: Mapping[str, _Sample], bounds: tuple[float, float]) -> dict[str, Interval]:
    """The mean of each sample, and both means over them."""
    if not samples:
        return {}
    means = {name: _mean(sample, bounds) for name, sample in samples.items()}
    counts = [len(sample.failed) for sample in samples.values()]
    parts = list(means.values())
    named = {
        **means,
        MACRO: _combined(parts, [1] * len(parts), bounds),
        WEIGHTED: _combined(parts, counts, bounds),
    }
    nothing: dict[str, np.ndarray] = {name: np.logical_and.reduce(sample.failed) for name, sample in samples.items()}
    every = list(nothing.values())
    nothing |= {MACRO: np.logical_or.reduce(every), WEIGHTED: np.logical_and.reduce(every)}
    return {name: _interval(mean, nothing[name]) for name, mean in named.items()}


def _mean(sample: _Sample, bounds: tuple[float, float]) -> _Mean:
    low, _ = _wilson(sample.least, bounds)
    _, high = _wilson(sample.most, bounds)
    return _Mean(sample.least.mean(axis=0), sample.most.mean(axis=0), low, high, sample.failed.sum(axis=0))


def _wilson(scores: np.ndarray, bounds: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    """Wilson's interval of the mean of each column, for scores that may lie between the bounds too.

    Scores in between tell more than scores at the bounds: they count as so many questions more as their variance is
    smaller than that of scores at the bounds with the same mean (the effective sample size of surveys). The variance is
    of the sample with a score at each bound added, so that no sample is taken for a certain one. Where all scores are
    at the bounds, this is Wilson's own interval, which SciPy has for whole numbers of successes.
    """
    least, most = bounds
    shares = (scores - least) / (most - least)
    mean, count = shares.mean(axis=0), len(shares)
    guarded = np.vstack([shares, np.zeros(shares.shape[1]), np.ones(shares.shape[1])])
    centre = guarded.mean(axis=0)
    effective = count * centre * (1 - centre) / guarded.var(axis=0)
    deviation = stats.norm.ppf((1 + CONFIDENCE) / 2)
    added = deviation**2 / effective
    middle = (mean + added / 2) / (1 + added)
    reach = deviation / (1 + added) * np.sqrt(mean * (1 - mean) / effective + added / effective / 4)
    # At a bound the interval ends there, but for rounding.
    low, high = np.clip(middle - reach, 0, mean), np.clip(middle + reach, mean, 1)
    return least + (most - least) * low, least + (most - least) * high


def _combined(means: Sequence[_Mean], weights: Sequence[int], bounds: tuple[float, float]) -> _Mean:
    """A weighted mean of independent means; its interval reaches as far as the root of the sum of their squares.

    That is Newcombe's way from intervals of proportions to one of their difference, for any linear combination.
    """
    shares = np.array(weights)[:, None] / sum(weights)
    value, most, low, high, failed = (np.array(part) for part in zip(*means, strict=True))
    least_mean, most_mean = (shares * value).sum(axis=0), (shares * most).sum(axis=0)
    below = np.sqrt(((shares * (value - low)) ** 2).sum(axis=0))
    above = np.sqrt(((shares * (high - most)) ** 2).sum(axis=0))
    low, high = np.clip(least_mean - below, bounds[0], None), np.clip(most_mean + above, None, bounds[1])
    return _Mean(least_mean, most_mean, low, high, failed.sum(axis=0))


def _interval(mean: _Mean, nothing: np.ndarray) -> Interval:
    def known(part: np.ndarray) -> list[float | None]:
        return [None if unknown else float(value) for value, unknown in zip(part, nothing, strict=True)]

    failed = [int(count) for count in mean.failed]
    return Interval(known(mean.value), known(mean.most), known(mean.low), known(mean.high), failed)
