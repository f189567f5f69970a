"""``multi-attempt toy``: write the toy task to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multi_attempt.toy.build import build_toy


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/toy"), help="folder to write (default outputs/toy)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of questions, model and warm-up (default 0)")
    parser.add_argument("--train-questions", type=int, default=4096, help="questions to train on (default 4096)")
    parser.add_argument("--heldout-questions", type=int, default=256, help="questions held out (default 256)")
    parser.add_argument("--hard-questions", type=int, default=256, help="harder questions held out (default 256)")


def run(arguments: argparse.Namespace) -> int:
    """Build the toy task, unless it is there already."""
    build_toy(
        arguments.output,
        seed=arguments.seed,
        train_questions=arguments.train_questions,
        heldout_questions=arguments.heldout_questions,
        hard_questions=arguments.hard_questions,
    )
    return 0
