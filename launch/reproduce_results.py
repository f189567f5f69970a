"""What `make reproduce` found: figures, tables and mended mistakes, as Markdown; each model's figures as JSON."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

from reproduce_plan import CONFIG, EQUAL_TOKENS, START, Choice, TrainingRun
from runs import training_command

from multi_attempt.evaluation import plots
from multi_attempt.evaluation.command import read_questions
from multi_attempt.evaluation.run_files import EpisodeKey, read_episodes, read_evaluation
from multi_attempt.evaluation.seeds import Estimate, estimate, over_seeds, training_over_seeds
from multi_attempt.evaluation.statistics import MACRO, accuracy
from multi_attempt.evaluation.tables import markdown, protocol_tables

Model = Mapping[str, Any]
"""A model of an ``eval.json``."""

_ORACLE = "oracle"
_HARD = "hard "
_RETRIES = {"second att. that repeat": "repeat_rate", "second att. that are right": "right_after_wrong"}
_PANELS = (
    *plots.PANELS,
    plots.Panel(
        "Validation",
        True,
        (plots.Series("val-core/toy_1_attempts/acc/mean@1", "greedy, with 1 attempt", plots.STRONG[0]),),
    ),
)


@dataclass(frozen=True)
class Evidence:
    """All that was measured.

    Attributes:
        plan: what was run.
        runs: its training runs.
        models: each evaluated model with what it stands for.
        evaluation: the ``eval.json`` of the pair.
        output: the folder of the runs.
    """

    plan: Mapping[str, Any]
    runs: Sequence[TrainingRun]
    models: Sequence[tuple[Choice, Model]]
    evaluation: Mapping[str, Any]
    output: Path

    @property
    def sets(self) -> dict[str, list[str]]:
        """The two sets of held-out questions, by name: their benchmarks, which are the kinds of question."""
        names = [benchmark["name"] for benchmark in self.evaluation["benchmarks"]]
        return {
            "Held-out questions": [name for name in names if not name.startswith(_HARD)],
            "Harder questions": [name for name in names if name.startswith(_HARD)],
        }

    @property
    def held_out(self) -> list[str]:
        """The kinds of held-out question."""
        return next(iter(self.sets.values()))

    @property
    def baselines(self) -> tuple[str, str]:
        """The baseline at equal steps and at equal tokens."""
        name = self.plan["baseline"]["name"]
        return name, f"{name}, {EQUAL_TOKENS}"

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.plan["method"]["name"])

    @property
    def arms(self) -> dict[str, list[Model]]:
        """The warm start, the baseline twice, and the method, each with a model a seed."""
        return {
            name: [model for choice, model in self.models if name == choice.arm]
            for name in (START, *self.baselines, self.method)
        }


def write_results(
    plan: Mapping[str, Any],
    runs: Sequence[TrainingRun],
    choices: Mapping[str, Sequence[Choice]],
    output: Path,
    folder: Path,
) -> None:
    """Write ``results.md``, ``tables.md``, ``results.json`` and the figures.

    Args:
        plan: what was run.
        runs: its training runs.
        choices: the evaluated checkpoints, as :func:`reproduce_plan.choose` gives them.
        output: the folder of the runs, with an ``evaluation`` of each group of choices.
        folder: where to write; created if it does not exist.
    """
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = {name: read_evaluation(output / "evaluation" / name / "eval.json") for name in choices}
    models = [
        (choice, next(model for model in evaluations[name]["models"] if model["name"] == choice.name))
        for name, group in choices.items()
        for choice in group
    ]
    evidence = Evidence(plan, runs, models, evaluations["pair"], output)
    _draw(evidence, folder)
    (folder / "results.json").write_text(json.dumps(list(_by_model(evidence)), indent=1) + "\n")
    (folder / "results.md").write_text("\n\n".join(_page(evidence)) + "\n")
    sections = protocol_tables(over_seeds(evidence.evaluation, evidence.arms, evidence.held_out))
    (folder / "tables.md").write_text(markdown(sections))


def at(model: Model, benchmarks: Sequence[str], attempts: int) -> float:
    """A model's accuracy with so many attempts, on the mean of benchmarks."""
    return fmean(model["results"][_ORACLE]["benchmarks"][name]["accuracy"][attempts - 1] for name in benchmarks)


def retries(model: Model, benchmarks: Sequence[str], measure: str) -> float:
    """A measure of second attempts, on the mean of the benchmarks in which there are any; NaN if there are none."""
    found = (model["results"][_ORACLE]["benchmarks"][name]["measures"][measure][1] for name in benchmarks)
    values = [value for value in found if value is not None]
    return fmean(values) if values else nan


def gain(model: Model, benchmarks: Sequence[str]) -> float:
    """What a model's accuracy gains by a second attempt, on the mean of benchmarks."""
    return at(model, benchmarks, 2) - at(model, benchmarks, 1)


