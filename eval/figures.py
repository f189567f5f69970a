"""The figures of an evaluation, from its episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import fmean
from typing import Any

from multi_attempt.evaluation.protocols import PROTOCOLS, SAMPLED, Episodes, Rules, Same, Scored
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED, Interval, accuracy

Benchmarks = Mapping[str, Mapping[str, Episodes]]
"""``{benchmark: {question id: its episodes}}``, of one model."""


SameOf = Callable[[str, str], Same]
"""What makes two answers the same, by benchmark and question id."""


def model_figures(benchmarks: Benchmarks, protocols: Sequence[str], rules: Rules, same_of: SameOf) -> dict[str, Any]:
    """``results`` and ``scores`` of one model, by protocol.

    ``results`` has accuracy with its interval, and the measures, for each benchmark and both means; ``scores`` has each
    question's score, from which models are compared. Where questions failed, accuracy is a range, from ``accuracy``
    with all of them wrong to ``accuracy_at_most`` with all of them right, and the measures are of the others.
    """
    results, scores = {}, {}
    for protocol in protocols:
        scored = {name: _scored(protocol, name, questions, rules, same_of) for name, questions in benchmarks.items()}
        scores[protocol] = {
            name: {
                question: [None if found is None else found.score for found in row] for question, row in rows.items()
            }
            for name, rows in scored.items()
        }
        results[protocol] = _results(protocol, scored, accuracy(scores[protocol]), rules)
    return {"results": results, "scores": scores}


def _scored(
    protocol: str, benchmark: str, questions: Mapping[str, Episodes], rules: Rules, same_of: SameOf
) -> dict[str, list[Scored | None]]:
    score = PROTOCOLS[protocol].score
    its_rules = {question: replace(rules, same=same_of(benchmark, question)) for question in questions}
    return {
        question: [score(episodes, attempts, its_rules[question]) for attempts in range(1, rules.attempts + 1)]
        for question, episodes in questions.items()
    }


def _results(
    protocol: str,
    scored: Mapping[str, Mapping[str, list[Scored | None]]],
    intervals: Mapping[str, Interval],
    rules: Rules,
) -> dict[str, Any]:
    rows = {name: list(questions.values()) for name, questions in scored.items()}
    pooled = [row for name in rows for row in rows[name]]
    measures = {name: _measures(protocol, rows[name], rules) for name in rows}
    benchmarks = {name: _figures(intervals[name], rows[name], measures[name]) for name in rows}
    return {
        "benchmarks": benchmarks,
        MACRO: _figures(intervals[MACRO], pooled, _mean_of(list(measures.values()))),
        WEIGHTED: _figures(intervals[WEIGHTED], pooled, _measures(protocol, pooled, rules)),
    }


def _figures(interval: Interval, rows: Sequence[list[Scored | None]], measures: dict[str, Any]) -> dict[str, Any]:
    return {
        "questions": len(rows),
        "failed": sum(None in row for row in rows),
        "failed_by_attempts": interval.failed,
        **{"accuracy": interval.value, "accuracy_at_most": interval.most, "low": interval.low, "high": interval.high},
        "measures": measures,
    }


def _measures(protocol: str, rows: Sequence[list[Scored | None]], rules: Rules) -> dict[str, list[float | None]]:
    columns = [
        _measured(protocol, [row[attempts - 1] for row in rows], attempts) for attempts in range(1, rules.attempts + 1)
    ]
    return {name: [column[name] for column in columns] for name in columns[0]}


def _measured(protocol: str, column: Sequence[Scored | None], attempts: int) -> dict[str, float | None]:
    """The measures of all questions with k attempts."""
    scored = [found for found in column if found is not None]
    runs = [run for found in scored for run in found.runs]
    made = [attempt for run in runs for attempt in run]
    pairs = [pair for run in runs for pair in pairwise(run)]
    sampled = protocol in SAMPLED
    tokens = _mean([sum(attempt.tokens for attempt in run) for run in runs])
    # k samples are k episodes of one attempt.
    used = tokens and tokens * (attempts if sampled else 1)
    solved = _mean([found.score for found in scored])
    measures = {
        "first_attempt_accuracy": _mean([run[0].correct for run in runs]),
        "right_after_wrong": _mean([after.correct for before, after in pairs if not before.correct]),
        "other_after_wrong": _mean(
            [not after.correct and not after.repeated for before, after in pairs if not before.correct]
        ),
        "wrong_after_right": _mean([not after.correct for before, after in pairs if before.correct]),
        "repeat_rate": _mean([attempt.repeated for run in runs for attempt in run[1:]]),
        "format_rate": _mean([attempt.well_formed for attempt in made]),
        "truncation_rate": _mean([cut for found in scored for cut in found.truncated]),
        "attempts_used": float(attempts) if sampled else _mean([len(run) for run in runs]),
        "tokens_used": used,
        "tokens_per_solved": used / solved if used is not None and solved else None,
    }
    apply = _MEASURES_OF.get(protocol, _MEASURES_OF_DIALOGUES)
    return {name: value for name, value in measures.items() if name in apply}


_OF_SAMPLES = ("format_rate", "truncation_rate", "attempts_used", "tokens_used", "tokens_per_solved")
_MEASURES_OF_DIALOGUES = (
    "first_attempt_accuracy",
    "right_after_wrong",
    "other_after_wrong",
    "repeat_rate",
    *_OF_SAMPLES,
)
_MEASURES_OF = {
    "blind": ("wrong_after_right", *_MEASURES_OF_DIALOGUES),
    **dict.fromkeys(SAMPLED, _OF_SAMPLES),
}


def _mean_of(benchmarks: Sequence[Mapping[str, list[float | None]]]) -> dict[str, list[float | None]]:
    """Each measure's mean over the benchmarks that have it."""
    return {
        name: [
            _mean([value for value in column if value is not None])
            for column in zip(*(measures[name] for measures in benchmarks), strict=True)
        ]
        for name in benchmarks[0]
    }


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
