r"""Is this answer right? One function for rollout, reward and evaluation: :func:`grade`.

Two layers: an exact match after normalisation, here and at once; for the rest math-verify, in a process of its own
(:mod:`multi_attempt.grading_worker`). Model output can make symbolic work take for ever (``9^{9^{9}}`` holds the
interpreter lock, so neither a thread nor ``asyncio.wait_for`` gets out of it, and ``signal.alarm`` works in the main
thread alone): only a process can be stopped. At the deadline it is killed and replaced, and the answer counts as wrong
with the reason ``timeout``.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import math
import os
import queue
import re
import select
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, replace

from multi_attempt.answers import boxed


@dataclass(frozen=True)
class Verdict:
    """What the grader found.

    Attributes:
        correct: whether the answer is right.
        answer: the answer that was graded, or None if there was none.
        method: who decided: ``none`` (no answer), ``exact`` or ``math-verify``.
        reason: why the case could not be decided and counts as wrong: ``timeout``, ``memory``, ``depth``, ``crash``,
            ``too long``, or the exception that math-verify raised; else empty.
        seconds: how long it took.
    """

    correct: bool
    answer: str | None = None
    method: str = "none"
    reason: str = ""
    seconds: float = 0.0


NO_ANSWER = Verdict(correct=False)
"""The verdict on an attempt without an answer."""

# Longer answers are no answers; symbolic work on them would only run into the deadline.
_LONGEST_ANSWER = 2_000

_REMOVED = re.compile(r"\\(?:(?:left|right|displaystyle)(?![a-zA-Z])|[,;:! ])|[\s$]")
_FRACTION = re.compile(r"\\[dt]frac(?![a-zA-Z])")


def normalize(answer: str) -> str:
    r"""An answer without what never changes its meaning: spaces, ``$``, ``\left``, ``\right``, a last dot."""
    return _REMOVED.sub("", _FRACTION.sub(r"\\frac", answer)).removesuffix(".")


class Grader:
    """Grades answers, with up to ``workers`` processes for those that need symbolic work.

    Workers start when first needed, or at :meth:`warm_up`. Safe to use from any thread or event loop.

    Args:
        deadline: seconds that a worker may take for one case before it is killed.
        workers: how many worker processes at most.
        memory_mb: address space that a worker may use, in MiB.
    """

    def __init__(self, deadline: float = 2.0, workers: int = 1, memory_mb: int = 2048) -> None:
        if not 0 < deadline < math.inf:
            raise ValueError(f"grader.deadline = {deadline} must be a positive number of seconds")
        if workers < 1:
            raise ValueError(f"grader.workers = {workers} must be at least 1")
        if memory_mb < 1:
            raise ValueError(f"grader.memory_mb = {memory_mb} must be positive")
        self.deadline = deadline
        self._workers = [_Worker(memory_mb) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)
        atexit.register(self.close)

    def grade(self, answer: str | None, gold: str) -> Verdict:
        """Whether a bare answer (what stood in the box) equals the gold answer. Never raises, never hangs."""
        start = time.perf_counter()
        verdict = self._decide_at_once(answer, gold) or self._ask_worker(answer or "", gold)
        return replace(verdict, answer=answer, seconds=time.perf_counter() - start)

    async def grade_async(self, answer: str | None, gold: str) -> Verdict:
        """The same, for an event loop, which is never blocked."""
        start = time.perf_counter()
        verdict = self._decide_at_once(answer, gold)
        if verdict is None:
            verdict = await asyncio.to_thread(self._ask_worker, answer or "", gold)
        return replace(verdict, answer=answer, seconds=time.perf_counter() - start)

    def warm_up(self) -> None:
        """Start the workers now, so that the first cases do not wait for imports."""
        for worker in self._workers:
            worker.start()

    def close(self) -> None:
        """End the workers."""
        for worker in self._workers:
            worker.stop()

    def _decide_at_once(self, answer: str | None, gold: str) -> Verdict | None:
        if answer is None or not answer.strip():
            return NO_ANSWER
        if normalize(answer) == normalize(gold) != "":
            return Verdict(correct=True, method="exact")
        if len(answer) > _LONGEST_ANSWER:
            return Verdict(correct=False, method="exact", reason="too long")
        return None

    def _ask_worker(self, answer: str, gold: str) -> Verdict:
        worker = self._idle.get()
        try:
            verdict = worker.verify(answer, gold, self.deadline)
            # Once more if the worker died: not the case's fault when it was killed from outside, or ended with the
            # thread that had started it (PR_SET_PDEATHSIG).
            return worker.verify(answer, gold, self.deadline) if verdict.reason == "crash" else verdict
        finally:
            self._idle.put(worker)


class _Worker:
    """A process that runs math-verify: one JSON line in, one JSON line out."""

    # The first case waits for the worker's imports (sympy: seconds on a busy machine), which are not the case's fault.
    _STARTUP_SECONDS = 120.0

    def __init__(self, memory_mb: int) -> None:
        self._memory_mb = memory_mb
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            self._start()

    def verify(self, answer: str, gold: str, deadline: float) -> Verdict:
        with self._lock:
            try:
                process = self._start()
                if not self._ready:
                    self._read_line(process, self._STARTUP_SECONDS)
                    self._ready = True
                assert process.stdin is not None
                process.stdin.write(json.dumps({"answer": answer, "gold": gold}).encode() + b"\n")
                process.stdin.flush()
                reply = json.loads(self._read_line(process, deadline))
            except TimeoutError:
                self._kill()
                return Verdict(correct=False, method="math-verify", reason="timeout")
            except (EOFError, OSError):  # it died: out of memory beyond repair, or killed from outside
                self._kill()
                return Verdict(correct=False, method="math-verify", reason="crash")
            return Verdict(correct=reply["correct"], method="math-verify", reason=reply["reason"])

    def stop(self) -> None:
        with self._lock:
            self._kill()

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is None or self._process.poll() is not None:
            self._kill()
            command = [sys.executable, "-m", "multi_attempt.grading_worker", str(os.getpid()), str(self._memory_mb)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None
        self._ready = False

    @staticmethod
    def _read_line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        """One line of the worker's output; raises TimeoutError or EOFError."""
        assert process.stdout is not None
        descriptor = process.stdout.fileno()
        end = time.monotonic() + seconds
        line = b""
        while not line.endswith(b"\n"):
            poll = select.poll()  # not select(): a training process has more than 1024 open files
            poll.register(descriptor, select.POLLIN)
            if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
                raise TimeoutError
            chunk = os.read(descriptor, 65536)
            if not chunk:
                raise EOFError
            line += chunk
        return line


_default: Grader | None = None
_default_lock = threading.Lock()


def grade(prediction: str, gold: str) -> Verdict:
    r"""Whether a text with its answer in ``\boxed{}`` is right. Never raises, never hangs, runs nothing it is given.

    Args:
        prediction: an attempt's text. Without a complete, non-empty box it has no answer and is wrong.
        gold: the gold answer, bare.
    """
    global _default
    with _default_lock:
        if _default is None:
            _default = Grader()
    return _default.grade(boxed(prediction), gold)
