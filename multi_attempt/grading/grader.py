"""The grader: the layers of this process first, and math-verify in a process of its own for what they cannot read."""

from __future__ import annotations

import asyncio
import atexit
import logging
import math
import threading
import time
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from multi_attempt.answers import boxed
from multi_attempt.grading.layers import Decision, decide, describe
from multi_attempt.grading.policies import Policies
from multi_attempt.grading.pool import CHANCE, Pool
from multi_attempt.grading.tolerance import read_tolerance

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Verdict:
    """What the grader found.

    Attributes:
        correct: whether the answer is right.
        answer: the answer that was graded, or None if there was none.
        method: who decided: ``none`` (no answer), ``exact`` (same spelling), ``number`` (exact arithmetic),
            ``structure`` (lists, sets, intervals, relations, matrices), ``expression``, ``text`` (words),
            ``math-verify``, or ``error`` (the grader failed, and logged why).
        reason: why the case could not be decided and counts as wrong: ``timeout``, ``memory``, ``depth``, ``crash``,
            ``stall`` (the machine gave it no time), ``cannot read ...``, ``cannot compare ...``, ``too long``,
            ``too large: ...``, ``unbalanced braces``, or an exception's name; else empty.
        seconds: how long it took.
    """

    correct: bool
    answer: str | None = None
    method: str = "none"
    reason: str = ""
    seconds: float = 0.0


NO_ANSWER = Verdict(correct=False)
"""The verdict on an attempt without an answer."""

_NO_ANSWER = Decision(False, NO_ANSWER.method)

# The samples of a group, and their attempts, often give the same answer to the same question.
_CACHED_DECISIONS = 10_000
_LONGEST_CACHED = 400  # characters of both, where no worker was asked


class Grader:
    """Grades answers, with up to ``workers`` processes for those that need symbolic work.

    Workers start when first needed, or at :meth:`warm_up`. Safe to use from any thread or event loop.

    Args:
        deadline: seconds of a processor's time that a worker may take for one case before it is stopped; by the clock
            some times as many, so that a busy machine changes no verdict.
        workers: how many worker processes at most.
        memory_mb: memory that a case may use in a worker, in MiB.
        policies: the judgement calls of what is equal.
    """

    def __init__(
        self, deadline: float = 2.0, workers: int = 1, memory_mb: int = 2048, policies: Policies | None = None
    ) -> None:
        if not 0 < deadline < math.inf:
            raise ValueError(f"grader.deadline = {deadline} must be a positive number of seconds")
        if workers < 1:
            raise ValueError(f"grader.workers = {workers} must be at least 1")
        if memory_mb < 1:
            raise ValueError(f"grader.memory_mb = {memory_mb} must be positive")
        self._policies = policies or Policies()
        self._pool = Pool(workers, deadline, memory_mb)
        # Threads that wait for workers; the event loop's own are for others.
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="grader")
        # Two caches: a pair of raw texts may be spelt like another pair's normalised ones, and mean something else.
        self._decisions: OrderedDict[tuple[str, ...], Decision] = OrderedDict()
        self._replies: OrderedDict[tuple[str, ...], Decision] = OrderedDict()
        self._lock = threading.Lock()
        atexit.register(self.close)

    def grade(self, answer: str | None, gold: str, tolerance: str = "") -> Verdict:
        """Whether a bare answer (what stood in the box) equals the gold answer. Never raises, never hangs.

        Args:
            answer: the answer.
            gold: the gold answer.
            tolerance: how far a number may be from the gold answer, as its benchmark says (``0.1``, or ``1%``).
        """
        start = time.perf_counter()
        decision = self._decide_here(answer, gold, tolerance)
        if decision.correct is None:
            decision = self._ask_worker(decision)
        return _verdict(decision, answer, start)

    async def grade_async(self, answer: str | None, gold: str, tolerance: str = "") -> Verdict:
        """The same, for an event loop, which goes on while a worker computes."""
        start = time.perf_counter()
        decision = self._decide_here(answer, gold, tolerance)
        if decision.correct is None:
            loop = asyncio.get_running_loop()
            decision = await loop.run_in_executor(self._threads, self._ask_worker, decision)
        return _verdict(decision, answer, start)

    def warm_up(self) -> None:
        """Start the workers now, so that the first cases do not wait for imports."""
        self._pool.start()

    def close(self) -> None:
        """End the workers. They start again when needed."""
        self._pool.stop()

    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return self._pool.processes()

    def _decide_here(self, answer: str | None, gold: str, tolerance: str) -> Decision:
        """What this process's layers decide, or a worker did earlier; ``correct`` is None if a worker must be asked."""
        if answer is None or not answer.strip():
            return _NO_ANSWER
        key = (answer, gold, tolerance)
        decision = self._decisions.get(key)
        if decision is not None:
            return decision
        try:
            decision = decide(answer, gold, self._policies, read_tolerance(tolerance))
        except Exception as error:  # a fault of ours: one episode's verdict, not the end of a run
            _logger.exception("The grader failed on answer %a, gold answer %a; it counts as wrong.", answer, gold)
            return Decision(False, "error", type(error).__name__)
        if decision.correct is None:
            return self._replies.get((decision.answer, decision.gold), decision)
        if len(answer) + len(gold) <= _LONGEST_CACHED:
            self._keep(self._decisions, key, decision)
        return decision

    def _ask_worker(self, question: Decision) -> Decision:
        reply = self._pool.ask(question.answer, question.gold)
        decision = Decision(reply.correct, "math-verify", reply.reason)
        if reply.reason not in CHANCE:
            self._keep(self._replies, (question.answer, question.gold), decision)
        return decision

    def _keep(self, cache: OrderedDict[tuple[str, ...], Decision], key: tuple[str, ...], decision: Decision) -> None:
        with self._lock:
            cache[key] = decision
            if len(cache) > _CACHED_DECISIONS:
                cache.popitem(last=False)


def _verdict(decision: Decision, answer: str | None, start: float) -> Verdict:
    return Verdict(bool(decision.correct), answer, decision.method, decision.reason, time.perf_counter() - start)


def explain(prediction: str, gold: str, tolerance: str = "") -> str:
    """How :func:`grade` came to its verdict, in some lines for a person."""
    verdict = grade(prediction, gold, tolerance)
    lines = [
        f"answer   {verdict.answer if verdict.answer is not None else 'none where one may stand'}",
        f"read as  {describe(verdict.answer or '')}",
        f"gold     {gold}",
        f"read as  {describe(gold)}",
        f"verdict  {'right' if verdict.correct else 'wrong'}, by {verdict.method}"
        f"{f' ({verdict.reason})' if verdict.reason else ''}, in {verdict.seconds * 1e3:.2f} ms",
    ]
    return "\n".join(lines)


_default: Grader | None = None
_default_lock = threading.Lock()


def grade(prediction: str, gold: str, tolerance: str = "") -> Verdict:
    r"""Whether a text with its answer in ``\boxed{}`` is right. Never raises, never hangs, runs nothing it is given.

    Args:
        prediction: an attempt's text. Without a complete, non-empty box it has no answer and is wrong.
        gold: the gold answer, bare.
        tolerance: how far a number may be from the gold answer: ``0.1``, or ``1%``.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = Grader()
    return _default.grade(boxed(prediction), gold, tolerance)
