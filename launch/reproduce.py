"""The paper's experiment in the small: multi-attempt against single-turn training, over seeds, with ablations.

    make reproduce

What is run stands in ``reproduce.yaml``. The runs go to ``outputs/reproduce``, the results to ``docs/reproduce``. After
a kill the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import yaml
from reproduce_plan import CONFIG, choose, training_runs
from reproduce_results import write_results
from runs import cli, evaluate, prepare_process, run, train


def main() -> int:
    """Build, train, evaluate, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--plan", type=Path, default=Path(__file__).with_suffix(".yaml"), help="what to run (launch/reproduce.yaml)")
    add("--output", type=Path, default=Path("outputs/reproduce"), help="folder of the runs")
    add("--results", type=Path, default=Path("docs/reproduce"), help="folder of the results")
    arguments = parser.parse_args()
    prepare_process()
    started = time.monotonic()
    plan: dict[str, Any] = yaml.safe_load(arguments.plan.read_text())
    toy = arguments.output / "toy"
    run([*cli("toy"), "--output", str(toy), *plan["toy"]])
    runs = training_runs(plan, arguments.output)
    for each in runs:
        print(f"\n{each.name}, {each.steps} steps ({_minutes(started)} so far)", flush=True)
        train(each.output, each.steps, [f"toy={toy.resolve()}", *each.overrides], config=CONFIG)
    choices = choose(plan, runs, toy)
    print(f"\nEvaluation ({_minutes(started)} so far)", flush=True)
    for name, group in choices.items():
        how = [  # the same for all of a group
            *("--data", str(toy / "heldout.parquet"), str(toy / "hard.parquet")),
            *("--protocols", *group[0].protocols, "--prompts", group[0].prompts),
            *plan["evaluation"],
        ]
        evaluate({choice.name: choice.model for choice in group}, how, arguments.output / "evaluation" / name)
    write_results(plan, runs, choices, arguments.output, arguments.results)
    print(f"\nDone in {_minutes(started)}. Look at {arguments.results / 'results.md'}")
    return 0


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.0f} minutes"


if __name__ == "__main__":
    sys.exit(main())
