"""What an experiment trains, and which of the checkpoints are evaluated: those that validate best.

A plan (``reproduce.yaml``, ``reproduce_lm.yaml``) says all of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import yaml
from runs import finished, seeded

from multi_attempt.evaluation.run_files import read_metrics
from verl_ext.training.best_checkpoint import validation_accuracies

EQUAL_TOKENS = "equal tokens"
"""Added to the baseline's name where it has trained for as many tokens as the method, not for as many steps."""

_TOKENS = "multi_attempt/generated_tokens"


@dataclass(frozen=True)
class Plan:
    """An experiment; the comments of ``reproduce.yaml`` say what its fields mean."""

    command: str
    config: str
    output: Path
    results: Path
    questions: Mapping[str, Any]
    start: Mapping[str, str]
    sets: Sequence[Mapping[str, Any]]
    seeds: Sequence[int]
    steps: int
    prompts: str
    method: Mapping[str, Any]
    baseline: Mapping[str, Any]
    ablations: Sequence[Mapping[str, Any]]
    evaluation: Sequence[str]
    protocols: Sequence[str]
    pilot: Mapping[str, Any] | None = None

    @property
    def task_name(self) -> str:
        """What the task's folder, its field of the config, and its data source are called."""
        return str(self.questions["command"]).replace("-", "_")

    @property
    def task(self) -> Path:
        """The folder of the questions."""
        return self.output / self.task_name

    @property
    def start_model(self) -> Path:
        """The folder of the model that all runs start from."""
        return self.output / self.start["model"]

    @property
    def pair(self) -> tuple[str, str]:
        """The names of method and baseline."""
        return self.method["name"], self.baseline["name"]

    def places(self, root: Path = Path()) -> tuple[str, ...]:
        """The overrides that say where questions and model are, from a folder."""
        return (f"{self.task_name}={root / self.task}", f"actor_rollout_ref.model.path={root / self.start_model}")


def read_plan(file: Path, **changes: Any) -> Plan:
    """The plan of a YAML file, with other values for some fields; those that are None change nothing.

    Raises:
        ValueError: it has other fields than :class:`Plan`.
    """
    content = yaml.safe_load(file.read_text()) | {name: value for name, value in changes.items() if value is not None}
    try:
        return Plan(**content | {name: Path(content[name]) for name in ("output", "results")})
    except (KeyError, TypeError) as error:
        raise ValueError(f"{file} is no plan ({error}): launch/reproduce.yaml shows its fields") from error


@dataclass(frozen=True)
class TrainingRun:
    """One training run of the plan.

    Attributes:
        arm: whose run it is: the method's, the baseline's or an ablation's.
        seed: its seed.
        steps: PPO steps.
        overrides: what makes it this arm with this seed.
        prompts: the prompt set it is trained and evaluated with.
        output: its folder.
    """

    arm: str
    seed: int
    steps: int
    overrides: tuple[str, ...]
    prompts: str
    output: Path

    @property
    def name(self) -> str:
        """What to call it."""
        return f"{self.arm}, seed {self.seed}"

    def metrics(self) -> list[dict[str, Any]]:
        """Its training steps."""
        return read_metrics(self.output / "metrics.jsonl")


@dataclass(frozen=True)
class Choice:
    """A model to evaluate.

    Attributes:
        arm: what it stands for.
        name: what the evaluation calls it; two have one name where a checkpoint stands for two arms.
        seed: of its training; None for the model that training starts from.
        step: of its training.
        tokens: generated in training until the run that it is chosen from ends.
        validation: mean greedy accuracy on the validation questions.
        model: its folder.
        prompts: the prompt set it is evaluated with.
        protocols: those it is evaluated under.
    """

    arm: str
    name: str
    seed: int | None
    step: int
    tokens: float
    validation: float | None
    model: Path
    prompts: str
    protocols: tuple[str, ...]


def training_runs(plan: Plan) -> list[TrainingRun]:
    """All training runs of a plan: the pair with each seed, then the ablations with the first."""
    arms = [(arm, seed) for seed in plan.seeds for arm in (plan.method, plan.baseline)]
    arms += [(arm, plan.seeds[0]) for arm in plan.ablations]
    return [
        TrainingRun(
            arm=arm["name"],
            seed=seed,
            steps=arm.get("steps", plan.steps),
            overrides=(*seeded(seed), *arm["overrides"]),
            prompts=arm.get("prompts", plan.prompts),
            output=plan.output / re.sub(r"\W+", "-", f"{arm['name']} {seed}"),
        )
        for arm, seed in arms
    ]


