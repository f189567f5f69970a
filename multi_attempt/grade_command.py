"""``multi-attempt grade``: the grader on JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from multi_attempt.grading import Verdict, grade


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments: none, it is a filter."""
    parser.epilog = 'Reads {"prediction": ..., "gold": ...} a line; writes a verdict for each, in order.'


def run(arguments: argparse.Namespace) -> int:
    """One line out for each line in, whatever it holds."""
    for line in sys.stdin.buffer:
        print(json.dumps(asdict(_grade_line(line))), flush=True)
    return 0


def _grade_line(line: bytes) -> Verdict:
    try:
        case = json.loads(line)
        prediction, gold = case["prediction"], case["gold"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return Verdict(correct=False, reason=f"not a case: {type(error).__name__}")
    if not isinstance(prediction, str) or not isinstance(gold, str):
        return Verdict(correct=False, reason="not a case: prediction and gold must be texts")
    return grade(prediction, gold)
