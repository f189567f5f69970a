"""Worker processes for the last layer: started, asked, replaced."""

from __future__ import annotations

import json
import os
import queue
import select
import subprocess
import sys
import threading
import time
from typing import NamedTuple


class Reply(NamedTuple):
    """A worker's verdict, and why it could not decide (``timeout``, ``memory``, ``depth``, ``crash``, ``stall``, or the
    name of the exception that math-verify raised), else an empty text."""

    correct: bool
    reason: str


CHANCE = frozenset({"crash", "stall"})
"""Reasons that lie in the machine, not in the case: it is asked once more, and the verdict is not kept."""


class Pool:
    """Up to ``workers`` processes; safe to use from any thread.

    Args:
        workers: how many.
        deadline: seconds of a processor's time for one case.
        memory_mb: memory for one case, in MiB.
    """

    def __init__(self, workers: int, deadline: float, memory_mb: int) -> None:
        self._workers = [_Worker(deadline, memory_mb) for _ in range(workers)]
        self._idle: queue.LifoQueue[_Worker] = queue.LifoQueue()
        for worker in self._workers:
            self._idle.put(worker)

    def ask(self, answer: str, gold: str) -> Reply:
        """math-verify's verdict, or why there is none. Waits for a free worker."""
        worker = self._idle.get()
        try:
            reply = worker.ask(answer, gold)
            # Once more if the worker died: it was killed from outside, or ended with the thread that had started it
            # (PR_SET_PDEATHSIG). Once more, too, if the machine stood still.
            return worker.ask(answer, gold) if reply.reason in CHANCE else reply
        finally:
            self._idle.put(worker)

    def start(self) -> None:
        """Start the workers now, so that the first cases do not wait for imports."""
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """End the workers. They start again when asked."""
        for worker in self._workers:
            worker.stop()

    def processes(self) -> list[int]:
        """The process ids of the workers that run."""
        return [worker.process.pid for worker in self._workers if worker.process is not None]


class _Worker:
    # The first case waits for the worker's imports (sympy: seconds on a busy machine), which are not the case's fault.
    _STARTUP_SECONDS = 120.0
    # Deadlines by the clock, in which a case gets one of the processor's time if the machine is only busy.
    _PATIENCE = 4
    # The worker itself stops in time; only one that hangs is killed.
    _GRACE_SECONDS = 10.0

    def __init__(self, deadline: float, memory_mb: int) -> None:
        self._deadline = deadline
        self._patience = self._PATIENCE * deadline
        self._memory_mb = memory_mb
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._lock = threading.Lock()

    def start(self) -> None:
        with self._lock:
            self._start()

    def stop(self) -> None:
        with self._lock:
            self._kill()

    def ask(self, answer: str, gold: str) -> Reply:
        with self._lock:
            try:
                process = self._start()
                if not self._ready:
                    self._read_line(process, self._STARTUP_SECONDS)
                    self._ready = True
                assert process.stdin is not None
                process.stdin.write(json.dumps({"answer": answer, "gold": gold}).encode() + b"\n")
                process.stdin.flush()
                reply = json.loads(self._read_line(process, self._patience + self._GRACE_SECONDS))
            except TimeoutError:
                self._kill()
                return Reply(False, "stall")
            except (EOFError, OSError):  # killed from outside
                self._kill()
                return Reply(False, "crash")
            return Reply(reply["correct"], reply["reason"])

    def _start(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self._kill()
            arguments = [str(os.getpid()), str(self._deadline), str(self._patience), str(self._memory_mb)]
            command = [sys.executable, "-m", "multi_attempt.grading.worker", *arguments]
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        return self.process

    def _kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
        self.process = None
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
