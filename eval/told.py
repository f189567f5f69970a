"""What being told is worth: accuracy under ``oracle`` beside protocols that tell less, over the same questions.

More attempts help a model that makes nothing of what it is told, too. Two comparisons take that away:

- *with as many attempts*: oracle with k attempts beside another protocol with k, each as the protocol scores it;
- *for as many tokens*: oracle spends few tokens where it is right early, as it is told so. So here the ground truth
  ends what it is compared with, the dialogues of ``blind`` or fresh samples one after another, at the first right
  attempt, which counts; the model is not told. It gets m attempts or m + 1 by lot, of which m and the odds are those
  with which it generates as many tokens for a benchmark's question, in the mean, as oracle does with k attempts. Where
  all the attempts that were made are fewer tokens than oracle's, there is nothing to compare.

A difference is paired over questions, and its interval takes the odds for given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from math import comb
from statistics import fmean
from typing import Any, NamedTuple

from multi_attempt.evaluation.protocols import Episodes, Kind, Outcome, Rules
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED, Interval, Scores, accuracy, difference

TOLD = "oracle"
"""The protocol that the others are compared with."""

EQUAL_ATTEMPTS, EQUAL_TOKENS = "with as many attempts", "for as many tokens"

_ROUNDING = 1e-9  # means of the same tokens in another order may differ by so little

Benchmarks = Mapping[str, Mapping[str, Episodes]]


def told_figures(figures: Mapping[str, Any], benchmarks: Benchmarks, rules: Rules) -> dict[str, Any]:
    """What a model solves under oracle beyond others, by what is equal and the other protocol.

    Args:
        figures: ``results`` and ``scores`` by protocol; those of oracle, or there is nothing to compare.
        benchmarks: the episodes of each question.
        rules: how many attempts and samples there are.

    Returns:
        For each group of questions, by the attempts that oracle has: ``difference`` with its interval, a range where
        questions failed; and of the other protocol ``accuracy``, and the ``attempts`` and ``tokens`` that it took for a
        question.
    """
    if TOLD not in figures["scores"]:
        return {}
    others = [name for name in figures["scores"] if name != TOLD]
    return {
        EQUAL_ATTEMPTS: {name: _equal_attempts(figures, name) for name in others if name in ("blind", "shuffled")},
        EQUAL_TOKENS: {
            name: _equal_tokens(figures["scores"][TOLD], benchmarks, rules, _SPENT[name])
            for name in others
            if name in _SPENT
        },
    }


# ---- With as many attempts ----


def _equal_attempts(figures: Mapping[str, Any], other: str) -> dict[str, Any]:
    results, scores = figures["results"][other], figures["scores"]
    found = difference(scores[TOLD], scores[other])
    groups = {**results["benchmarks"], MACRO: results[MACRO], WEIGHTED: results[WEIGHTED]}
    return _grouped(
        {
            name: _entry(
                found[name], group["accuracy"], group["measures"]["attempts_used"], group["measures"]["tokens_used"]
            )
            for name, group in groups.items()
        }
    )


def _entry(found: Interval, solved: Sequence[Any], attempts: Sequence[Any], tokens: Sequence[Any]) -> dict[str, Any]:
    return {
        **{"difference": found.value, "difference_at_most": found.most, "low": found.low, "high": found.high},
        "failed_by_attempts": found.failed,
        **{"accuracy": list(solved), "attempts": list(attempts), "tokens": list(tokens)},
    }


def _grouped(entries: dict[str, Any]) -> dict[str, Any]:
    means = {name: entries.pop(name) for name in (MACRO, WEIGHTED)}
    return {"benchmarks": entries, **means}


# ---- For as many tokens ----


class _Spent(NamedTuple):
    """What attempts at a question come to that end with the first right one: how likely one is right, and tokens."""

    score: float
    tokens: float


_Spending = Callable[[Episodes, int, Rules], "_Spent | None"]


class _Matched(NamedTuple):
    """One benchmark with attempts that take as many tokens as oracle's.

    Attributes:
        scores: of each question; None for one that failed.
        attempts: that a question may have, in the mean; None where all there are take fewer tokens than oracle's.
        tokens: that oracle takes for a question.
    """

    scores: dict[str, float | None]
    attempts: float | None
    tokens: float | None


def _dialogues(protocol: str) -> _Spending:
    def spent(episodes: Episodes, attempts: int, rules: Rules) -> _Spent | None:
        kinds = [Kind(protocol, attempts, sample) for sample in range(rules.samples)]
        if any(kind not in episodes for kind in kinds):
            return None
        runs = [_until_right(episodes[kind].attempts) for kind in kinds]
        tokens = fmean(sum(attempt.tokens for attempt in run) for run in runs)
        return _Spent(fmean(run[-1].correct for run in runs), tokens)

    return spent


def _until_right(attempts: Sequence[Outcome]) -> Sequence[Outcome]:
    right = next((number for number, attempt in enumerate(attempts, start=1) if attempt.correct), len(attempts))
    return attempts[:right]


def _fresh(episodes: Episodes, attempts: int, rules: Rules) -> _Spent | None:
    """The mean over all orders in which samples can be drawn."""
    kinds = [Kind("independent", 1, sample) for sample in range(rules.fresh_samples)]
    if any(kind not in episodes for kind in kinds):
        return None
    samples = [episodes[kind].attempts[0] for kind in kinds]
    count, wrong = len(samples), sum(not sample.correct for sample in samples)

    def drawn(others_wrong: int) -> float:
        """How likely a sample is among those drawn, of whose others so many are wrong: all before it have to be."""
        return sum(comb(others_wrong, before) / comb(count - 1, before) for before in range(attempts)) / count

    likely = {True: drawn(wrong), False: drawn(wrong - 1) if wrong else 0.0}
    tokens = sum(sample.tokens * likely[sample.correct] for sample in samples)
    return _Spent(1 - comb(wrong, attempts) / comb(count, attempts), tokens)


_SPENT: dict[str, _Spending] = {"blind": _dialogues("blind"), "independent": _fresh}


def _equal_tokens(told: Scores, benchmarks: Benchmarks, rules: Rules, spending: _Spending) -> dict[str, Any]:
    most = rules.fresh_samples if spending is _fresh else rules.attempts
    matched = {name: _matched_by_attempts(questions, rules, spending, most) for name, questions in benchmarks.items()}
    scores = {
        name: {question: [column.scores[question] for column in columns] for question in benchmarks[name]}
        for name, columns in matched.items()
    }
    differences, solved = difference(told, scores), accuracy(scores)
    entries = {
        name: _entry(differences[name], solved[name].value, *_means([columns], [1]))
        for name, columns in matched.items()
    }
    every, counts = list(matched.values()), [len(questions) for questions in benchmarks.values()]
    for name, weights in ((MACRO, [1] * len(counts)), (WEIGHTED, counts)):
        entries[name] = _entry(differences[name], solved[name].value, *_means(every, weights))
    return _grouped({name: _without_unmatched(entry) for name, entry in entries.items()})


def _means(benchmarks: Sequence[Sequence[_Matched]], weights: Sequence[int]) -> tuple[list[Any], list[Any]]:
    """Attempts and tokens, each by the attempts of oracle; None where a benchmark has none."""

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        if len(known) < len(values):
            return None
        return sum(weight * value for weight, value in zip(weights, known, strict=True)) / sum(weights)

    columns = list(zip(*benchmarks, strict=True))
    return [mean([each.attempts for each in one]) for one in columns], [
        mean([each.tokens for each in one]) for one in columns
    ]


def _without_unmatched(entry: dict[str, Any]) -> dict[str, Any]:
    """Without the figures of attempts that nothing is as many tokens as."""
    matched = [attempts is not None for attempts in entry["attempts"]]
    none = {"failed_by_attempts": 0}
    return {
        name: values
        if name == "tokens"
        else [value if known else none.get(name) for value, known in zip(values, matched, strict=True)]
        for name, values in entry.items()
    }


def _matched_by_attempts(
    questions: Mapping[str, Episodes], rules: Rules, spending: _Spending, most: int
) -> list[_Matched]:
    """For each number of attempts of oracle."""
    curve = [_of_all(questions, rules, spending, attempts) for attempts in range(1, most + 1)]
    return [
        _matched(questions, _of_all(questions, rules, _dialogues(TOLD), attempts), curve)
        for attempts in range(1, rules.attempts + 1)
    ]


def _of_all(
    questions: Mapping[str, Episodes], rules: Rules, spending: _Spending, attempts: int
) -> dict[str, _Spent | None]:
    return {name: spending(episodes, attempts, rules) for name, episodes in questions.items()}


def _matched(
    questions: Mapping[str, Episodes],
    told: Mapping[str, _Spent | None],
    curve: Sequence[Mapping[str, _Spent | None]],
) -> _Matched:
    known = {name: spent for name, spent in told.items() if spent and all(column[name] for column in curve)}
    nothing: dict[str, float | None] = dict.fromkeys(questions)
    if not known:
        return _Matched(nothing, None, None)
    none = dict.fromkeys(known, _Spent(0.0, 0.0))
    spent = [none, *({name: found for name, found in column.items() if found and name in known} for column in curve)]
    target = fmean(found.tokens for found in known.values())
    means = [fmean(found.tokens for found in column.values()) for column in spent]
    for attempts, (fewer, more) in enumerate(pairwise(means)):
        if more >= target * (1 - _ROUNDING):
            odds = min((target - fewer) / (more - fewer), 1.0) if more > fewer else 1.0
            one, other = spent[attempts], spent[attempts + 1]
            mixed = {name: (1 - odds) * one[name].score + odds * other[name].score for name in known}
            return _Matched({**nothing, **mixed}, attempts + odds, target)
    return _Matched(nothing, None, target)