def batches(plan: Plan, seeds: Sequence[int] | None = None) -> list[list[TrainingRun]]:
    """The training runs in the order in which they are trained: a pair after the other, then all ablations.

    Args:
        plan: what is run.
        seeds: the pairs of these only, and no ablations; None for everything.

    Raises:
        ValueError: one of the seeds is not planned.
    """
    runs = training_runs(plan)
    if unplanned := set(seeds or ()) - set(plan.seeds):
        raise ValueError(f"--seeds: {unplanned} are not in the plan's seeds = {list(plan.seeds)}; name some of these")
    pairs = [
        [run for run in runs if run.arm in plan.pair and run.seed == seed]
        for seed in plan.seeds
        if seeds is None or seed in seeds
    ]
    others = [run for run in runs if run.arm not in plan.pair]
    return [*pairs, others] if others and seeds is None else pairs


def complete(plan: Plan) -> list[TrainingRun]:
    """The runs to be evaluated: pairs of which both have been trained to the end, and ablations likewise.

    Ablations are told against the pair of the first seed, and take that pair.
    """
    done = [run for run in training_runs(plan) if finished(run.output, run.steps)]
    counts = [sum(run.seed == seed and run.arm in plan.pair for run in done) for seed in plan.seeds]
    seeds = [seed for seed, count in zip(plan.seeds, counts, strict=True) if count == len(plan.pair)]
    return [run for run in done if run.seed in seeds]


def choose(plan: Plan, runs: Sequence[TrainingRun]) -> dict[str, list[Choice]]:
    """The checkpoints to evaluate: of each run the one that validates best, the earlier of two equals.

    The baseline has two: the best within the method's steps, and the best until it has generated as many tokens as the
    method with the same seed.

    Returns:
        Lists that can be evaluated together, by name: the pair, and ablations by their prompts.

    Raises:
        SystemExit: a baseline's run ended before it had generated as many tokens.
    """
    everything, first_only = tuple(plan.protocols), tuple(plan.protocols[:1])
    start = plan.start["name"]
    groups = {"pair": [Choice(start, start, None, 0, 0.0, None, plan.start_model, plan.prompts, everything)]}
    method, baseline = plan.pair
    spent = {run.seed: tokens_until(run.metrics(), run.steps) for run in runs if run.arm == method}
    for run in runs:
        metrics = run.metrics()
        if run.arm not in plan.pair:
            groups.setdefault(f"ablations-{run.prompts}", []).append(_choice(run, metrics, run.steps, first_only))
            continue
        groups["pair"].append(_choice(run, metrics, plan.steps, everything))
        if run.arm == baseline:
            equal_tokens = _choice(run, metrics, _until(run, metrics, spent[run.seed], method), everything)
            groups["pair"].append(replace(equal_tokens, arm=f"{baseline}, {EQUAL_TOKENS}"))
    return groups


def _until(run: TrainingRun, metrics: Sequence[Mapping[str, Any]], tokens: float, method: str) -> int:
    """The first validated step by which a run has generated so many tokens."""
    until = next((step for step, _ in scores(metrics) if tokens_until(metrics, step) >= tokens), None)
    if until is None:
        raise SystemExit(
            f"{run.name}: {run.steps} steps generated {tokens_until(metrics, run.steps):,.0f} tokens, fewer "
            f"than the {tokens:,.0f} of {method}; raise baseline.steps in the plan"
        )
    return until


def scores(metrics: Sequence[Mapping[str, Any]]) -> list[tuple[int, float]]:
    """The steps that validated, with their mean accuracy over the validation sets."""
    found = []
    for row in metrics:
        if accuracies := validation_accuracies(row):
            found.append((row["step"], fmean(accuracies.values())))
    return found


def tokens_until(metrics: Sequence[Mapping[str, Any]], step: int) -> float:
    """The tokens generated in training until a step."""
    return sum(row[_TOKENS] for row in metrics if row["step"] <= step)


def _choice(run: TrainingRun, metrics: Sequence[Mapping[str, Any]], until: int, protocols: tuple[str, ...]) -> Choice:
    step, score = max(((step, score) for step, score in scores(metrics) if step <= until), key=lambda pair: pair[1])
    return Choice(
        arm=run.arm,
        name=f"{run.name}, step {step}",
        seed=run.seed,
        step=step,
        tokens=tokens_until(metrics, until),
        validation=score,
        model=run.output / "checkpoints" / f"global_step_{step}" / "actor" / "huggingface",
        prompts=run.prompts,
        protocols=protocols,
    )
