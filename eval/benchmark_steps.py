"""Accuracy on benchmarks over the steps of training, from what verl logged.

Rows are those of :func:`multi_attempt.evaluation.run_files.read_benchmarks`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from multi_attempt.data import evaluation_source, read_evaluation_source
from multi_attempt.evaluation import drawing
from multi_attempt.evaluation.drawing import LEGEND_ROW, SMOOTHED_OVER, STRONG, Line

Rows = Sequence[Mapping[str, Any]]


class StepCurve(NamedTuple):
    """Accuracies by training step, where they were measured."""

    steps: list[float]
    accuracies: list[float]


def shared_benchmarks(runs: Iterable[Rows]) -> dict[int, list[str]]:
    """The benchmarks that all runs were validated on, in the order of the first run's log, by the attempts allowed.

    The numbers of attempts rise; those with no benchmark are left out.
    """
    measured = [dict.fromkeys(name for row in rows for name in row if read_evaluation_source(name)) for rows in runs]
    shared: dict[int, list[str]] = {}
    for data_source in measured[0] if measured else ():
        found = read_evaluation_source(data_source)
        if found and all(data_source in others for others in measured):
            shared.setdefault(found[1], []).append(found[0])
    return dict(sorted(shared.items()))


def step_curve(rows: Rows, benchmarks: Sequence[str], attempts: int) -> StepCurve:
    """The mean accuracy over benchmarks with so many attempts, at the steps at which all of them were measured."""
    names = [evaluation_source(benchmark, attempts) for benchmark in benchmarks]
    whole = [row for row in rows if all(row.get(name) is not None for name in names)]
    return StepCurve([row["step"] for row in whole], [fmean(row[name] for name in names) for row in whole])


def benchmarks_over_steps(runs: Sequence[tuple[str, Rows]]) -> Figure:
    """Draw accuracy on benchmarks over the training steps.

    Args:
        runs: the name of one run or several, and what verl logged of the benchmarks
            (:func:`multi_attempt.evaluation.run_files.read_benchmarks`); all have some in common. Of one, the mean and
            each benchmark have a panel with a line for each number of attempts; of several, each number of attempts has
            a panel with a line for the mean of each run.
    """
    shared = shared_benchmarks(rows for _, rows in runs)
    panels = _panels_of_runs(runs, shared) if len(runs) > 1 else _panels_of_run(runs[0][1], shared)
    names = list(dict.fromkeys(line.name for panel in panels for line, _ in panel.lines))
    colours = {line.name: line.colour for panel in panels for line, _ in panel.lines}
    _, rows = drawing.legend_shape(names, drawing.panels_width(len(panels), 0.6))
    figure, axes = drawing.panels(len(panels), top=0.78 + LEGEND_ROW * rows, right=0.6, below="training step")
    limits = [drawing.limits([line for line, _ in panel.lines]) for panel in panels]
    span = max(high - low for low, high in limits)
    for place, panel in zip(axes, panels, strict=True):
        _draw_steps(place, panel.lines, span)
        lines = [line for line, _ in panel.lines]
        drawing.end_labels(place, lines, [drawing.share(line) for line in lines], 2.0)
        drawing.panel_title(place, panel.title, panel.subtitle)
    drawing.legend(figure, [(name, colours[name]) for name in names])
    note = "They have no say in which model is kept as the best. All panels have the same scale."
    drawing.headings(figure, "Accuracy on benchmarks during training", note)
    return figure


class _StepPanel(NamedTuple):
    """A panel over the training steps: its lines, each with the steps of its values."""

    title: str
    subtitle: str
    lines: list[tuple[Line, Sequence[float]]]


def _panels_of_run(rows: Rows, shared: Mapping[int, Sequence[str]]) -> list[_StepPanel]:
    """The mean of the benchmarks that have all numbers of attempts, and each benchmark."""
    colours = {attempts: STRONG[index % len(STRONG)] for index, attempts in enumerate(shared)}
    benchmarks = list(dict.fromkeys(name for names in shared.values() for name in names))
    common = [name for name in benchmarks if all(name in names for names in shared.values())]
    groups = [("mean", f"{len(common)} benchmarks", common)] if len(common) > 1 else []
    return [
        _StepPanel(
            title,
            subtitle,
            [
                _step_line(_attempts(attempts), colour, step_curve(rows, group, attempts))
                for attempts, colour in colours.items()
                if set(group) <= set(shared[attempts])
            ],
        )
        for title, subtitle, group in (*groups, *((name, "", [name]) for name in benchmarks))
    ]


def _panels_of_runs(runs: Sequence[tuple[str, Rows]], shared: Mapping[int, Sequence[str]]) -> list[_StepPanel]:
    colours = [STRONG[index % len(STRONG)] for index in range(len(runs))]
    return [
        _StepPanel(
            _attempts(attempts),
            group[0] if len(group) == 1 else f"mean of {len(group)}",
            [
                _step_line(name, colour, step_curve(rows, group, attempts))
                for (name, rows), colour in zip(runs, colours, strict=True)
            ],
        )
        for attempts, group in shared.items()
    ]


def _step_line(name: str, colour: str, curve: StepCurve) -> tuple[Line, Sequence[float]]:
    return Line(name, colour, curve.accuracies), curve.steps


def _attempts(number: int) -> str:
    return f"{number} attempt{'s' if number > 1 else ''}"


def _draw_steps(axes: Axes, lines: Sequence[tuple[Line, Sequence[float]]], span: float) -> None:
    drawing.share_axis(axes, *drawing.limits([line for line, _ in lines], span))
    for line, steps in lines:
        marker = "o" if len(steps) < 3 * SMOOTHED_OVER else None  # a value without neighbours shows no line
        values = [drawing.number(value) for value in line.values]
        axes.plot(steps, values, color=line.colour, linewidth=1.5, marker=marker, markersize=3.5, clip_on=False)
    ends = [steps[place] for _, steps in lines if steps for place in (0, -1)] or [0.0]
    margin = max(0.5, 0.04 * (max(ends) - min(ends)))
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.xaxis.set_major_locator(FixedLocator(ends[:1]) if len(set(ends)) == 1 else MaxNLocator(5, integer=True))
