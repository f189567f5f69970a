"""``multi-attempt grade``: the grader on JSON lines."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from multi_attempt.answers import EXTRACTORS, extractor
from multi_attempt.grading import Verdict, explain, grade, read_tolerance


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = (
        'Reads {"prediction": ..., "gold": ...} a line, and "tolerance" (0.1, or 1%) where there is one; writes a '
        "verdict for each, in order."
    )
    parser.add_argument("--explain", action="store_true", help="for a person: how each answer was read and compared")
    parser.add_argument(
        "--answer",
        default="boxed",
        metavar="NAMES",
        help="where the answer stands in a prediction, as in a prompt set: one or several, in quotes, tried in order, "
        f"of {', '.join(EXTRACTORS)} (default: %(default)s)",
    )


def run(arguments: argparse.Namespace) -> int:
    """One verdict out for each line in, whatever it holds."""
    try:
        extract = extractor(arguments.answer)
    except ValueError as error:
        raise ValueError(f"--answer = {arguments.answer!r}: {error}") from error
    for line in sys.stdin.buffer:
        prediction, gold, tolerance, problem = _read_line(line)
        if problem:
            verdict = Verdict(correct=False, reason=problem)
            print(problem if arguments.explain else json.dumps(asdict(verdict)), flush=True)
            continue
        prediction = _boxed_answer(extract(prediction))
        if arguments.explain:
            print(explain(prediction, gold, tolerance).encode("ascii", "backslashreplace").decode() + "\n", flush=True)
        else:
            print(json.dumps(asdict(grade(prediction, gold, tolerance))), flush=True)
    return 0


def _boxed_answer(answer: str | None) -> str:
    """An answer as the grader takes one; no answer is an empty text."""
    return "" if answer is None else f"\\boxed{{{answer}}}"


def _read_line(line: bytes) -> tuple[str, str, str, str]:
    """A prediction, its gold answer, its tolerance, and what is wrong with the line if it holds none."""
    try:
        case = json.loads(line)
        prediction, gold, tolerance = case["prediction"], case["gold"], case.get("tolerance") or ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return "", "", "", f"not a case: {type(error).__name__}"
    if not isinstance(prediction, str) or not isinstance(gold, str):
        return "", "", "", "not a case: prediction and gold must be texts"
    try:
        read_tolerance(str(tolerance))
    except ValueError as error:
        return "", "", "", f"not a case: {error}"
    return prediction, gold, str(tolerance), ""
