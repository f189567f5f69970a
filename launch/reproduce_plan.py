"""What `make reproduce` trains, and which of the checkpoints are evaluated: those that validate best."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from runs import seeded

from multi_attempt.evaluation.run_files import read_metrics
from verl_ext.best_checkpoint import validation_accuracies

CONFIG = "reproduce"
"""The config of all training runs."""

START = "warm start"
EQUAL_TOKENS = "equal tokens"
"""Added to the baseline's name where it has trained for as many tokens as the method, not for as many steps."""

_PROMPTS = "toy"
_TOKENS = "multi_attempt/generated_tokens"


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
        seed: of its training; None for the warm start.
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


def training_runs(plan: Mapping[str, Any], output: Path) -> list[TrainingRun]:
    """All training runs of a plan: the pair with each seed, then the ablations with the first."""
    arms = [(arm, seed) for seed in plan["seeds"] for arm in (plan["method"], plan["baseline"])]
    arms += [(arm, plan["seeds"][0]) for arm in plan["ablations"]]
    return [
        TrainingRun(
            arm=arm["name"],
            seed=seed,
            steps=arm.get("steps", plan["steps"]),
            overrides=(*seeded(seed), *arm["overrides"]),
            prompts=arm.get("prompts", _PROMPTS),
            output=output / re.sub(r"\W+", "-", f"{arm['name']} {seed}"),
        )
        for arm, seed in arms
    ]


def choose(plan: Mapping[str, Any], runs: Sequence[TrainingRun], toy: Path) -> dict[str, list[Choice]]:
    """The checkpoints to evaluate: of each run the one that validates best, the earlier of two equals.

    The baseline has two: the best within the method's steps, and the best until it has generated as many tokens as the
    method with the same seed.

    Returns:
        Lists that can be evaluated together, by name: the pair, and ablations by their prompts.

    Raises:
        SystemExit: a baseline's run ended before it had generated as many tokens.
    """
    groups: dict[str, list[Choice]] = {"pair": []}
    everything, first_only = tuple(plan["protocols"]), tuple(plan["protocols"][:1])
    groups["pair"].append(Choice(START, START, None, 0, 0.0, None, toy / "model", _PROMPTS, everything))
    method, baseline = plan["method"]["name"], plan["baseline"]["name"]
    spent = {run.seed: tokens_until(run.metrics(), run.steps) for run in runs if run.arm == method}
    for run in runs:
        metrics = run.metrics()
        if run.arm not in (method, baseline):
            groups.setdefault(f"ablations-{run.prompts}", []).append(_choice(run, metrics, run.steps, first_only))
            continue
        equal_steps = _choice(run, metrics, plan["steps"], everything)
        groups["pair"].append(equal_steps)
        if run.arm == baseline:
            until = next((step for step, _ in scores(metrics) if tokens_until(metrics, step) >= spent[run.seed]), None)
            if until is None:
                raise SystemExit(
                    f"{run.name}: {run.steps} steps generated {tokens_until(metrics, run.steps):,.0f} tokens, fewer "
                    f"than the {spent[run.seed]:,.0f} of {method}; raise baseline.steps in the plan"
                )
            equal_tokens = _choice(run, metrics, until, everything)
            groups["pair"].append(replace(equal_tokens, arm=f"{baseline}, {EQUAL_TOKENS}"))
    return groups


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