def gain_over_questions(models: Sequence[Model], others: Sequence[Model], benchmarks: Sequence[str]) -> Estimate:
    """How much more the models gain by a second attempt than others, with an interval over questions.

    Each model counts the same. The interval is of the questions' differences, as all models have the same questions.
    """

    def gained(some: Sequence[Model], benchmark: str, question: str) -> float:
        rows = [model["scores"][_ORACLE][benchmark][question] for model in some]
        return sum(row[1] - row[0] for row in rows) / len(rows)

    more = {
        benchmark: {
            question: [gained(models, benchmark, question) - (gained(others, benchmark, question) if others else 0.0)]
            for question in models[0]["scores"][_ORACLE][benchmark]
        }
        for benchmark in benchmarks
    }
    most = 2.0 if others else 1.0  # what two of them, of which each gains at most a whole answer, can differ by
    found = accuracy(more, bounds=(-most, most))[MACRO]
    assert found.value[0] is not None  # the evaluation fails where an episode does
    return Estimate(found.value[0], found.low[0], found.high[0])


def _draw(evidence: Evidence, folder: Path) -> None:
    # The baseline at equal tokens is in the tables: its curve would lie on that at equal steps.
    arms = {name: models for name, models in evidence.arms.items() if name != evidence.baselines[1]}
    held_out, harder = (over_seeds(evidence.evaluation, arms, names) for names in evidence.sets.values())
    runs = {
        arm: [run.metrics() for run in evidence.runs if run.arm == arm]
        for arm in (evidence.baselines[0], evidence.method)
    }
    metrics = [series.metric for panel in _PANELS for series in panel.series]
    curves = [(arm, training_over_seeds(seeds, metrics, plots.SMOOTHED_OVER)) for arm, seeds in runs.items()]
    for name, figure in {
        "training": plots.training_curves(curves, _PANELS),
        "accuracy_by_attempts": plots.accuracy_by_attempts(held_out),
        "accuracy_by_kind": plots.accuracy_by_benchmark(held_out),
        "accuracy_on_harder_questions": plots.accuracy_by_attempts(harder),
        "protocols": plots.protocols(held_out),
    }.items():
        figure.savefig(folder / f"{name}.png")


