"""The command line: ``multi-attempt COMMAND``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

# Command: (module, one line of help). The module has add_arguments(parser) and run(arguments), and is imported only
# when its command is called: some import engines.
COMMANDS = {
    "data": ("multi_attempt.data.command", "prepare training and evaluation sets, of public sources or your own files"),
    "toy": ("multi_attempt.toy.command", "make the toy task: questions, tokenizer, and a tiny model warmed up on it"),
    "word-problems": ("multi_attempt.word_problems.command", "make arithmetic word problems for small chat models"),
    "check": ("verl_ext.checks.check_command", "check a config, and plan its memory, tokens and hours on a GPU"),
    "grade": ("multi_attempt.grading.command", "grade predictions: JSON lines in, JSON lines out"),
    "eval": ("multi_attempt.evaluation.command", "accuracy of models by the number of attempts allowed"),
    "report": ("multi_attempt.evaluation.report_command", "plots and an offline HTML page of a run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 for bad input, with the reason on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="multi-attempt", description="Multi-attempt reinforcement learning for LLMs.")
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    parsers = {
        name: subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        for name, (_, summary) in COMMANDS.items()
    }
    if not arguments or arguments[0] not in COMMANDS:
        parser.parse_args(arguments)  # which ends with the help, or an error
    command, *rest = arguments
    module = import_module(COMMANDS[command][0])
    module.add_arguments(parsers[command])
    # Intermixed: overrides of a config may stand before and after options, as for Hydra.
    parsed = parsers[command].parse_intermixed_args(rest)
    try:
        return module.run(parsed)
    except (ValueError, OSError) as error:
        print(f"multi-attempt {command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
