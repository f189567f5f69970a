"""What is read off an evaluation's models, and how it is written into a Markdown table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import isnan, nan
from statistics import fmean
from typing import Any

from multi_attempt.evaluation.seeds import Estimate
from multi_attempt.evaluation.statistics import MACRO, accuracy

Model = Mapping[str, Any]
"""A model of an ``eval.json``."""

ORACLE, BLIND = "oracle", "blind"
"""The protocols under which a model is told whether an attempt is right, and is not."""


def at(model: Model, benchmarks: Sequence[str], attempts: int, protocol: str = ORACLE) -> float:
    """A model's accuracy with so many attempts, on the mean of benchmarks."""
    return fmean(model["results"][protocol]["benchmarks"][name]["accuracy"][attempts - 1] for name in benchmarks)


def retries(model: Model, benchmarks: Sequence[str], measure: str, protocol: str = ORACLE) -> float:
    """A measure of second attempts, on the mean of the benchmarks in which there are any; NaN if there are none."""
    found = (model["results"][protocol]["benchmarks"][name]["measures"][measure][1] for name in benchmarks)
    values = [value for value in found if value is not None]
    return fmean(values) if values else nan


def after_wrong(model: Model, benchmarks: Sequence[str], protocol: str = ORACLE) -> tuple[float, float, float]:
    """Of second attempts after a wrong one, the shares that are right, the same again, and wrong in another way."""
    right, same = (retries(model, benchmarks, measure, protocol) for measure in ("wrong_to_right", "wrong_to_same"))
    return right, same, max(1 - right - same, 0.0)


def gain(model: Model, benchmarks: Sequence[str], protocol: str = ORACLE) -> float:
    """What a model's accuracy gains by a second attempt, on the mean of benchmarks."""
    return at(model, benchmarks, 2, protocol) - at(model, benchmarks, 1, protocol)


def gain_over_questions(
    models: Sequence[Model], others: Sequence[Model], benchmarks: Sequence[str], others_protocol: str = ORACLE
) -> Estimate:
    """How much more the models gain by a second attempt than others, with an interval over questions.

    Without others, it is the models' own gain.
    """

    def gained(model: Model, protocol: str, benchmark: str, question: str) -> float:
        row = model["scores"][protocol][benchmark][question]
        return float(row[1] - row[0])

    most = 2.0 if others else 1.0  # what two of them, of which each gains at most a whole answer, can differ by
    return _over_questions(models, others, benchmarks, gained, others_protocol, most)


def first_over_questions(models: Sequence[Model], others: Sequence[Model], benchmarks: Sequence[str]) -> Estimate:
    """How much more accurate the models are with one attempt than others, with an interval over questions."""

    def first(model: Model, protocol: str, benchmark: str, question: str) -> float:
        return float(model["scores"][protocol][benchmark][question][0])

    return _over_questions(models, others, benchmarks, first, ORACLE, 1.0)


def _over_questions(
    models: Sequence[Model],
    others: Sequence[Model],
    benchmarks: Sequence[str],
    value: Callable[[Model, str, str, str], float],
    others_protocol: str,
    most: float,
) -> Estimate:
    """The mean difference, in which each model counts the same.

    The interval is of the questions' differences, as all models have the same questions.
    """

    def mean(some: Sequence[Model], *of: str) -> float:
        return fmean(value(model, *of) for model in some) if some else 0.0

    more = {
        name: {
            question: [mean(models, ORACLE, name, question) - mean(others, others_protocol, name, question)]
            for question in models[0]["scores"][ORACLE][name]
        }
        for name in benchmarks
    }
    found = accuracy(more, bounds=(-most, most))[MACRO]
    assert found.value[0] is not None  # the evaluation fails where an episode does
    return Estimate(found.value[0], found.low[0], found.high[0])


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table whose first column is of words, and the others of figures."""
    aligned = "|".join(["---", *["--:"] * (len(header) - 1)])
    return "\n".join([f"| {' | '.join(header)} |", f"|{aligned}|", *(f"| {' | '.join(row)} |" for row in rows)])


def percent(share: float) -> str:
    """A share, or a dash where nothing was measured."""
    return "-" if isnan(share) else f"{100 * share:.1f}%"


def shares(found: Estimate) -> str:
    """A share with its interval."""
    return _with_interval(found, lambda value: f"{100 * min(max(value, 0.0), 1.0):.1f}%")


def points(found: Estimate) -> str:
    """A difference of shares in points, with its interval."""
    return _with_interval(found, lambda value: f"{100 * value:+.1f}")


def _with_interval(found: Estimate, show: Callable[[float], str]) -> str:
    if isnan(found.value):
        return "-"
    if found.low is None or found.high is None:
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"
