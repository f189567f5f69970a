"""The figures of an evaluation, from its episodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from multi_attempt.evaluation.changes import rates, steps
from multi_attempt.evaluation.protocols import PROTOCOLS, SAMPLED, Episodes, Rules, Scored
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED, Interval, accuracy

Benchmarks = Mapping[str, Mapping[str, Episodes]]
"""``{benchmark: {question id: its episodes}}``, of one model."""

_Row = Sequence["Scored | None"]
"""Of one question, for each number of attempts."""

_Columns = dict[str, list["float | None"]]
"""Measures by name."""

RulesOf = Callable[[str, str], Rules]
"""The rules of a question, by benchmark and id: they differ in what makes two answers the same."""


def model_figures(benchmarks: Benchmarks, protocols: Sequence[str], attempts: int, rules_of: RulesOf) -> dict[str, Any]:
    """``results`` and ``scores`` of one model, by protocol.

    ``results`` has accuracy with its interval, and the measures, for each benchmark and both means; ``by_attempt`` are
    measures by the number of the attempt where all ``attempts`` are allowed. ``scores`` has each question's score, from
    which models are compared. Where questions failed, accuracy is a range, from ``accuracy`` with all of them wrong to
    ``accuracy_at_most`` with all of them right, and the measures are of the others.
    """
    results, scores = {}, {}
    for protocol in protocols:
        scored = {
            name: _scored(protocol, name, questions, attempts, rules_of) for name, questions in benchmarks.items()
        }
        scores[protocol] = {
            name: {
                question: [None if found is None else found.score for found in row] for question, row in rows.items()
            }
            for name, rows in scored.items()
        }
        results[protocol] = _results(protocol, scored, accuracy(scores[protocol]))
    return {"results": results, "scores": scores}


def _scored(
    protocol: str, benchmark: str, questions: Mapping[str, Episodes], most: int, rules_of: RulesOf
) -> dict[str, _Row]:
    score = PROTOCOLS[protocol].score
    rules = {question: rules_of(benchmark, question) for question in questions}
    return {
        question: [score(episodes, attempts, rules[question]) for attempts in range(1, most + 1)]
        for question, episodes in questions.items()
    }


def _results(
    protocol: str, scored: Mapping[str, Mapping[str, _Row]], intervals: Mapping[str, Interval]
) -> dict[str, Any]:
    rows = {name: list(questions.values()) for name, questions in scored.items()}
    pooled = [row for name in rows for row in rows[name]]
    measured = {name: _measures(protocol, rows[name]) for name in rows}
    every = list(measured.values())
    return {
        "benchmarks": {name: _figures(intervals[name], rows[name], measured[name]) for name in rows},
        MACRO: _figures(intervals[MACRO], pooled, {kind: _mean_of([one[kind] for one in every]) for kind in every[0]}),
        WEIGHTED: _figures(intervals[WEIGHTED], pooled, _measures(protocol, pooled)),
    }


def _figures(interval: Interval, rows: Sequence[_Row], measured: Mapping[str, _Columns]) -> dict[str, Any]:
    return {
        "questions": len(rows),
        "failed": sum(None in row for row in rows),
        "failed_by_attempts": interval.failed,
        **{"accuracy": interval.value, "accuracy_at_most": interval.most, "low": interval.low, "high": interval.high},
        **measured,
    }


def _measures(protocol: str, rows: Sequence[_Row]) -> dict[str, _Columns]:
    """``measures``, by the attempts allowed, and ``by_attempt``, by the number of the attempt."""
    allowed = [_measured(protocol, column, k) for k, column in enumerate(zip(*rows, strict=True), start=1)]
    taken = [step for row in rows if row[-1] is not None for step in steps(row[-1])]
    numbers = [rates([step for step in taken if step.number == number]) for number in range(1, len(allowed) + 1)]
    kept = {name for name in _BY_ATTEMPT if name in allowed[0]}
    return {
        "measures": {name: [column[name] for column in allowed] for name in allowed[0]},
        "by_attempt": {name: [column[name] for column in numbers] for name in numbers[0] if name in kept},
    }


def _measured(protocol: str, column: Sequence[Scored | None], attempts: int) -> dict[str, float | None]:
    """The measures of all questions with k attempts."""
    scored = [found for found in column if found is not None]
    runs = [run for found in scored for run in found.runs]
    made = [attempt for run in runs for attempt in run]
    sampled = protocol in SAMPLED
    tokens = _mean([sum(attempt.tokens for attempt in run) for run in runs])
    # k samples are k episodes of one attempt.
    used = tokens and tokens * (attempts if sampled else 1)
    solved = _mean([found.score for found in scored])
    measures = {
        "first_attempt_accuracy": _mean([run[0].correct for run in runs]),
        **rates([step for found in scored for step in steps(found)]),
        "format_rate": _mean([attempt.well_formed for attempt in made]),
        "truncation_rate": _mean([cut for found in scored for cut in found.truncated]),
        "attempts_used": float(attempts) if sampled else _mean([len(run) for run in runs]),
        "tokens_used": used,
        "tokens_per_solved": used / solved if used is not None and solved else None,
    }
    left_out = _OF_DIALOGUES if sampled else () if protocol == "blind" else (_AFTER_RIGHT,)
    return {name: value for name, value in measures.items() if name not in left_out}


_AFTER_RIGHT = "right_to_wrong"  # only where a dialogue goes on after a right attempt
_OF_DIALOGUES = ("first_attempt_accuracy", *rates([]))
_BY_ATTEMPT = tuple(name for name in rates([]) if name != "wrong_to_none")


def _mean_of(benchmarks: Sequence[_Columns]) -> _Columns:
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
