"""The grader's worker process: math-verify behind JSON lines, to be killed when a case takes too long.

Run by :class:`multi_attempt.grading.Grader` as ``python -m multi_attempt.grading_worker PARENT_PID MEMORY_MB``. Prints
``ready`` once it can serve, then one line for each line it reads. It ends when its input ends.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import resource
import signal
import sys

_PR_SET_PDEATHSIG = 1  # Linux, prctl(2)


def main() -> None:
    """Serve until standard input ends."""
    parent, memory_mb = int(sys.argv[1]), int(sys.argv[2])
    if sys.platform == "linux":
        # Hostile cases ignore the end of their input: die with the parent even when it is killed.
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            return
    from math_verify import parse, verify

    logging.disable(logging.WARNING)  # math-verify warns at every case that its own time-outs are off
    verify(parse("\\boxed{\\frac12}"), parse("\\boxed{0.5}"))  # imports the rest before the first case's deadline runs
    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    # Only protocol lines may reach the parent, whatever the libraries print.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    replies.write("ready\n")
    for line in sys.stdin:
        case = json.loads(line)
        correct, reason = False, ""
        try:
            # Both sides boxed: math-verify then takes the whole box and nothing outside it. Its own time-outs are
            # off, since the parent's deadline ends this process.
            gold, answer = (parse(f"\\boxed{{{case[key]}}}", parsing_timeout=None) for key in ("gold", "answer"))
            correct = bool(verify(gold, answer, timeout_seconds=None))
        except MemoryError:
            reason = "memory"
        except RecursionError:
            reason = "depth"
        except Exception as error:  # whatever a library makes of model output, the verdict is "wrong"
            reason = type(error).__name__
        replies.write(json.dumps({"correct": correct, "reason": reason}) + "\n")


if __name__ == "__main__":
    main()
