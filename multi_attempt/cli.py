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
    "check": ("verl_ext.check_command", "check a config, and plan its memory, tokens and hours on a GPU"),
    "grade": ("multi_attempt.grade_command", "grade predictions: JSON lines in, JSON lines out"),
    "eval": ("multi_attempt.evaluation.command", "accuracy of models by the number of attempts allowed"),
    "report": ("multi_attempt.evaluation.report_command", "plots and an offline HTML page of a run"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit status is 2 for bad input, with the reason on standard error."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(prog="multi-attempt", description="Multi-attempt reinforcement learning for LLMs.")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    called = next((argument for argument in arguments if not argument.startswith("-")), None)
    for name, (module_name, summary) in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == called:
            import_module(module_name).add_arguments(subparser)
    parsed = parser.parse_args(arguments)
    try:
        return import_module(COMMANDS[parsed.command][0]).run(parsed)
    except (ValueError, OSError) as error:
        print(f"multi-attempt {parsed.command}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
