"""The grader in a Ray actor, where no signal handler can be set: as in verl's agent loop workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import psutil
import pytest
import ray

from multi_attempt.grading import Grader

pytestmark = pytest.mark.engine

_SUM = r"\sum_{k=1}^{10} k"  # only math-verify reads a sum
_HOSTILE = r"\sum_{k=1}^{1} 9^{9^{9}}"


@pytest.fixture
def cluster() -> Iterator[None]:
    started = {child.pid for child in psutil.Process().children()}
    ray.init(address="local", num_cpus=1, include_dashboard=False)  # whatever else runs on this machine
    yield
    ray.shutdown()
    assert {child.pid for child in psutil.Process().children()} <= started


def actor_class() -> type:
    """Made in a function, so that Ray sends its code instead of this module's name."""

    class Actor:
        """What an agent loop worker does with the grader, in an event loop."""

        def __init__(self) -> None:
            self._grader = Grader(deadline=3.0)
            self._grader.warm_up()

        async def grade(self, answer: str, gold: str) -> tuple[bool, str, str]:
            verdict = await self._grader.grade_async(answer, gold)
            return verdict.correct, verdict.method, verdict.reason

        async def workers(self) -> list[int]:
            return self._grader.processes()

    return Actor


def test_an_actor_grades_runs_into_the_deadline_and_loses_its_worker(cluster: None) -> None:
    actor: Any = ray.remote(actor_class()).options(max_concurrency=4).remote()
    cases = [("1/2", "0.5"), (_SUM, "55"), (_HOSTILE, "5"), (_SUM, "54")]
    assert ray.get([actor.grade.remote(*case) for case in cases]) == [
        (True, "number", ""),
        (True, "math-verify", ""),
        (False, "math-verify", "timeout"),
        (False, "math-verify", ""),
    ]
    [worker] = ray.get(actor.workers.remote())
    os.kill(worker, signal.SIGKILL)
    assert ray.get(actor.grade.remote(_SUM + "+1", "56")) == (True, "math-verify", "")
    [worker] = ray.get(actor.workers.remote())
    ray.kill(actor)
    psutil.wait_procs([psutil.Process(worker)] if psutil.pid_exists(worker) else [], timeout=30)
    assert not psutil.pid_exists(worker)
