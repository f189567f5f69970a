"""``multi-attempt report``: plots, tables and a page from the files of runs."""

from __future__ import annotations

import argparse
from pathlib import Path

from multi_attempt.evaluation.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="folder with metrics.jsonl, eval.json (and episodes.jsonl), or both; several are put side by side",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where to write the report (default: the first RUN)")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    print(f"Report: {write_report(*arguments.runs, output=arguments.output)}")
    return 0
