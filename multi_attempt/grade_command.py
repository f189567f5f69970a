"""``multi-attempt grade``: the grader on JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from multi_attempt.grading import Verdict, explain, grade


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = 'Reads {"prediction": ..., "gold": ...} a line; writes a verdict for each, in order.'
    parser.add_argument("--explain", action="store_true", help="for a person: how each answer was read and compared")


def run(arguments: argparse.Namespace) -> int:
    """One verdict out for each line in, whatever it holds."""
    for line in sys.stdin.buffer:
        prediction, gold, problem = _read_line(line)
        if problem:
            verdict = Verdict(correct=False, reason=problem)
            print(problem if arguments.explain else json.dumps(asdict(verdict)), flush=True)
        elif arguments.explain:
            print(explain(prediction, gold).encode("ascii", "backslashreplace").decode() + "\n", flush=True)
        else:
            print(json.dumps(asdict(grade(prediction, gold))), flush=True)
    return 0


def _read_line(line: bytes) -> tuple[str, str, str]:
    """A prediction, its gold answer, and what is wrong with the line if it holds none."""
    try:
        case = json.loads(line)
        prediction, gold = case["prediction"], case["gold"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return "", "", f"not a case: {type(error).__name__}"
    if not isinstance(prediction, str) or not isinstance(gold, str):
        return "", "", "not a case: prediction and gold must be texts"
    return prediction, gold, ""
