"""The last layer's own process: math-verify behind JSON lines, run where it can be stopped.

:class:`multi_attempt.grading.grader.Grader` runs it as ``python -m multi_attempt.grading.worker PARENT_PID DEADLINE
PATIENCE MEMORY_MB``. It prints ``ready`` once it can serve, then one line for each line it reads, and ends when its
input ends.

It imports math-verify once and never runs a case itself: a forked child does, which is watched, and killed at the
deadline (of the processor's time, so that a busy machine changes no verdict), when the patience is at its end (by the
clock), at the memory limit, and after :data:`_CASES_PER_CHILD` cases. A new one costs some milliseconds, not the
imports.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import re
import resource
import select
import signal
import sys
import time
from typing import IO, Any

import psutil

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)
_CASES_PER_CHILD = 500  # sympy's caches grow
_WATCH_SECONDS = 0.02  # between looks at a child's memory
# Beyond this the system itself says no. math-verify swallows the MemoryError, so the limit proper is watched.
_HARD_LIMIT = 4

# Cases of ours that make sympy import what cases need: before any deadline runs, and before strings are refused, of
# which its modules make their own constants (sympy.physics.units) and methods (dataclasses).
_WARM_UP = (
    (r"\frac12+\sqrt{8}x", "0.5"),
    (r"\int_0^1 x^2 dx", r"\sum_{k=1}^{3} k"),
    (r"\lim_{x \to 0} \frac{\sin x}{x}", r"\prod_{k=1}^{3} k"),
    (r"a_n = \sum_{k=0}^{n-1} a_k b", r"a_n = \sum_{k=0}^{n-2} a_k b"),
    (r"\begin{pmatrix}1&2\\3&x\end{pmatrix}", r"\begin{pmatrix}1&2\\3&x+1\end{pmatrix}"),
    (r"\{1,2\} \cup [3,4)", r"x > 5"),
    (r"\frac{d}{dx} x^2", "2x"),
)
# What the libraries have no business doing with model output. See the table of audit events in Python's documentation.
_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.remove", "os.rename", "os.rmdir",
              "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink", "os.truncate", "os.kill", "shutil.",
              "subprocess.", "socket.", "ftplib.", "urllib.", "smtplib.", "pty.", "webbrowser.")  # fmt: skip

# sympy.polys.monomials (1.14, line 401) writes itself multiplications, by the number of variables alone.
_SYMPYS_OWN_CODE = b"def monomial_"


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    """An audit hook: no code from strings, no file written, no process, no connection.

    No path to these is known: this makes sure of it, also in the next version of a library.
    """
    if event == "compile" and arguments[1] == "<string>" and not bytes(arguments[0]).startswith(_SYMPYS_OWN_CODE):
        raise PermissionError("code from a string")
    if event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        raise PermissionError("a file to write")
    if event.startswith(_FORBIDDEN):
        raise PermissionError(event)


def _number(text: str) -> Any:
    """What sympy makes of a string in this process: a number, or an error. By itself it would evaluate the string.

    math-verify's LaTeX parser (latex2sympy2_extended 1.11, ``parse_number``) gives sympy numbers as strings.
    """
    from sympy import Float, Integer, SympifyError

    if re.fullmatch(r"[0-9]{1,4000}", text):
        return Integer(int(text))
    if re.fullmatch(r"[0-9]{0,1000}\.[0-9]{0,1000}(?:[eE][-+]?[0-9]{1,4})?|[0-9]{1,1000}[eE][-+]?[0-9]{1,4}", text):
        return Float(text)
    raise SympifyError(text)


def _verdict(case: dict[str, str]) -> dict[str, Any]:
    from math_verify import LatexExtractionConfig, parse, verify

    # LaTeX only: math-verify gives what it takes for a plain expression to sympy's string parser. Both sides boxed: it
    # then takes the whole box and nothing outside it. Its own time-outs are off, since this process is killed.
    configuration = [LatexExtractionConfig(boxed_match_priority=0)]
    try:
        gold, answer = (
            parse(f"\\boxed{{{case[key]}}}", configuration, parsing_timeout=None) for key in ("gold", "answer")
        )
        return {"correct": bool(verify(gold, answer, timeout_seconds=None)), "reason": ""}
    except MemoryError:
        return {"correct": False, "reason": "memory"}
    except RecursionError:
        return {"correct": False, "reason": "depth"}
    except Exception as error:  # whatever a library makes of model output, the verdict is "wrong"
        return {"correct": False, "reason": type(error).__name__}


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, even when that is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


class _Child:
    """A forked process that serves cases."""

    def __init__(self, memory_mb: int, keep_closed: IO[str]) -> None:
        requests, self._requests = os.pipe()
        self._replies, replies = os.pipe()
        parent = os.getpid()
        self._memory = memory_mb << 20
        self.served = 0
        self.pid = os.fork()
        if self.pid:
            os.close(requests)
            os.close(replies)
            self._process = psutil.Process(self.pid)
            return
        try:
            _die_with(parent)
            os.close(self._requests)
            os.close(self._replies)
            keep_closed.close()
            resource.setrlimit(resource.RLIMIT_AS, (_HARD_LIMIT * memory_mb << 20, _HARD_LIMIT * memory_mb << 20))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            sys.addaudithook(_refuse)
            with os.fdopen(requests) as lines:
                for line in lines:
                    os.write(replies, json.dumps(_verdict(json.loads(line))).encode() + b"\n")
        finally:
            os._exit(0)

    def ask(self, line: str, deadline: float, patience: float) -> dict[str, Any] | None:
        """The verdict on a case; None if the child died of it. At a limit, what it ran into."""
        self.served += 1
        worked = self._worked()
        try:
            os.write(self._requests, line.encode() + b"\n")
        except BrokenPipeError:
            return None
        poll = select.poll()
        poll.register(self._replies, select.POLLIN)
        end = time.monotonic() + patience
        while not poll.poll(_WATCH_SECONDS * 1000):
            if self._worked() - worked > deadline:
                return {"correct": False, "reason": "timeout"}
            if time.monotonic() > end:
                return {"correct": False, "reason": "stall"}
            if self._process.is_running() and self._process.memory_info().rss > self._memory:
                return {"correct": False, "reason": "memory"}
        reply = os.read(self._replies, 65536)
        return json.loads(reply) if reply else None

    def _worked(self) -> float:
        """Seconds of a processor's time that the child has had."""
        times = self._process.cpu_times()
        return float(times.user + times.system)

    def end(self) -> None:
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        os.close(self._requests)
        os.close(self._replies)


def main() -> None:
    """Serve until standard input ends."""
    parent, deadline, patience, memory_mb = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
    _die_with(parent)
    from sympy.core.sympify import converter

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process
    logging.disable(logging.WARNING)  # math-verify warns at every case that its own time-outs are off
    for answer, gold in _WARM_UP:
        _verdict({"answer": answer, "gold": gold})
    converter[str] = _number
    # Only protocol lines may reach the parent, whatever the libraries print.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    replies.write("ready\n")
    child: _Child | None = None
    for line in sys.stdin:
        verdict: dict[str, Any] | None = None
        for _ in range(2):  # once more if the child died: not the case's fault if it was killed from outside
            if child is None:
                child = _Child(memory_mb, replies)
            verdict = child.ask(line.rstrip("\n"), deadline, patience)
            is_stuck = verdict is not None and verdict["reason"] in ("timeout", "stall", "memory")
            if verdict is None or is_stuck or child.served >= _CASES_PER_CHILD:
                child.end()
                child = None
            if verdict is not None:
                break
        replies.write(json.dumps(verdict or {"correct": False, "reason": "crash"}) + "\n")
    if child is not None:
        child.end()


if __name__ == "__main__":
    main()
