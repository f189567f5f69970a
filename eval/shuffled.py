"""The dialogues of the protocol ``shuffled``: what they are told is of another question's dialogue under ``oracle``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from multi_attempt.episode import Episode
from multi_attempt.evaluation.protocols import Kind, Outcome, Played, Told
from multi_attempt.tasks import Message, Task

Group = tuple[str, str]
"""The questions that may give to each other: a benchmark's of one task, by the names of these."""


class Donor(NamedTuple):
    """A question whose dialogue feedback is worded from: its id, and its wrong attempts that feedback can follow."""

    question: str
    attempts: tuple[Outcome, ...]


class Donors:
    """The donors of all questions, worked out when all dialogues under ``oracle`` are played.

    The questions of one benchmark and task stand in a circle, in an order by the seed. A question's donor is the next
    one whose dialogue of the same budget and sample has a wrong attempt for each message that there can be, or where
    none has, the next with the most of them. So no question is its own donor, and those that have enough wrong
    attempts are permuted among themselves; the others, which have too few to give, get theirs from these too.

    Args:
        groups: the ids of the questions of each group.
        played: the dialogue of a question of a group; None if it was not played.
        seed: of the evaluation.
    """

    def __init__(
        self,
        groups: Mapping[Group, Sequence[str]],
        played: Callable[[Group, str, Kind], Played | None],
        seed: int,
    ) -> None:
        self._groups, self._played, self._seed = groups, played, seed
        self._found: dict[tuple[Group, Kind], dict[str, Donor | None]] = {}

    def of(self, group: Group, question: str, kind: Kind) -> Donor | None:
        """The donor of a question in a dialogue of this kind; None if no other has a wrong attempt."""
        place = (group, kind._replace(protocol="oracle"))
        if place not in self._found:
            self._found[place] = self._assigned(*place)
        return self._found[place][question]

    def _assigned(self, group: Group, kind: Kind) -> dict[str, Donor | None]:
        circle = [self._donor(group, id, kind) for id in self._in_order(group, kind)]
        return {donor.question: _next(circle, place, kind.budget - 1) for place, donor in enumerate(circle)}

    def _in_order(self, group: Group, kind: Kind) -> list[str]:
        def key(id: str) -> bytes:
            text = f"donor {self._seed} {' '.join(group)} {' '.join(map(str, kind))} {id}"
            return hashlib.sha256(text.encode("utf-8", "replace")).digest()

        return sorted(self._groups[group], key=key)

    def _donor(self, group: Group, id: str, kind: Kind) -> Donor:
        played = self._played(group, id, kind)
        made = played.attempts if played else ()
        wrong = tuple(attempt for attempt in made if not attempt.correct and not attempt.truncated)
        return Donor(id, wrong[: kind.budget - 1])


class ShuffledEpisode(Episode):
    """The dialogue about one row, in which feedback is worded from another one's attempts.

    Attributes:
        told: what it has been told so far.

    Args:
        task: as of an episode, as are ``row`` and ``attempts``.
        row: see there.
        attempts: see there.
        donor: whose wrong attempts feedback is worded from, as many of them as this dialogue has attempts, if it has so
            many; None for its own.
        reflects: as of an episode.
    """

    def __init__(
        self, task: Task[Any], row: Any, attempts: int, donor: Donor | None, *, reflects: bool = False
    ) -> None:
        super().__init__(task, row, attempts, reflects=reflects)
        self._given = [outcome.attempt() for outcome in donor.attempts] if donor else []
        self.told = Told(donor and donor.question, len(self._given), messages=0, others=0)

    def _feedback(self) -> Message:
        own = super()._feedback()
        made = len(self.transcript.attempts)
        given = self.task.feedback(self.row, self._given[:made], self.attempts_left) if self._given else own
        self.told = replace(self.told, messages=self.told.messages + 1, others=self.told.others + (given != own))
        return given


def summary(dialogues: Iterable[Played]) -> dict[str, int]:
    """What some dialogues were told, in numbers.

    Returns:
        ``dialogues`` and ``messages`` of feedback that they got; ``others``: how many of these read otherwise than what
        the dialogue's own attempts make; ``short``: dialogues that got more messages than their donor had wrong
        attempts, of which the last told of all of them again; ``own``: dialogues without a donor, which were told of
        their own attempts.
    """
    told = [played.told for played in dialogues if played.told is not None]
    return {
        "dialogues": len(told),
        "messages": sum(each.messages for each in told),
        "others": sum(each.others for each in told),
        "short": sum(each.donor is not None and each.messages > each.attempts for each in told),
        "own": sum(each.donor is None and each.messages > 0 for each in told),
    }


def _next(circle: Sequence[Donor], place: int, needed: int) -> Donor | None:
    """The next donor with so many attempts, or else the next with the most of them."""
    count = len(circle)
    others = (circle[(place + steps) % count] for steps in range(1, count))
    best: Donor | None = None
    for donor in others:
        if donor.attempts and (best is None or len(donor.attempts) > len(best.attempts)):
            best = donor
            if len(best.attempts) >= needed:
                break
    return best
