"""The report of runs: figures, tables and dialogues, as files and on one page that needs nothing else.

What it reads is checked first, so that a mistake is reported with its place instead of ending in a broken page.

    page = write_report(Path("outputs/quickstart"))
    page = write_report(Path("outputs/multi"), Path("outputs/baseline"), output=Path("outputs/compared"))
"""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from matplotlib.figure import Figure

from multi_attempt.evaluation import plots
from multi_attempt.evaluation.benchmark_steps import benchmarks_over_steps, shared_benchmarks
from multi_attempt.evaluation.comparison import Comparison, compare, main_protocol
from multi_attempt.evaluation.dialogues import page_dialogues, to_script
from multi_attempt.evaluation.paper import paper_differences
from multi_attempt.evaluation.run_files import ReportError, Run, read_evaluation, read_metrics, read_run
from multi_attempt.evaluation.tables import (
    ProtocolTables,
    benchmark_groups,
    figures_of,
    in_range,
    interval_of,
    latex,
    markdown,
    protocol_tables,
)

__all__ = ["ReportError", "headline", "read_evaluation", "read_metrics", "write_report"]

_STEPS_IN_WORDS = ("", "step", "two steps", "three steps", "four steps", "five steps")
_ALTERNATIVES = {
    "accuracy_by_attempts": "Accuracy against the attempts allowed, a line for each model with its 95% interval",
    "accuracy_by_benchmark": "Accuracy against the attempts allowed, a panel for each benchmark",
    "protocols": "Accuracy against the attempts allowed under each protocol, a panel for each model",
    "benchmarks_over_steps": "Accuracy on benchmarks over the training steps, by the attempts allowed",
    "training": "Reward, success, first-attempt accuracy, retry success and repeated answers over the training steps",
}


def write_report(*runs: Path, output: Path | None = None) -> Path:
    """Write the report of one run, or of several side by side.

    Args:
        runs: folders with ``metrics.jsonl`` (of training), ``eval.json`` and ``episodes.jsonl`` (of evaluation) or
            both; what is missing is left out of the report.
        output: the folder to write into; by default the first run's.

    Returns:
        The page, ``report.html``. It holds its figures, which are also written beside it as PNG and SVG, and its
        tables, which are also written as ``table.md`` and ``table.tex``.

    Raises:
        ReportError: a run has neither file, a file is malformed, or the runs cannot be compared.
    """
    if not runs:
        raise ReportError("no run to report on")
    read = [read_run(folder) for folder in runs]
    comparison = compare(read)
    evaluation = comparison.evaluation
    folder = output or runs[0]
    folder.mkdir(parents=True, exist_ok=True)
    trained = [(name, run.metrics) for name, run in zip(comparison.runs, read, strict=True) if run.metrics]
    images = {}
    validated = [(name, run.benchmarks) for name, run in zip(comparison.runs, read, strict=True) if run.benchmarks]
    for name, figure in _figures(trained, validated, evaluation):
        _, drawn = plots.save(figure, folder / name)
        images[name] = "data:image/svg+xml;base64," + base64.b64encode(drawn.read_bytes()).decode("ascii")
    tables = protocol_tables(evaluation) if evaluation else []
    if tables:
        (folder / "table.md").write_text(markdown(tables), encoding="utf-8", errors="replace")
        (folder / "table.tex").write_text(latex(tables), encoding="utf-8", errors="replace")
    page = folder / "report.html"
    page.write_text(_page(read, comparison, trained, images, tables), encoding="utf-8", errors="replace")
    return page


def headline(metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None) -> list[str]:
    """What was learned, in a few sentences.

    Args:
        metrics: the training steps in order, or none.
        evaluation: the content of ``eval.json``, or None. Of two models, the first is compared with the second.
    """
    return [*(_accuracy_sentences(evaluation) if evaluation else ()), *_training_sentences(metrics)]


def _figures(
    trained: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    validated: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    evaluation: Mapping[str, Any] | None,
) -> Iterator[tuple[str, Figure]]:
    """The figures there is something to show in, by name."""
    if trained:
        yield "training", plots.training_curves(trained)
    if shared_benchmarks(rows for _, rows in validated):
        yield "benchmarks_over_steps", benchmarks_over_steps(validated)
    if evaluation:
        yield "accuracy_by_attempts", plots.accuracy_by_attempts(evaluation)
        if len(evaluation["benchmarks"]) > 1:
            yield "accuracy_by_benchmark", plots.accuracy_by_benchmark(evaluation)
        if len(evaluation["protocols"]) > 1:
            yield "protocols", plots.protocols(evaluation)


