"""What an experiment found: figures, tables and mended mistakes, as Markdown; each model's figures as JSON."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.figure import Figure
from reproduce_measures import (
    BLIND,
    ORACLE,
    Model,
    after_wrong,
    at,
    first_over_questions,
    gain,
    gain_over_questions,
    percent,
    points,
    retries,
    shares,
    table,
)
from reproduce_plan import EQUAL_TOKENS, Choice, Plan, TrainingRun
from reproduce_sets import QuestionSet
from runs import training_command

from multi_attempt.evaluation import plots
from multi_attempt.evaluation.run_files import EpisodeKey, read_episodes, read_evaluation
from multi_attempt.evaluation.seeds import estimate, over_seeds, training_over_seeds
from multi_attempt.evaluation.tables import markdown, protocol_tables

_RETRIES = {"second att. that repeat": "repeat_rate", "second att. that are right": "wrong_to_right"}


@dataclass(frozen=True)
class Evidence:
    """All that was measured.

    Attributes:
        plan: what is run.
        runs: the training runs that are complete.
        models: each evaluated model with what it stands for.
        evaluation: the ``eval.json`` of the pair.
        sets: the sets of questions.
    """

    plan: Plan
    runs: Sequence[TrainingRun]
    models: Sequence[tuple[Choice, Model]]
    evaluation: Mapping[str, Any]
    sets: Sequence[QuestionSet]

    @property
    def held_out(self) -> list[str]:
        """The kinds of held-out question."""
        return self.sets[0].kinds

    @property
    def seeds(self) -> list[int]:
        """Those of which the results are."""
        return list(dict.fromkeys(run.seed for run in self.runs))

    @property
    def protocols(self) -> list[str]:
        """Those that the pair is evaluated under."""
        return list(self.evaluation["protocols"])

    @property
    def baselines(self) -> tuple[str, str]:
        """The baseline at equal steps and at equal tokens."""
        name = self.plan.baseline["name"]
        return name, f"{name}, {EQUAL_TOKENS}"

    @property
    def method(self) -> str:
        """The name of the method."""
        return str(self.plan.method["name"])

    @property
    def arms(self) -> dict[str, list[Model]]:
        """The start, the baseline twice, and the method, each with a model a seed."""
        return {
            name: [model for choice, model in self.models if name == choice.arm]
            for name in (self.plan.start["name"], *self.baselines, self.method)
        }


def write_results(
    plan: Plan, runs: Sequence[TrainingRun], choices: Mapping[str, Sequence[Choice]], sets: Sequence[QuestionSet]
) -> None:
    """Write ``results.md``, ``tables.md``, ``results.json`` and the figures into the plan's folder of results.

    Args:
        plan: what is run; its folder of runs has an ``evaluation`` of each group of choices.
        runs: the training runs that are complete.
        choices: the evaluated checkpoints, as :func:`reproduce_plan.choose` gives them.
        sets: the sets of questions.
    """
    folder = plan.results
    folder.mkdir(parents=True, exist_ok=True)
    evaluations = {name: read_evaluation(plan.output / "evaluation" / name / "eval.json") for name in choices}
    models = [
        (choice, next(model for model in evaluations[name]["models"] if model["name"] == choice.name))
        for name, group in choices.items()
        for choice in group
    ]
    evidence = Evidence(plan, runs, models, evaluations["pair"], sets)
    figures = list(_figures(evidence))
    for _, name, figure in figures:
        figure.savefig(folder / f"{name}.png")
    (folder / "results.json").write_text(json.dumps(list(_by_model(evidence)), indent=1) + "\n")
    (folder / "results.md").write_text("\n\n".join(_page(evidence, figures)) + "\n")
    sections = protocol_tables(over_seeds(evidence.evaluation, evidence.arms, evidence.held_out))
    (folder / "tables.md").write_text(markdown(sections))


class _Drawn(NamedTuple):
    """A figure, with its title and the name of its file."""

    title: str
    name: str
    figure: Figure


def _figures(evidence: Evidence) -> Iterator[_Drawn]:
    yield _Drawn("Training, mean of seeds", "training", _training(evidence))
    # The baseline at equal tokens is in the tables: its curve would lie on that at equal steps.
    arms = {name: models for name, models in evidence.arms.items() if name != evidence.baselines[1]}
    first, *others = ((each, over_seeds(evidence.evaluation, arms, each.kinds)) for each in evidence.sets)
    title = first[0].title.lower()
    yield _Drawn(f"Accuracy by attempts, {title}", "accuracy_by_attempts", plots.accuracy_by_attempts(first[1]))
    yield _Drawn(f"Accuracy by attempts and kind, {title}", "accuracy_by_kind", plots.accuracy_by_benchmark(first[1]))
    for each, content in others:
        name = re.sub(r"\W+", "_", each.title.lower())
        yield _Drawn(
            f"Accuracy by attempts, {each.title.lower()}", f"accuracy_on_{name}", plots.accuracy_by_attempts(content)
        )
    yield _Drawn(f"Accuracy by protocol, {title}", "protocols", plots.protocols(first[1]))


def _training(evidence: Evidence) -> Figure:
    validation = f"val-core/{evidence.plan.task_name}_1_attempts/acc/mean@1"
    panels = (
        *plots.PANELS,
        plots.Panel("Validation", True, (plots.Series(validation, "greedy, with 1 attempt", plots.STRONG[0]),)),
    )
    metrics = [series.metric for panel in panels for series in panel.series]
    curves = []
    for arm in (evidence.baselines[0], evidence.method):
        seeds = [run.metrics() for run in evidence.runs if run.arm == arm]
        curves.append((arm, training_over_seeds(seeds, metrics, plots.SMOOTHED_OVER)))
    return plots.training_curves(curves, panels)


def _by_model(evidence: Evidence) -> Iterator[dict[str, Any]]:
    for choice, model in evidence.models:
        yield {
            **{name: getattr(choice, name) for name in ("arm", "seed", "step", "tokens", "validation")},
            "accuracy": {
                protocol: {name: found["accuracy"] for name, found in results["benchmarks"].items()}
                for protocol, results in model["results"].items()
            },
            "measures": {
                name: found["measures"] for name, found in model["results"][ORACLE]["benchmarks"].items()
            },
        }  # fmt: skip


def _page(evidence: Evidence, figures: Sequence[_Drawn]) -> Iterator[str]:
    plan = evidence.plan
    yield f"# Results of `{plan.command}`"
    yield "Written by `launch/reproduce_results.py`; read in [README.md](README.md)."
    yield (
        f"{_seeds_in_words(evidence)} In brackets: 95% intervals over seeds (Student's t), or where it says so over "
        "questions."
    )
    for each in evidence.sets:
        yield f"## {each.title}"
        yield from _set_tables(evidence, each)
    yield "## Figures"
    yield "Shaded: 95% intervals over seeds."
    for title, name, _ in figures:
        yield f"![{title}]({name}.png)"
    yield "All protocols and measures, by kind: [tables.md](tables.md). By seed: [results.json](results.json)."
    if any(run.arm not in plan.pair for run in evidence.runs):
        yield "## Ablations"
        yield (
            f"Seed {plan.seeds[0]} only, held-out questions; in brackets: 95% intervals over questions. "
            "Each is trained and evaluated with its own prompts, and chosen by validation as the others are."
        )
        yield _ablations_table(evidence)
    yield "## Mistakes mended"
    yield (
        f"Of {evidence.method}, seed {evidence.seeds[0]}, greedy, with 2 attempts: of each kind of held-out "
        "question the first, in the order of the file, whose first attempt is wrong and whose second is right."
    )
    yield from _mended(evidence)
    yield "## Runs"
    yield _runs_table(evidence)
    yield "Each is trained by this command (from the root of the checkout, after questions and model were written):"
    yield f"```\n{_commands(evidence)}\n```"


def _seeds_in_words(evidence: Evidence) -> str:
    done, planned = evidence.seeds, evidence.plan.seeds
    words = f"Training with seed {', '.join(map(str, done))}"
    return f"{words}." if len(done) == len(planned) else f"{words}: {len(done)} of the {len(planned)} planned so far."


def _set_tables(evidence: Evidence, each: QuestionSet) -> Iterator[str]:
    yield _guessing(each)
    yield _arms_table(evidence, each.kinds)
    yield _comparison_table(evidence, each.kinds)
    if BLIND in evidence.protocols:
        yield "Points gained from 1 to 2 attempts, told that the first is wrong (oracle) and told nothing (blind):"
        yield _told_table(evidence, each.kinds)
        yield "What second attempts come to, of those after a wrong one, and when not told also after a right one:"
        yield _second_attempts_table(evidence, each.kinds)
    yield "By attempts and protocol:"
    yield _protocols_table(evidence, each.kinds)
    yield "By kind, with 1 and 2 attempts (oracle):"
    yield _kinds_table(evidence, each.kinds)


def _guessing(each: QuestionSet) -> str:
    golds = Counter(question.gold for question in each.questions)
    answer, times = golds.most_common(1)[0]
    return (
        f"{golds.total()} questions with {len(golds)} different answers. The most frequent ({answer}) is that of "
        f"{percent(times / golds.total())}: no guess is right more often."
    )


def _arms_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    most = evidence.evaluation["attempts"][-1]
    allowed = [*(attempts for attempts in (1, 2, 4) if attempts < most), most]
    rows = []
    for name, models in evidence.arms.items():
        columns = [[at(model, kinds, attempts) for model in models] for attempts in allowed]
        columns += [[retries(model, kinds, measure) for model in models] for measure in _RETRIES.values()]
        gained = points(estimate([gain(model, kinds) for model in models]))
        rows.append([name, gained, *(shares(estimate(values)) for values in columns)])
    return table(["", "points from 1 to 2", *(f"{attempts} att." for attempts in allowed), *_RETRIES], rows)


def _comparison_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    rows = []
    for name in evidence.baselines:
        models, others = evidence.arms[evidence.method], evidence.arms[name]
        pairs = list(zip(models, others, strict=True))
        gains = estimate([gain(model, kinds) - gain(other, kinds) for model, other in pairs])
        first = estimate([at(model, kinds, 1) - at(other, kinds, 1) for model, other in pairs])
        questions = first_over_questions(models, others, kinds), gain_over_questions(models, others, kinds)
        found = (first, questions[0], gains, questions[1])
        rows.append([f"{evidence.method} against {name}", *map(points, found)])
    again = "the same, over questions"
    return table(["points more", "with 1 attempt", again, "gained from 1 to 2", again], rows)


def _told_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    rows = []
    for name, models in evidence.arms.items():
        told, blind = ([gain(model, kinds, protocol) for model in models] for protocol in (ORACLE, BLIND))
        more = estimate([one - other for one, other in zip(told, blind, strict=True)])
        questions = gain_over_questions(models, models, kinds, BLIND)
        rows.append([name, *map(points, (estimate(told), estimate(blind), more, questions))])
    return table(["", "told", "not told", "told more", "the same, over questions"], rows)


def _second_attempts_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    rows = []
    for name, models in evidence.arms.items():
        columns = [
            [
                *after_wrong(model, kinds),
                *after_wrong(model, kinds, BLIND),
                retries(model, kinds, "right_to_wrong", BLIND),
            ]
            for model in models
        ]
        rows.append([name, *(shares(estimate(values)) for values in zip(*columns, strict=True))])
    after = ("right", "the same", "otherwise wrong")
    header = [*(f"told: {words}" for words in after), *(f"not told: {words}" for words in after)]
    return table(["", *header, "not told: right, then wrong"], rows)


def _protocols_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    allowed = evidence.evaluation["attempts"]
    rows = [
        [
            name,
            protocol,
            *(percent(fmean(at(model, kinds, attempts, protocol) for model in models)) for attempts in allowed),
        ]
        for name, models in evidence.arms.items()
        for protocol in evidence.protocols
    ]
    return table(["", "protocol", *map(str, allowed)], rows)


def _kinds_table(evidence: Evidence, kinds: Sequence[str]) -> str:
    rows = []
    for kind in kinds:
        columns = [
            " / ".join(percent(fmean(at(model, [kind], attempts) for model in models)) for attempts in (1, 2))
            for models in evidence.arms.values()
        ]
        rows.append([kind, *columns])
    return table(["", *evidence.arms], rows)


def _ablations_table(evidence: Evidence) -> str:
    plan, benchmarks = evidence.plan, evidence.held_out
    first, ablations = plan.seeds[0], (arm["name"] for arm in plan.ablations)
    names = [plan.start["name"], evidence.baselines[0], evidence.method, *ablations]
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
                *(percent(at(model, benchmarks, attempts)) for attempts in (1, 2, most)),
                points(gained),
                *(percent(retries(model, benchmarks, measure)) for measure in _RETRIES.values()),
            ]
        )
    return table(["", "step", "1 att.", "2 att.", f"{most} att.", "points from 1 to 2", *_RETRIES], rows)


def _mended(evidence: Evidence) -> Iterator[str]:
    seed = evidence.seeds[0]
    choice = next(choice for choice, _ in evidence.models if evidence.method == choice.arm and choice.seed == seed)
    file = read_episodes(evidence.plan.output / "evaluation" / "pair" / "episodes.jsonl")
    for benchmark in evidence.held_out:
        keys = (
            EpisodeKey(choice.name, benchmark, question.id, ORACLE, 2, 0)
            for question in evidence.sets[0].questions
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
            "-" if choice.validation is None else percent(choice.validation),
            f"{choice.tokens:,.0f}",
            *(percent(at(model, evidence.held_out, attempts)) for attempts in (1, 2)),
        ]
        for choice, model in evidence.models
    ]
    return table(
        ["", "seed", "step chosen", "validation", "tokens generated in training", "1 attempt", "2 attempts"], rows
    )


def _commands(evidence: Evidence) -> str:
    places, config = evidence.plan.places(), evidence.plan.config
    return "\n".join(
        shlex.join(training_command(run.output, run.steps, [*places, *run.overrides], config)) for run in evidence.runs
    )
