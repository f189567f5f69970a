"""``multi-attempt report``: plots and a page from a run's files."""

from __future__ import annotations

import argparse
from pathlib import Path

from multi_attempt.evaluation.report import write_report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("run", type=Path, help="folder with metrics.jsonl, eval.json, or both")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and say where it is."""
    print(f"Report: {write_report(arguments.run)}")
    return 0
