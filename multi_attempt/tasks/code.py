"""Programs in Python, which are right if they pass their tests.

A test is an assert (or a few calls and asserts), or an input with the output that it should give. Programs run in a
sandbox alone; whether they pass is worked out where nothing of them runs, so that no program passes by saying so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Optional

from multi_attempt.tasks.asserts import Test, take_apart
from multi_attempt.tasks.sandbox import Limits, Programs, Run, inside_text, make_sandbox
from multi_attempt.tasks.task import Task, Verdict


@dataclass(frozen=True)
class Programming:
    """A row.

    Attributes:
        question: what the program is to do.
        solution: a program that does it.
        tests: asserts, as :func:`multi_attempt.tasks.asserts.take_apart` takes them.
        inputs: what programs read from their standard input, where they have no asserts.
        outputs: what they should then write.
        setup: statements that run before the asserts.
        begin: the program's first lines, which a response goes on from.
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
    """See :class:`multi_attempt.tasks.sandbox.Limits` for what a program may take.

    Attributes:
        url: of a SandboxFusion server; null for bubblewrap on this machine.
        retries: how often a request to it is repeated.
        at_once: programs that run at once, in each process that asks.
        note_length: the most characters of a value, an input or an output that the feedback shows.
    """

    url: Optional[str] = None  # noqa: UP045
    retries: int = 3
    at_once: int = 4
    seconds: int = 10
    memory_mb: int = 1024
    processes: int = 8
    output_kb: int = 256
    files_mb: int = 16
    note_length: int = 200
