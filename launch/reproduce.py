"""The paper's experiment in the small: multi-attempt against single-turn training, over seeds, with ablations.

    make reproduce
    make reproduce-lm

A plan says what is run: ``reproduce.yaml`` with a model and a task made for it, ``reproduce_lm.yaml`` with a language
model. Results are written after each seed for which method and baseline have been trained, of all such seeds. After a
kill the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from reproduce_pilot import pilot
from reproduce_plan import Plan, TrainingRun, batches, choose, complete, read_plan
from reproduce_results import write_results
from reproduce_sets import question_sets
from runs import cli, evaluate, finished, keep_models, prepare_process, run, train

_HERE = Path(__file__).parent
_STAGES = ("pilot", "train", "results")


def main() -> int:
    """Build, look at the start, train, evaluate, write."""
    arguments = _parser().parse_args()
    stages = arguments.stages
    changes = {name: getattr(arguments, name) for name in ("config", "output", "results")}
    try:
        plan = read_plan(arguments.plan, **changes)
        planned = batches(plan, arguments.seeds)
    except ValueError as error:
        print(error, file=sys.stderr)
        return 1
    prepare_process()
    started = time.monotonic()
    _prepare(plan)
    if "pilot" in stages and plan.pilot:
        pilot(plan)
    for batch in planned if "train" in stages else ():
        trained = _train(plan, batch, started)
        if trained and "results" in stages and batch is not planned[-1]:
            _results(plan)
    if "results" in stages:
        _results(plan)
    print(f"\nDone in {_minutes(started)}. Look at {plan.results}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--stages", nargs="+", default=_STAGES, choices=_STAGES, help="only these (default: all)")
    add("--plan", type=Path, default=_HERE / "reproduce.yaml", help="what to run (launch/reproduce.yaml)")
    add("--seeds", type=int, nargs="+", metavar="N", help="only the pairs of these seeds (default: all, and ablations)")
    add("--config", help="config of the training runs (default: the plan's)")
    add("--output", type=Path, help="folder of the runs (default: the plan's)")
    add("--results", type=Path, help="folder of the results (default: the plan's)")
    return parser


def _prepare(plan: Plan) -> None:
    """Make the questions and the model, unless they are there."""
    run([*cli(plan.questions["command"]), "--output", str(plan.task), *plan.questions["arguments"]])
    if script := plan.start.get("script"):
        run([sys.executable, str(_HERE / script), "--output", str(plan.start_model)])


def _train(plan: Plan, batch: Sequence[TrainingRun], started: float) -> bool:
    """Train what has not been trained; whether there was any."""
    missing = [each for each in batch if not finished(each.output, each.steps)]
    for each in batch:
        print(f"\n{each.name}, {each.steps} steps ({_minutes(started)} so far)", flush=True)
        overrides = [*plan.places(Path.cwd()), *each.overrides]
        keep_models(train(each.output, each.steps, overrides, config=plan.config))
    return bool(missing)


def _results(plan: Plan) -> None:
    """Evaluate the runs that are complete, and write what they came to."""
    runs = complete(plan)
    if not runs:
        print("\nNo results yet: no seed's pair has been trained to the end", flush=True)
        return
    choices, sets = choose(plan, runs), question_sets(plan)
    for name, group in choices.items():
        how = [  # the same for all of a group
            *("--data", *(str(each.file) for each in sets)),
            *("--protocols", *group[0].protocols, "--prompts", group[0].prompts),
            *plan.evaluation,
        ]
        evaluate({choice.name: choice.model for choice in group}, how, plan.output / "evaluation" / name)
    write_results(plan, runs, choices, sets)
    print(f"\nWritten: {plan.results / 'results.md'}", flush=True)


def _minutes(started: float) -> str:
    return f"{(time.monotonic() - started) / 60:.0f} minutes"


if __name__ == "__main__":
    sys.exit(main())
