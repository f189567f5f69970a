"""Programs in Python, which are right if they pass their tests.

A test is an assert (or a few calls and asserts), or an input with the output that it should give. Programs run in a
sandbox alone; whether they pass is worked out where nothing of them runs, so that no program passes by saying so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Optional

from multi_attempt.prompts import Message
from multi_attempt.tasks.programs.asserts import take_apart
from multi_attempt.tasks.programs.sandbox import Limits, Programs, make_sandbox
from multi_attempt.tasks.programs.trials import Trials
from multi_attempt.tasks.task import Task, Words
from multi_attempt.tasks.verdict import Verdict


@dataclass(frozen=True)
class Programming:
    """A row.

    Attributes:
        question: what the program is to do.
        solution: a program that does it.
        tests: asserts, as :func:`multi_attempt.tasks.programs.asserts.take_apart` takes them.
        inputs: what the program reads from its standard input, where it has no asserts.
        outputs: what it should write for each.
        setup: statements that run before the asserts: imports, and functions of the tests.
        begin: the program's first lines, from which a response goes on.
    """

    question: str
    solution: str
    tests: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    setup: str = ""
    begin: str = ""


@dataclass
class CodeSettings:
    """How programs are worded, and run; see :class:`multi_attempt.tasks.programs.sandbox.Limits` for what one may take.

    Attributes:
        prompts: the prompt set, by name or path; empty for that of all tasks.
        url: of a SandboxFusion server; null for bubblewrap on this machine.
        retries: how often a request to it is repeated.
        at_once: programs that run at once, in each process that asks.
        note_length: the most characters of a value, an input or an output in the feedback.
    """

    prompts: str = "code"
    url: Optional[str] = None  # noqa: UP045
    retries: int = 3
    at_once: int = 4
    seconds: int = 10
    memory_mb: int = 1024
    processes: int = 8
    output_kb: int = 256
    files_mb: int = 16
    note_length: int = 200

    def __post_init__(self) -> None:
        for name in ("at_once", "seconds", "memory_mb", "processes", "output_kb", "files_mb", "note_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"multi_attempt.tasks.code.{name} = {getattr(self, name)} must be at least 1")
        if self.retries < 0:
            raise ValueError(f"multi_attempt.tasks.code.retries = {self.retries} must be 0 or more")

    def make(self) -> Programs:
        """The sandbox.

        Raises:
            ValueError: there is none.
        """
        limits = Limits(self.seconds, self.memory_mb, self.processes, self.output_kb, self.files_mb)
        return Programs(make_sandbox(self.url, limits, self.retries), self.at_once)


_TEXTS_OF_A_NOTE = 4  # values, inputs and outputs, each with the words around it; what is longer is cut


class Code(Task[Programming]):
    """Programs with tests. The answer is the program, its score the share of the tests that it passes."""

    Row = Programming
    Settings = CodeSettings
    settings: CodeSettings
    cannot_tell: ClassVar[Mapping[str, str]] = {"ruled_out": "an answer is a whole program"}

    def __init__(self, settings: CodeSettings | None = None, words: Words | None = None) -> None:
        super().__init__(settings, words)
        self.note_length = _TEXTS_OF_A_NOTE * self.settings.note_length
        self._programs: Programs | None = None

    def opening(self, row: Programming, attempts: int) -> list[Message]:
        """See :class:`Task`."""
        return self.words.prompts.opening(row.question, attempts)

    async def verdict(self, row: Programming, response: str) -> Verdict:
        """See :class:`Task`.

        Raises:
            SandboxFailed: the sandbox did not work, so that nothing is known of the program.
        """
        code = self.words.prompts.extract(response)
        if code is None:
            return Verdict(False, well_formed=False, method="none")
        if self._programs is None:
            self._programs = self.settings.make()
        trials, program = Trials(self._programs, self.settings.note_length), row.begin + code
        if row.tests:
            outcome = await trials.asserts(program, row.tests, row.setup)
        else:
            outcome = await trials.outputs(program, row.inputs, row.outputs)
        return Verdict(
            correct=all(outcome.passed),
            answer=code,
            well_formed=self.words.prompts.is_well_formed(response),
            score=sum(outcome.passed) / len(outcome.passed),
            note=outcome.note,
            method="asserts" if row.tests else "outputs",
            reason=outcome.reason,
        )

    def gold_response(self, row: Programming) -> str:
        """See :class:`Task`."""
        return self.words.prompts.response(row.solution)

    def gold(self, row: Programming) -> str:
        """See :class:`Task`."""
        return row.solution

    def repeats(self, earlier: str, later: str) -> bool:
        """Whether two programs are the same but for empty lines, and blanks that end a line."""
        first, second = (
            [line.rstrip() for line in program.split("\n") if line.strip()] for program in (earlier, later)
        )
        return first == second

    def problem(self, row: Programming) -> str:
        """See :class:`Task`."""
        if bool(row.tests) == bool(row.inputs) or len(row.inputs) != len(row.outputs):
            return (
                f"{len(row.tests)} tests, {len(row.inputs)} inputs and {len(row.outputs)} outputs: a row has either "
                "tests, or inputs and as many outputs"
            )
        try:
            for test in row.tests:
                take_apart(test, row.setup)
        except ValueError as error:
            return f"tests: {error}"
        return ""

    def check(self) -> None:
        """Run a program.

        Raises:
            ValueError: there is no sandbox, or it does not work; the message says what to install.
        """
        programs = self.settings.make()
        try:
            programs.check()
        finally:
            programs.close()

    async def close(self) -> None:
        """End the programs that run."""
        if self._programs is not None:
            await asyncio.to_thread(self._programs.close)
            self._programs = None
