"""The protocols of evaluation: which episodes each asks for, and how it scores them.

They differ in what the model is told, so their figures are never mixed:

- ``oracle``, the paper's, and ``single-run`` tell it after each attempt whether the ground truth calls it right;
- ``blind`` tells it nothing, and its last answer counts;
- ``shuffled`` tells it what would be said of another question's attempts, beside that its own was wrong;
- ``independent`` and ``majority`` ask afresh each time, for as many tokens in all as one dialogue may have.
"""

from __future__ import annotations

import itertools
import math
import operator
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from multi_attempt.tasks import Attempt

SAMPLED = ("independent", "majority")
"""The protocols that draw fresh samples, and need a temperature above 0."""

_MOST_SUBSETS = 2000


class Kind(NamedTuple):
    """A kind of episode that a protocol asks for.

    Attributes:
        protocol: whose rules it is played by: ``oracle``, ``blind``, ``shuffled`` or ``independent``.
        budget: the attempts allowed, N.
        sample: the number of the sample, from 0.
    """

    protocol: str
    budget: int
    sample: int


@dataclass(frozen=True)
class Outcome:
    """What one attempt came to.

    Attributes:
        answer: the extracted answer, or None.
        correct: whether it is right.
        well_formed: whether it has the format that the prompt asks for.
        repeated: whether its answer is that of an earlier wrong attempt.
        truncated: whether a length limit cut it.
        tokens: how many tokens the model generated, those of its reflection on it among them.
        score: of its verdict, as are ``note``, ``method`` and ``reason``: what feedback may be worded from.
        note: None in episodes of earlier versions, which did not keep these.
        method: how it was decided.
        reason: why it could not be decided.
    """

    answer: str | None
    correct: bool
    well_formed: bool
    repeated: bool
    truncated: bool
    tokens: int
    score: float = 0.0
    note: str | None = None
    method: str = ""
    reason: str = ""

    @classmethod
    def of(cls, attempt: Attempt) -> Outcome:
        """What an attempt of an episode came to."""
        shared = {name: getattr(attempt, name) for name in _OF_ATTEMPT}
        return cls(**shared, tokens=attempt.span[1] - attempt.span[0])

    def attempt(self) -> Attempt:
        """The attempt, without the place of its tokens."""
        shared = {name: getattr(self, name) for name in _OF_ATTEMPT}
        return Attempt(span=(0, 0), **{**shared, "note": self.note or ""})


_OF_ATTEMPT = tuple("answer correct well_formed repeated truncated score note method reason".split())


@dataclass(frozen=True)
class Told:
    """What a dialogue of the protocol ``shuffled`` was told.

    Attributes:
        donor: the question whose attempts it was told of; None if there was none, and it was told of its own.
        attempts: wrong attempts that the donor had to give.
        messages: of feedback that it got.
        others: how many of these read otherwise than what its own attempts make.
    """

    donor: str | None
    attempts: int
    messages: int
    others: int


@dataclass(frozen=True)
class Played:
    """An episode that was played to its end.

    Attributes:
        attempts: in order.
        truncated: whether a length limit ended it.
        room: tokens that its attempts and the feedback between them could have.
        told: what it was told, under ``shuffled``.
    """

    attempts: tuple[Outcome, ...]
    truncated: bool
    room: int
    told: Told | None = None


Episodes = Mapping[Kind, Played]
"""The episodes of one question; one that failed is not among them."""

Same = Callable[[str, str], bool]
"""Whether two answers are the same."""


class Scored(NamedTuple):
    """One question under one protocol with k attempts: the score, and the attempts that it rests on.

    Attributes:
        score: from 0 to 1.
        runs: the attempts of each of its episodes, as far as they count for k.
        truncated: for each episode, whether a length limit ended it.
        repeats: whether an answer repeats an earlier one.
    """

    score: float
    runs: list[Sequence[Outcome]]
    truncated: list[bool]
    repeats: Same


