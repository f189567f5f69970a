"""What the model does before it is trained: how often it is right, and what it says when told that it is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from reproduce_measures import BLIND, ORACLE, Model, after_wrong, at, percent, retries, table
from reproduce_plan import Plan
from reproduce_sets import by_kind
from runs import evaluate

from multi_attempt.evaluation.run_files import read_evaluation


def pilot(plan: Plan) -> None:
    """Evaluate the model that training starts from, and write ``pilot.md`` into the folder of the results.

    A finished evaluation is not made again.
    """
    settings = plan.pilot
    assert settings is not None
    folder = plan.output / "pilot"
    name = plan.start["name"]
    questions = by_kind(
        plan.task / settings["file"], settings, folder / f"{settings['questions']}.parquet", settings["questions"]
    )
    evaluations = {}
    for temperature in settings["temperatures"]:
        output = folder / f"temperature-{temperature}"
        how = [
            *("--data", str(questions), "--prompts", plan.prompts, "--protocols", ORACLE, BLIND),
            *plan.evaluation,
            *(f"--attempts={settings['attempts']}", f"--temperature={temperature}"),  # the last of a flag counts
        ]
        evaluate({name: plan.start_model}, how, output)
        evaluations[temperature] = read_evaluation(output / "eval.json")
    plan.results.mkdir(parents=True, exist_ok=True)
    (plan.results / "pilot.md").write_text("\n\n".join(pilot_page(plan, evaluations)) + "\n")


def pilot_page(plan: Plan, evaluations: Mapping[float, Mapping[str, Any]]) -> Iterator[str]:
    """The parts of ``pilot.md``, of the evaluations by temperature."""
    assert plan.pilot is not None
    yield f"# {plan.start['name']} before training"
    yield (
        f"Written by `{plan.command}` (`launch/reproduce_pilot.py`). The first {plan.pilot['questions']} validation "
        f"questions, prompt set {plan.prompts}. Of several attempts, the model is told after each whether it was "
        "right, or, where it says so, nothing. The last row is the mean of the kinds."
    )
    for temperature, evaluation in evaluations.items():
        counts = {benchmark["name"]: benchmark["questions"] for benchmark in evaluation["benchmarks"]}
        yield f"## {f'Temperature {temperature}' if temperature else 'Greedy'}"
        yield _by_kind(evaluation["models"][0], counts, evaluation["attempts"])


def _by_kind(model: Model, counts: Mapping[str, int], attempts: Sequence[int]) -> str:
    header = ["", "questions", *(f"{allowed} att." for allowed in attempts), "2 att., not told"]
    header += ["wrong, then right", "then the same", "then otherwise wrong", "not told: right, then wrong"]
    groups = {**{name: [name] for name in counts}, "all": list(counts)}
    rows = [
        [name, str(sum(counts[kind] for kind in kinds)), *_row(model, kinds, attempts)]
        for name, kinds in groups.items()
    ]
    return table(header, rows)


def _row(model: Model, kinds: Sequence[str], attempts: Sequence[int]) -> list[str]:
    shares = [at(model, kinds, allowed) for allowed in attempts]
    shares += [
        at(model, kinds, 2, BLIND),
        *after_wrong(model, kinds),
        retries(model, kinds, "right_to_wrong", BLIND),
    ]
    return [percent(share) for share in shares]
