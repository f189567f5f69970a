"""``multi-attempt word-problems``: write arithmetic word problems to a folder."""

from __future__ import annotations

import argparse
from pathlib import Path

from multi_attempt.word_problems.build import Settings, build_word_problems
from multi_attempt.word_problems.table import LEVELS, load_table

_DEFAULTS = Settings()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    kinds = load_table().kinds.values()
    parser.epilog = (
        f"Kinds: {', '.join(kind.name for kind in kinds)}. Trained on by default are all but "
        f"{', '.join(kind.name for kind in kinds if kind.held_out)}."
    )
    parser.add_argument(
        "--output", type=Path, default=Path("outputs/word_problems"), help="folder to write (default %(default)s)"
    )
    parser.add_argument(
        "--train", type=int, default=_DEFAULTS.train, metavar="N", help="questions to train on (default %(default)s)"
    )
    parser.add_argument(
        "--validation",
        type=int,
        default=_DEFAULTS.validation,
        metavar="N",
        help="questions to choose a checkpoint by (default %(default)s; 0: none)",
    )
    parser.add_argument(
        "--validation-attempts",
        type=int,
        nargs="+",
        default=_DEFAULTS.validation_attempts,
        metavar="K",
        help=f"numbers of attempts to validate with (default {' '.join(map(str, _DEFAULTS.validation_attempts))})",
    )
    parser.add_argument(
        "--test", type=int, default=_DEFAULTS.test, metavar="N", help="questions held out (default %(default)s)"
    )
    parser.add_argument(
        "--other-wordings",
        type=int,
        default=_DEFAULTS.other_wordings,
        metavar="N",
        help="questions held out whose kinds or wordings are never trained on (default %(default)s)",
    )
    parser.add_argument(
        "--level", choices=LEVELS, default=_DEFAULTS.level, help="how great the numbers are (default %(default)s)"
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=_DEFAULTS.kinds,
        metavar="KIND",
        help="kinds to train on; all others are held out (default: see below)",
    )
    parser.add_argument("--seed", type=int, default=_DEFAULTS.seed, help="of all questions (default %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Write the word problems, unless they are there already."""
    settings = Settings(
        validation=arguments.validation,
        validation_attempts=tuple(arguments.validation_attempts),
        seed=arguments.seed,
        train=arguments.train,
        test=arguments.test,
        other_wordings=arguments.other_wordings,
        level=arguments.level,
        kinds=tuple(arguments.kinds),
    )
    build_word_problems(arguments.output, settings)
    return 0