@dataclass(frozen=True)
class Rules:
    """What protocols depend on beside the episodes.

    Attributes:
        attempts: the greatest number of attempts, K.
        samples: episodes of a kind for each question (dialogues), and fresh samples, of which there are at least K.
        same: whether two answers are the same, for the vote; of one question, as its task sees it.
        repeats: whether an answer repeats an earlier one, likewise.
    """

    attempts: int
    samples: int
    same: Same = operator.eq
    repeats: Same = operator.eq

    @property
    def fresh_samples(self) -> int:
        """How many fresh samples there are of a question."""
        return max(self.attempts, self.samples)


class Protocol(NamedTuple):
    """A protocol.

    Attributes:
        information: what the model is told, in a sentence.
        kinds: the episodes that it needs.
        score: the score of a question's episodes with k attempts; None if an episode that it needs failed.
    """

    information: str
    kinds: Callable[[Rules], Iterator[Kind]]
    score: Callable[[Episodes, int, Rules], Scored | None]


def _dialogues(protocol: str, budget: int, rules: Rules) -> Iterator[Kind]:
    return (Kind(protocol, budget, sample) for sample in range(rules.samples))


def _for_each_budget(protocol: str, fewest: int = 1) -> Callable[[Rules], Iterator[Kind]]:
    def kinds(rules: Rules) -> Iterator[Kind]:
        return itertools.chain.from_iterable(
            _dialogues(protocol, budget, rules) for budget in range(fewest, rules.attempts + 1)
        )

    return kinds


def _with_donors(rules: Rules) -> Iterator[Kind]:
    return itertools.chain(_for_each_budget("oracle")(rules), _for_each_budget("shuffled", fewest=2)(rules))


def _fresh(rules: Rules) -> Iterator[Kind]:
    return (Kind("independent", 1, sample) for sample in range(rules.fresh_samples))


def _found(episodes: Episodes, kinds: Iterator[Kind]) -> list[Played] | None:
    wanted = list(kinds)
    return [episodes[kind] for kind in wanted] if all(kind in episodes for kind in wanted) else None


