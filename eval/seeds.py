"""The arms of an experiment, each run with several seeds: means over seeds, with Student's t for their intervals.

An arm is put in the form of one model, or of one training run, so that what draws and tabulates those draws arms:

    arms = over_seeds(evaluation, {"multi-attempt": [seed_0, seed_1, seed_2], "single-turn": [...]}, benchmarks)
    save(accuracy_by_attempts(arms), Path("docs/accuracy"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from multi_attempt.evaluation.statistics import CONFIDENCE, MACRO, WEIGHTED
from multi_attempt.evaluation.tables import interval_of

LOW, HIGH = "low", "high"
"""Suffixes of a training metric's name, after a colon: the ends of its interval."""

_Figures = Mapping[str, Any]


class Estimate(NamedTuple):
    """A mean over seeds with its 95% interval, which takes at least two seeds."""

    value: float
    low: float | None
    high: float | None


def estimate(values: Sequence[float]) -> Estimate:
    """The mean of what some seeds gave, and its interval by Student's t."""
    mean = fmean(values)
    if len(values) < 2:
        return Estimate(mean, None, None)
    reach = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values))
    return Estimate(mean, mean - reach, mean + reach)


def over_seeds(
    evaluation: Mapping[str, Any], arms: Mapping[str, Sequence[Mapping[str, Any]]], benchmarks: Sequence[str]
) -> dict[str, Any]:
    """The content of one ``eval.json`` whose models are arms.

    Accuracies and measures are means over seeds, the intervals of accuracies are over seeds; a question's score is its
    mean over seeds.

    Args:
        evaluation: the content of one of the seeds' ``eval.json``: the attempts, the protocols, the questions.
        arms: for each arm its models, one a seed, as ``eval.json`` has them; all of the same questions.
        benchmarks: those to take; the means over benchmarks are over these.
    """
    return {
        **evaluation,
        "benchmarks": [benchmark for benchmark in evaluation["benchmarks"] if benchmark["name"] in benchmarks],
        "models": [_arm(name, models, benchmarks) for name, models in arms.items()],
    }


def training_over_seeds(
    runs: Sequence[Sequence[Mapping[str, Any]]], metrics: Iterable[str], width: int
) -> list[dict[str, Any]]:
    """The steps of one training run that stands for those of several seeds.

    Each metric is its mean over seeds; ``metric:low`` and ``metric:high`` are the interval of the mean over ``width``
    steps around each (fewer at the ends). Steps that not all have are left out, and so is a metric of a step.
    """
    by_step = [{row["step"]: row for row in run} for run in runs]
    shared = sorted(set.intersection(*map(set, by_step)))
    rows: dict[int, dict[str, Any]] = {step: {"step": step} for step in shared}
    for metric in metrics:
        steps = [step for step in shared if all(run[step].get(metric) is not None for run in by_step)]
        values = np.array([[float(run[step][metric]) for step in steps] for run in by_step])
        near = width // 2 if len(steps) >= 3 * width else 0  # as the curve itself is drawn
        for place, step in enumerate(steps):
            around = values[:, max(0, place - near) : place + near + 1]
            _, low, high = estimate(np.nanmean(around, axis=1).tolist())
            rows[step] |= {
                metric: float(np.nanmean(values[:, place])),
                f"{metric}:{LOW}": low,
                f"{metric}:{HIGH}": high,
            }
    return list(rows.values())


def _arm(name: str, models: Sequence[Mapping[str, Any]], benchmarks: Sequence[str]) -> dict[str, Any]:
    protocols = models[0]["results"]
    return {
        "name": name,
        "path": "",
        "architecture": models[0]["architecture"],
        "failed": sum(model["failed"] for model in models),
        "results": {
            protocol: _results([model["results"][protocol]["benchmarks"] for model in models], benchmarks)
            for protocol in protocols
        },
        "scores": {
            protocol: {
                benchmark: _mean_scores([model["scores"][protocol][benchmark] for model in models])
                for benchmark in benchmarks
            }
            for protocol in protocols
        },
    }


def _results(seeds: Sequence[Mapping[str, _Figures]], benchmarks: Sequence[str]) -> dict[str, Any]:
    counts = [seeds[0][benchmark]["questions"] for benchmark in benchmarks]
    return {
        "benchmarks": {name: _figures([[seed[name]] for seed in seeds], [1]) for name in benchmarks},
        MACRO: _figures([[seed[name] for name in benchmarks] for seed in seeds], [1] * len(benchmarks)),
        WEIGHTED: _figures([[seed[name] for name in benchmarks] for seed in seeds], counts),
    }


def _figures(seeds: Sequence[Sequence[_Figures]], weights: Sequence[float]) -> dict[str, Any]:
    """The figures of some benchmarks together, a weight for each of them, on the mean over seeds.

    An accuracy that was not measured leaves its mean unmeasured, and one that is a range makes it a range; measures are
    means of those there are.
    """

    def table(values_of: Callable[[_Figures], Sequence[float | None]]) -> np.ndarray:
        """Shape [seeds, benchmarks, numbers of attempts], NaN where nothing was measured."""
        return np.array([[values_of(figures) for figures in seed] for seed in seeds], dtype=float)

    def estimates(values_of: Callable[[_Figures], Sequence[float | None]]) -> list[Estimate | None]:
        means = np.average(table(values_of), axis=1, weights=weights)
        return [None if np.isnan(column).any() else estimate(column.tolist()) for column in means.T]

    least, most = estimates(lambda figures: interval_of(figures).value), estimates(lambda one: interval_of(one).most)

    def means(of: str) -> dict[str, Any]:
        found = {}
        for name in seeds[0][0].get(of, ()):  # evaluations of earlier versions have no by_attempt
            measured = np.ma.masked_invalid(table(lambda figures, name=name: figures[of][name]))  # type: ignore[misc]
            found[name] = np.ma.average(measured, axis=1, weights=weights).mean(axis=0).tolist()  # None where masked
        return found

    return {
        "questions": sum(figures["questions"] for figures in seeds[0]),
        "failed": sum(figures["failed"] for seed in seeds for figures in seed),
        "failed_by_attempts": [
            sum(column)
            for column in zip(*(interval_of(figures).failed for seed in seeds for figures in seed), strict=True)
        ],
        "accuracy": [found and found.value for found in least],
        "accuracy_at_most": [found and found.value for found in most],
        "low": [found and _share(found.low) for found in least],
        "high": [found and _share(found.high) for found in most],
        "measures": means("measures"),
        "by_attempt": means("by_attempt"),
    }


def _share(value: float | None) -> float | None:
    return None if value is None else min(max(value, 0.0), 1.0)


def _mean_scores(seeds: Sequence[Mapping[str, Sequence[float | None]]]) -> dict[str, list[float | None]]:
    return {
        question: [
            None if any(value is None for value in column) else fmean(column)
            for column in zip(*(seed[question] for seed in seeds), strict=True)
        ]
        for question in seeds[0]
    }
