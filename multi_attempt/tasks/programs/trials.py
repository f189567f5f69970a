"""Putting a program to its tests. The sandbox runs it; whether it passes is worked out where nothing of it runs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from multi_attempt.tasks.programs.asserts import take_apart
from multi_attempt.tasks.programs.sandbox import Programs, Run, inside_text

_take_apart = lru_cache(maxsize=4096)(take_apart)


class Outcome(NamedTuple):
    """How a program did.

    Attributes:
        passed: for each test, whether it passed.
        note: what failed first, for the model; empty if nothing did.
        reason: ``timeout`` or ``killed`` if that was why, or ``unreadable``; else empty.
    """

    passed: list[bool]
    note: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Trials:
    """Tests of programs.

    Attributes:
        programs: the sandbox.
        length: the most characters of a value, an input or an output in a note.
    """

    programs: Programs
    length: int

    async def asserts(self, program: str, tests: Sequence[str], setup: str = "") -> Outcome:
        """Try a program on asserts, in one run.

        Raises:
            ValueError: a test cannot be taken apart.
            SandboxFailed: the sandbox did not work.
        """
        parts = [_take_apart(test, setup) for test in tests]
        asked = {"program": program, "setup": setup, "tests": [part.asked for part in parts]}
        run = await self.programs.run(inside_text("calls"), json.dumps(asked))
        compared = {
            "setup": setup,
            "tests": [part.compared for part in parts],
            "lines": run.output.split("\n")[:-1],
            "missing": _why(run),
            "length": self.length,
        }
        judged = await self.programs.run(inside_text("compare"), json.dumps(compared))
        if not judged.well:  # what the program gave was made to be more than can be read
            return Outcome([False] * len(tests), "what the program gave cannot be read", "unreadable")
        verdict = json.loads(judged.output)
        return Outcome(verdict["passed"], verdict["note"], "" if all(verdict["passed"]) else _reason(run))

    async def outputs(self, program: str, inputs: Sequence[str], outputs: Sequence[str]) -> Outcome:
        """Try a program on inputs, a run for each; one that ran out of time is not run again.

        Raises:
            SandboxFailed: the sandbox did not work.
        """
        passed: list[bool] = []
        note = reason = ""
        for entry, wanted in zip(inputs, outputs, strict=True):
            run = await self.programs.run(program, entry)
            passed.append(run.well and _lines(run.output) == _lines(wanted))
            if not passed[-1] and not note:
                note, reason = self._difference(entry, wanted, run), _reason(run)
            if run.ended != "finished":
                break
        return Outcome(passed + [False] * (len(inputs) - len(passed)), note, reason)

    def _difference(self, entry: str, wanted: str, run: Run) -> str:
        if not run.well:
            return f"for the input {self._cut(entry)} {_why(run)}"
        return f"for the input {self._cut(entry)} the output was {self._cut(run.output)}, expected {self._cut(wanted)}"

    def _cut(self, text: str) -> str:
        return repr(text if len(text) <= self.length else f"{text[: self.length]}...")


def _lines(text: str) -> list[str]:
    """What counts of an output: not the blanks that end a line, nor empty lines at its end."""
    return [line.rstrip() for line in text.rstrip().split("\n")]


def _reason(run: Run) -> str:
    return "" if run.ended == "finished" else run.ended


_MOST_ERROR = 300
_SIGNALS = 128  # statuses above this are those of programs that a signal ended


def _why(run: Run) -> str:
    """Why a program wrote no more."""
    if run.ended == "timeout":
        return "the program ran out of time"
    if run.ended == "killed":
        return "the program was killed"
    if run.status > _SIGNALS:
        return "the program crashed"
    error = run.errors.strip().rpartition("\n")[2][:_MOST_ERROR]
    return f"the program ended with {error}" if error else f"the program ended by itself, with status {run.status}"