def _oracle(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    return _dialogue(episodes, _dialogues("oracle", attempts, rules), attempts, rules, _any_right)


def _single_run(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    return _dialogue(episodes, _dialogues("oracle", rules.attempts, rules), attempts, rules, _any_right)


def _blind(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    return _dialogue(episodes, _dialogues("blind", attempts, rules), attempts, rules, lambda run: run[-1].correct)


def _shuffled(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    protocol = "shuffled" if attempts > 1 else "oracle"  # with one attempt nothing is told
    return _dialogue(episodes, _dialogues(protocol, attempts, rules), attempts, rules, _any_right)


def _any_right(run: Sequence[Outcome]) -> bool:
    return any(attempt.correct for attempt in run)


def _dialogue(
    episodes: Episodes,
    kinds: Iterator[Kind],
    attempts: int,
    rules: Rules,
    solved: Callable[[Sequence[Outcome]], bool],
) -> Scored | None:
    """Dialogues, of which the first ``attempts`` attempts count; None if one failed."""
    played = _found(episodes, kinds)
    if played is None:
        return None
    runs: list[Sequence[Outcome]] = [episode.attempts[:attempts] for episode in played]
    cut = [episode.truncated and len(run) == len(episode.attempts) for episode, run in zip(played, runs, strict=True)]
    return Scored(fmean(map(solved, runs)), runs, cut, rules.repeats)


def _independent(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    """pass@k without bias: the share of the sets of k samples that hold a right one (Chen et al. 2021, equation 1)."""
    samples = _within_budget(episodes, attempts, rules)
    if samples is None:
        return None
    wrong = sum(not sample.correct for sample in samples)
    passed = 1 - math.comb(wrong, attempts) / math.comb(len(samples), attempts)
    return _sampled(passed, samples, rules)


def _majority(episodes: Episodes, attempts: int, rules: Rules) -> Scored | None:
    """maj@k: the mean over sets of k samples of whether the answer given most often is right.

    Of answers given equally often each is as likely to be taken. Samples without an answer do not vote.
    """
    samples = _within_budget(episodes, attempts, rules)
    if samples is None:
        return None
    classes = _classes(samples, rules.same)
    voted = fmean(
        _vote([(classes[i], samples[i].correct) for i in chosen]) for chosen in _subsets(len(samples), attempts)
    )
    return _sampled(voted, samples, rules)


def _within_budget(episodes: Episodes, attempts: int, rules: Rules) -> list[Outcome] | None:
    """The fresh samples, each as if cut after 1/k of the tokens that one dialogue may have; None if one failed.

    A sample that is longer has no answer then, so that k of them never take more than a dialogue of k attempts may,
    which is what the question's own prompt leaves of the context, or the length that was asked for.
    """
    played = _found(episodes, _fresh(rules))
    return None if played is None else [_cut(episode.attempts[0], episode.room // attempts) for episode in played]


def _cut(sample: Outcome, limit: int) -> Outcome:
    if sample.tokens <= limit:
        return sample
    return Outcome(answer=None, correct=False, well_formed=False, repeated=False, truncated=True, tokens=limit)


def _sampled(score: float, samples: list[Outcome], rules: Rules) -> Scored:
    return Scored(score, [[sample] for sample in samples], [sample.truncated for sample in samples], rules.repeats)


def _classes(samples: Sequence[Outcome], same: Same) -> list[int | None]:
    """For each sample which of the answers it gives; None without an answer."""
    firsts: list[str] = []
    classes: list[int | None] = []
    for sample in samples:
        if sample.answer is None:
            classes.append(None)
            continue
        answer = sample.answer
        number = next((number for number, first in enumerate(firsts) if same(answer, first)), len(firsts))
        if number == len(firsts):
            firsts.append(answer)
        classes.append(number)
    return classes


def _vote(ballots: Sequence[tuple[int | None, bool]]) -> float:
    """How likely the vote comes to a right answer."""
    votes: dict[int, list[bool]] = {}
    for number, correct in ballots:
        if number is not None:
            votes.setdefault(number, []).append(correct)
    most = max(map(len, votes.values()), default=0)
    return fmean(given[0] for given in votes.values() if len(given) == most) if votes else 0.0


def _subsets(count: int, size: int) -> Iterator[tuple[int, ...]]:
    """The sets of ``size`` samples: all of them, or where they are too many a fixed random choice."""
    if math.comb(count, size) <= _MOST_SUBSETS:
        return itertools.combinations(range(count), size)
    generator = random.Random(f"subsets {count} {size}")
    return (tuple(generator.sample(range(count), size)) for _ in range(_MOST_SUBSETS))


PROTOCOLS: dict[str, Protocol] = {
    "oracle": Protocol(
        "A run for each k, whose prompt says k; after each attempt the ground truth tells the model whether it was "
        "right, and a right one ends the dialogue (the paper's protocol).",
        _for_each_budget("oracle"),
        _oracle,
    ),
    "single-run": Protocol(
        "One run, whose prompt says the greatest number of attempts, with the ground truth as in oracle; the figure at "
        "k is what its first k attempts solved.",
        lambda rules: _dialogues("oracle", rules.attempts, rules),
        _single_run,
    ),
    "blind": Protocol(
        "A run for each k, whose prompt says k; the model is told nothing of whether its attempts are right, makes all "
        "of them, and its last answer counts (no ground truth).",
        _for_each_budget("blind"),
        _blind,
    ),
    "shuffled": Protocol(
        "As oracle, but what the model is told of its attempts is what would be said of another question's, whose "
        "dialogue under oracle is played before; attempts left and a repeated question are its own. What oracle solves "
        "beyond this is what the content of feedback is worth.",
        _with_donors,
        _shuffled,
    ),
    "independent": Protocol(
        "k fresh samples that know nothing of each other, of which one must be right (pass@k, unbiased); each may "
        "have 1/k of a dialogue's tokens. The ground truth picks the right one.",
        _fresh,
        _independent,
    ),
    "majority": Protocol(
        "k fresh samples as in independent; the answer given most often counts (maj@k, no ground truth).",
        _fresh,
        _majority,
    ),
}
"""The protocols by name."""