def _by_model(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for choice, model in evidence.models:
        yield {
            **{name: getattr(choice, name) for name in ("arm", "seed", "step", "tokens", "validation")},
            "accuracy": {
                protocol: {name: found["accuracy"] for name, found in results["benchmarks"].items()}
                for protocol, results in model["results"].items()
            },
            "measures": {
                name: found["measures"] for name, found in model["results"][_ORACLE]["benchmarks"].items()
            },
        }  # fmt: skip


def _page(evidence: Evidence) -> Iterator[str]:
    seeds = ", ".join(map(str, evidence.plan["seeds"]))
    yield "# Results of `make reproduce`"
    yield "Written by `launch/reproduce_results.py`; read in [README.md](README.md)."
    yield f"Seeds {seeds}. In brackets: 95% intervals over seeds (Student's t), or where it says so over questions."
    for name, benchmarks in evidence.sets.items():
        yield f"## {name}"
        yield _guessing(evidence, benchmarks)
        yield _arms_table(evidence, benchmarks)
        yield _comparison_table(evidence, benchmarks)
    yield "## Figures"
    yield "Shaded: 95% intervals over seeds."
    for title, name in (
        ("Training, mean of seeds", "training"),
        ("Accuracy by attempts, held-out questions", "accuracy_by_attempts"),
        ("Accuracy by attempts and kind of question, held-out", "accuracy_by_kind"),
        ("Accuracy by attempts, harder questions", "accuracy_on_harder_questions"),
        ("Accuracy by protocol, held-out questions", "protocols"),
    ):
        yield f"![{title}]({name}.png)"
    yield "All protocols and measures, by kind: [tables.md](tables.md). By seed: [results.json](results.json)."
    yield "## Ablations"
    yield (
        f"Seed {evidence.plan['seeds'][0]} only, held-out questions; in brackets: 95% intervals over questions. "
        "Each is trained and evaluated with its own prompts, and chosen by validation as the others are."
    )
    yield _ablations_table(evidence)
    yield "## Mistakes mended"
    yield (
        f"Of {evidence.method}, seed {evidence.plan['seeds'][0]}, greedy, with 2 attempts: of each kind of held-out "
        "question the first, in the order of the file, whose first attempt is wrong and whose second is right."
    )
    yield from _mended(evidence)
    yield "## Runs"
    yield _runs_table(evidence)
    yield "Each is trained by this command (from the root of the checkout, after the toy task was written):"
    yield f"```\n{_commands(evidence)}\n```"


def _guessing(evidence: Evidence, benchmarks: Sequence[str]) -> str:
    file = "hard" if benchmarks[0].startswith(_HARD) else "heldout"
    golds = Counter(question.gold for question in read_questions(evidence.output / "toy" / f"{file}.parquet"))
    answer, times = golds.most_common(1)[0]
    return (
        f"{golds.total()} questions with {len(golds)} different answers. The most frequent ({answer}) is that of "
        f"{_percent(times / golds.total())}: no guess is right more often."
    )


def _arms_table(evidence: Evidence, benchmarks: Sequence[str]) -> str:
    most = evidence.evaluation["attempts"][-1]
    allowed = [*(attempts for attempts in (1, 2, 4) if attempts < most), most]
    rows = []
    for name, models in evidence.arms.items():
        shares = [[at(model, benchmarks, attempts) for model in models] for attempts in allowed]
        shares += [[retries(model, benchmarks, measure) for model in models] for measure in _RETRIES.values()]
        gained = _points(estimate([gain(model, benchmarks) for model in models]))
        rows.append([name, gained, *(_shares(estimate(values)) for values in shares)])
    return _table(["", "points from 1 to 2", *(f"{attempts} att." for attempts in allowed), *_RETRIES], rows)


def _comparison_table(evidence: Evidence, benchmarks: Sequence[str]) -> str:
    rows = []
    for name in evidence.baselines:
        models, others = evidence.arms[evidence.method], evidence.arms[name]
        pairs = list(zip(models, others, strict=True))
        gains = estimate([gain(model, benchmarks) - gain(other, benchmarks) for model, other in pairs])
        first = estimate([at(model, benchmarks, 1) - at(other, benchmarks, 1) for model, other in pairs])
        questions = gain_over_questions(models, others, benchmarks)
        rows.append([f"{evidence.method} against {name}", _points(first), _points(gains), _points(questions)])
    return _table(["points more", "with 1 attempt", "gained from 1 to 2", "the same, over questions"], rows)


def _ablations_table(evidence: Evidence) -> str:
    first, benchmarks = evidence.plan["seeds"][0], evidence.held_out
    names = [START, evidence.baselines[0], evidence.method, *(arm["name"] for arm in evidence.plan["ablations"])]
    shown = {
        name: (choice, model)
        for name in names
        for choice, model in evidence.models
        if name == choice.arm and choice.seed in (first, None)
    }
    most = evidence.evaluation["attempts"][-1]
    rows = []
    for name, (choice, model) in shown.items():
        gained = gain_over_questions([model], [], benchmarks)
        rows.append(
            [
                name,
                str(choice.step),
                *(_percent(at(model, benchmarks, attempts)) for attempts in (1, 2, most)),
                _points(gained),
                *(_percent(retries(model, benchmarks, measure)) for measure in _RETRIES.values()),
            ]
        )
    return _table(["", "step", "1 att.", "2 att.", f"{most} att.", "points from 1 to 2", *_RETRIES], rows)


def _mended(evidence: Evidence) -> Iterator[str]:
    seed = evidence.plan["seeds"][0]
    choice = next(choice for choice, _ in evidence.models if evidence.method == choice.arm and choice.seed == seed)
    file = read_episodes(evidence.output / "evaluation" / "pair" / "episodes.jsonl")
    questions = read_questions(evidence.output / "toy" / "heldout.parquet")
    for benchmark in evidence.held_out:
        keys = (
            EpisodeKey(choice.name, benchmark, question.id, _ORACLE, 2, 0)
            for question in questions
            if question.benchmark == benchmark
        )
        if found := next(filter(_is_mended, map(file.read, keys)), None):
            lines = [f"{message['role']:>9}: {message['content']}" for message in found["messages"]]
            yield "\n".join([f"{benchmark}:", "```", *lines, "```"])
        else:
            yield f"{benchmark}: none."


def _is_mended(episode: Mapping[str, Any]) -> bool:
    return [attempt["correct"] for attempt in episode["attempts"]] == [False, True]


def _runs_table(evidence: Evidence) -> str:
    rows = [
        [
            choice.arm,
            "-" if choice.seed is None else str(choice.seed),
            str(choice.step),
            "-" if choice.validation is None else _percent(choice.validation),
            f"{choice.tokens:,.0f}",
            *(_percent(at(model, evidence.held_out, attempts)) for attempts in (1, 2)),
        ]
        for choice, model in evidence.models
    ]
    return _table(
        ["", "seed", "step chosen", "validation", "tokens generated in training", "1 attempt", "2 attempts"], rows
    )


def _commands(evidence: Evidence) -> str:
    toy = f"toy={evidence.output / 'toy'}"
    return "\n".join(
        shlex.join(training_command(run.output, run.steps, [toy, *run.overrides], CONFIG)) for run in evidence.runs
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    aligned = "|".join(["---", *["--:"] * (len(header) - 1)])
    return "\n".join([f"| {' | '.join(header)} |", f"|{aligned}|", *(f"| {' | '.join(row)} |" for row in rows)])


def _percent(share: float) -> str:
    return "-" if isnan(share) else f"{100 * share:.1f}%"


def _shares(found: Estimate) -> str:
    return _with_interval(found, lambda value: f"{100 * min(max(value, 0.0), 1.0):.1f}%")


def _points(found: Estimate) -> str:
    return _with_interval(found, lambda value: f"{100 * value:+.1f}")


def _with_interval(found: Estimate, show: Callable[[float], str]) -> str:
    if isnan(found.value):
        return "-"
    if found.low is None or found.high is None:
        return show(found.value)
    return f"{show(found.value)} [{show(found.low)}, {show(found.high)}]"
