"""Mathematics, the default: answers stand where the prompt set says; the grader compares them with the gold answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from multi_attempt import grading
from multi_attempt.answers import boxed
from multi_attempt.grading import Grader, Policies, normalize, read_tolerance, refusal
from multi_attempt.prompts import Message
from multi_attempt.tasks.task import Task, Words
from multi_attempt.tasks.verdict import Verdict


# OmegaConf reads the annotations of settings on Python 3.10 too, where it does not know "int | None".
@dataclass
class GraderSettings:
    """See :class:`multi_attempt.grading.Grader`; in a config ``multi_attempt.grader``."""

    deadline: float = 2.0
    workers: int = 1
    memory_mb: int = 2048
    policies: Policies = field(default_factory=Policies)

    def make(self) -> Grader:
        """A grader with these settings."""
        return Grader(self.deadline, self.workers, self.memory_mb, self.policies)


@dataclass(frozen=True)
class Problem:
    """A row.

    Attributes:
        question: the question's text.
        ground_truth: the gold answer, bare.
        tolerance: how far a number may be from it (``0.1``, or ``1%``); empty for not at all.
    """

    question: str
    ground_truth: str
    tolerance: str | float = ""


class Math(Task[Problem]):
    """Questions with an answer that is equal to the gold answer, however it is written."""

    Row = Problem
    Settings = GraderSettings
    settings: GraderSettings
    cannot_tell: ClassVar[Mapping[str, str]] = {
        "score": "its answers are right or wrong",
        "note": "its verdicts have none",
    }
    name = "math"

    def __init__(self, settings: GraderSettings | None = None, words: Words | None = None) -> None:
        super().__init__(settings, words)
        self._grader: Grader | None = None

    @property
    def grader(self) -> Grader:
        """The grader, made when it is first asked for."""
        if self._grader is None:
            self._grader = self.settings.make()
        return self._grader

    def opening(self, row: Problem, attempts: int) -> list[Message]:
        """See :class:`Task`."""
        return self.words.prompts.opening(row.question, attempts)

    async def verdict(self, row: Problem, response: str) -> Verdict:
        """See :class:`Task`."""
        answer = self.words.prompts.extract(response)
        grade = await self.grader.grade_async(answer, row.ground_truth, _tolerance(row))
        return self.judged(response, answer, grade)

    def judged(self, response: str, answer: str | None, grade: grading.Verdict) -> Verdict:
        """The verdict on a response whose answer has this grade."""
        return Verdict(
            grade.correct,
            answer,
            self.words.prompts.is_well_formed(response),
            method=grade.method,
            reason=grade.reason,
        )

    def gold_response(self, row: Problem) -> str:
        """See :class:`Task`."""
        return self.words.prompts.response(row.ground_truth)

    def gold(self, row: Problem) -> str:
        """See :class:`Task`."""
        return row.ground_truth

    @property
    def wording(self) -> str:
        """See :class:`Task`."""
        return f"prompt set {self.words.prompts.name!r}"

    def repeats(self, earlier: str, later: str) -> bool:
        """Whether two answers are spelt alike: the same value in another form is another attempt."""
        return normalize(earlier) == normalize(later)

    def same(self, one: str, other: str) -> bool:
        """Whether two answers have the same value: in a vote, 1/2 and 0.5 are one."""
        return self.grader.grade(one, other).correct

    def problem(self, row: Problem) -> str:
        """See :class:`Task`."""
        gold = row.ground_truth
        if boxed(f"\\boxed{{{gold}}}") != gold.strip():
            return (
                f"reward_model.ground_truth = {gold!r} is no answer that could stand in a box; correct or remove the "
                "row"
            )
        try:
            read_tolerance(_tolerance(row))
        except ValueError as error:
            return f"reward_model.{error}"
        return ""

    async def gold_problem(self, row: Problem) -> str:
        """Why nothing can be graded against the gold answer; by the verdict, its own spelling is right even unread."""
        return await asyncio.to_thread(refusal, row.ground_truth, self.grader)

    def warm_up(self) -> None:
        """Start the grader's workers."""
        self.grader.warm_up()

    async def close(self) -> None:
        """End the grader's workers."""
        if self._grader is not None:
            self._grader.close()


def _tolerance(row: Problem) -> str:
    return str(row.tolerance or "")