def _page(
    runs: Sequence[Run],
    comparison: Comparison,
    trained: Sequence[tuple[str, Sequence[Mapping[str, Any]]]],
    images: Mapping[str, str],
    tables: Sequence[ProtocolTables],
) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    evaluation = comparison.evaluation
    sentences = list(_accuracy_sentences(evaluation)) if evaluation else []
    for name, metrics in trained:
        sentences += _training_sentences(metrics, f"{name}: " if len(trained) > 1 else "")
    dialogues = page_dialogues(runs, comparison)
    models = dialogues["models"]
    dialogues["colours"] = plots.model_colours(len(models)) if models else []
    return environment.get_template("report.html.j2").render(
        headline=sentences,
        images=images,
        alternatives=_ALTERNATIVES,
        evaluation=evaluation,
        protocol=main_protocol(evaluation) if evaluation else "",
        paper_differences=paper_differences(evaluation, main_protocol(evaluation)) if evaluation else [],
        conditions=comparison.conditions,
        colours=dict(zip(models, dialogues["colours"], strict=True)),
        sections=tables,
        steps=sorted(rows[place]["step"] for _, rows in trained for place in (0, -1)),
        dialogues=dialogues,
        data=Markup(to_script(dialogues)),
    )


def _accuracy_sentences(evaluation: Mapping[str, Any]) -> Iterator[str]:
    protocol, attempts = main_protocol(evaluation), evaluation["attempts"]
    key, words = benchmark_groups(evaluation)[0]
    models = [model for model in evaluation["models"] if protocol in model["results"]]
    figures = [figures_of(model, protocol, key) for model in models]
    ranges = [[*zip(found.value, found.most, strict=True)] for found in map(interval_of, figures)]
    ends = [(found[0], found[-1]) for found in ranges]
    fewest, most = attempts[0], attempts[-1]
    subject = "Accuracy" if len(evaluation["benchmarks"]) == 1 else f"Accuracy, {words},"
    plural = "s" if fewest > 1 else ""

    def percent(ends: _Range) -> str:
        return in_range(*ends, _percent)

    def gained(first: _Range, last: _Range) -> str:
        return in_range(_less(last[0], first[1]), _less(last[1], first[0]), _points)

    if len(models) > 2:
        for model, (first, last) in zip(models, ends, strict=True):
            rest = f", {percent(last)} with {most} ({gained(first, last)} points)" if len(attempts) > 1 else ""
            yield f"{model['name']}: {subject.lower()} {percent(first)} with {fewest} attempt{plural}{rest}"
        return
    firsts, lasts = (" -> ".join(map(percent, values)) for values in zip(*ends, strict=True))
    rest = f"; with {most}: {lasts}" if len(attempts) > 1 else ""
    yield f"{subject} with {fewest} attempt{plural}: {firsts}{rest}"
    if len(attempts) > 1:
        gains = " -> ".join(gained(first, last) for first, last in ends)
        yield f"Points gained by allowing {most} attempts instead of {fewest}: {gains}"


def _training_sentences(metrics: Sequence[Mapping[str, Any]], prefix: str = "") -> Iterator[str]:
    for words, metric, form in (
        ("Reward", "critic/score/mean", ".2f"),
        ("Training episodes solved", "multi_attempt/success", ".1%"),
    ):
        values = [row[metric] for row in metrics if row.get(metric) is not None and not math.isnan(row[metric])]
        if len(values) == 1:
            yield f"{prefix}{words}: {values[0]:{form}} (one step)"
        elif values:
            # No step counts towards both ends, however short the run.
            count = min(5, len(values) // 2)
            first, last = (sum(part) / count for part in (values[:count], values[-count:]))
            steps = _STEPS_IN_WORDS[count]
            yield f"{prefix}{words}: first {steps} {first:{form}} -> last {steps} {last:{form}}"


_Range = tuple["float | None", "float | None"]
"""The least and the most that a value can be."""


def _percent(share: float | None) -> str:
    return "not measured" if share is None else f"{share:.1%}"


def _points(share: float | None) -> str:
    return "not measured" if share is None else f"{100 * share:+.1f}"


def _less(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other
