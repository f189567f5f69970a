"""The figures of a report. They use no global state of matplotlib.

save(training_curves([("", metrics)]), Path("outputs/quickstart/training"))     # training.png and training.svg
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from multi_attempt.evaluation import drawing
from multi_attempt.evaluation.comparison import main_protocol
from multi_attempt.evaluation.drawing import FAINT, INK, LEGEND_ROW, MUTED, SMOOTHED_OVER, STRONG, Line, save
from multi_attempt.evaluation.paper import paper_curves
from multi_attempt.evaluation.seeds import HIGH, LOW
from multi_attempt.evaluation.statistics import MACRO
from multi_attempt.evaluation.tables import benchmark_groups, figures_of, interval_of

__all__ = [
    "PANELS",
    "SMOOTHED_OVER",
    "STRONG",
    "Panel",
    "Series",
    "accuracy_by_attempts",
    "accuracy_by_benchmark",
    "model_colours",
    "protocols",
    "save",
    "training_curves",
]

PROTOCOL_COLOURS = {
    "oracle": STRONG[0],
    "single-run": STRONG[1],
    "blind": STRONG[2],
    "shuffled": FAINT,
    "independent": MUTED,
    "majority": STRONG[3],
}
PAPER_COLOURS = ("#3D4754", "#8C95A2")


class Series(NamedTuple):
    """One line of a training panel: the metric, its name in words and its colour."""

    metric: str
    label: str
    colour: str


class Panel(NamedTuple):
    """One panel of the training figure; ``rate`` says that its values are shares, drawn from 0% to 100%."""

    title: str
    rate: bool
    series: tuple[Series, ...]


PANELS = (
    Panel("Reward", False, (Series("critic/score/mean", "mean over episodes", STRONG[0]),)),
    Panel(
        "Correct answers",
        True,
        (
            Series("multi_attempt/success", "within the attempts allowed", STRONG[0]),
            Series("multi_attempt/first_attempt_accuracy", "at the first attempt", STRONG[1]),
        ),
    ),
    Panel(
        "Attempts after a failure",
        True,
        (
            Series("multi_attempt/retry_success", "correct", STRONG[0]),
            Series("multi_attempt/repeat_rate", "repeat a wrong answer", STRONG[1]),
        ),
    ),
)
"""What :func:`training_curves` shows."""


def training_curves(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], panels: Sequence[Panel] = PANELS
) -> Figure:
    """Draw reward and rates over the training steps.

    Args:
        runs: the name and the steps of one run or several; a step has ``step`` and metrics, of which null leaves a gap;
            one that a step lacks was not measured there. Of several, each metric has a panel with a line for each run.
            An interval that goes with a metric (:func:`multi_attempt.evaluation.seeds.training_over_seeds`) is shaded.
        panels: what to show.
    """
    steps = max(len(metrics) for _, metrics in runs)
    smooth = steps >= 3 * SMOOTHED_OVER
    if len(runs) == 1:
        figure = drawing.new_figure(10.0, 3.5)
        grid = figure.add_gridspec(1, len(panels), left=0.055, right=0.985, top=0.66, bottom=0.135, wspace=0.22)
        for column, panel in enumerate(panels):
            lines = [(runs[0][1], series) for series in panel.series]
            _training_panel(figure.add_subplot(grid[0, column]), panel.title, panel.rate, lines, smooth)
        _legend_in_panels(figure)
    else:
        figure = _training_of_several(runs, panels, smooth)
    note = (
        f"Thin lines: each step. Thick lines: mean over {SMOOTHED_OVER} steps."
        if smooth
        else "One point for each step."
    )
    top = 1 - 0.15 / figure.get_figheight()
    figure.text(
        0.012, top, "Reward and correctness during training", fontsize=13, fontweight="bold", color=INK, va="top"
    )
    figure.text(0.988, top - 0.04 / figure.get_figheight(), note, fontsize=8.5, color=FAINT, va="top", ha="right")
    return figure


def accuracy_by_attempts(evaluation: Mapping[str, Any]) -> Figure:
    """Draw accuracy against the attempts allowed: of each model with its 95% interval, and of the paper if comparable.

    Args:
        evaluation: the content of ``eval.json``. With several models, the first is drawn muted: the one compared with.
    """
    protocol = main_protocol(evaluation)
    drawn = _model_lines(evaluation, protocol, benchmark_groups(evaluation)[0][0])
    paper = paper_curves(evaluation, protocol)
    lines = [
        *drawn,
        *(
            Line(name, colour, values, dotted=True)
            for (name, values), colour in zip(paper.items(), PAPER_COLOURS, strict=False)
        ),
    ]
    labels = [_label(line) for line in lines]
    # As high as the labels need, one above another.
    inches = max(2.94, sum(0.16 * (label.count("\n") + 1) + 0.09 for label in labels))
    height = inches + 1.3
    figure = drawing.new_figure(7.0, height)
    axes = figure.add_axes((0.085, 0.55 / height, 0.69, inches / height))
    _draw(axes, evaluation["attempts"], lines)
    drawing.end_labels(axes, lines, labels, inches)
    axes.set_xlabel("attempts allowed", color=FAINT, fontsize=9.5)
    questions = sum(benchmark["questions"] for benchmark in evaluation["benchmarks"])
    count = len(evaluation["benchmarks"])
    of = f"Mean of {count} benchmarks, {questions:,} questions" if count > 1 else f"Share of {questions:,} questions"
    dotted = ", dotted: the paper" if paper else ""
    bars = (
        ", bars: to where all that failed were right" if any([*line.most] != [*line.values] for line in drawn) else ""
    )
    drawing.headings(
        figure, "Accuracy by attempts allowed", f"{of}, protocol {protocol}. Shaded: 95% intervals{dotted}{bars}."
    )
    return figure


def accuracy_by_benchmark(evaluation: Mapping[str, Any]) -> Figure:
    """Draw accuracy against the attempts allowed in a panel for each benchmark, as :func:`accuracy_by_attempts`."""
    protocol = main_protocol(evaluation)
    panels = [
        (
            benchmark["name"],
            f"{benchmark['questions']} questions",
            _model_lines(evaluation, protocol, benchmark["name"]),
        )
        for benchmark in evaluation["benchmarks"]
    ]
    names = [line.name for line in panels[0][2]]
    _, rows = drawing.legend_shape(names, drawing.panels_width(len(panels), 0.6))
    figure, axes = drawing.panels(len(panels), top=0.78 + LEGEND_ROW * rows, right=0.6)
    span = max(drawing.limits(lines)[1] - drawing.limits(lines)[0] for _, _, lines in panels)
    for place, (title, subtitle, lines) in zip(axes, panels, strict=True):
        _draw(place, evaluation["attempts"], lines, span, shade=0.12)
        drawing.end_labels(place, lines, [drawing.share(line) for line in lines], 2.0)
        drawing.panel_title(place, title, subtitle)
    drawing.legend(figure, [(line.name, line.colour) for line in panels[0][2]])
    note = (
        f"Protocol: {protocol}. Shaded: 95% intervals. The panels begin at different heights but have the same scale."
    )
    drawing.headings(figure, "Accuracy by benchmark", note)
    return figure


def protocols(evaluation: Mapping[str, Any]) -> Figure:
    """Draw accuracy against the attempts allowed under each protocol, in a panel for each model."""
    key = benchmark_groups(evaluation)[0][0]
    panels = []
    for model in evaluation["models"]:
        lines = []
        for index, protocol in enumerate(name for name in evaluation["protocols"] if name in model["results"]):
            colour = PROTOCOL_COLOURS.get(protocol, STRONG[index % len(STRONG)])
            figures = figures_of(model, protocol, key)
            lines.append(_line(protocol, colour, figures))
        panels.append((model["name"], lines))
    figure, axes = drawing.panels(len(panels), top=0.65, right=1.4)
    limits = drawing.limits([line for _, lines in panels for line in lines])
    for place, (title, lines) in zip(axes, panels, strict=True):
        _draw(place, evaluation["attempts"], lines, limits=limits, shade=0.09)
        drawing.end_labels(place, lines, [f"{drawing.share(line)} {line.name}" for line in lines], 2.0)
        drawing.panel_title(place, title, "")
    what = "mean of benchmarks" if key == MACRO else key
    note = f"Accuracy ({what}) by attempts allowed. What the model is told differs. Shaded: 95% intervals."
    drawing.headings(figure, "Accuracy by protocol", note)
    return figure


def model_colours(count: int) -> list[str]:
    """A colour for each of some models: the first muted where there are others to stand out against it."""
    if count == 1:
        return [STRONG[0]]
    return [MUTED, *(STRONG[index % len(STRONG)] for index in range(count - 1))]


def _model_lines(evaluation: Mapping[str, Any], protocol: str, group: str) -> list[Line]:
    models = evaluation["models"]
    return [
        _line(model["name"], colour, figures_of(model, protocol, group))
        for model, colour in zip(models, model_colours(len(models)), strict=True)
        if protocol in model["results"]
    ]


def _line(name: str, colour: str, figures: Mapping[str, Any]) -> Line:
    interval = interval_of(figures)
    return Line(name, colour, interval.value, interval.low, interval.high, most=interval.most)


def _draw(
    axes: Axes,
    attempts: Sequence[int],
    lines: Sequence[Line],
    span: float = 0.0,
    limits: tuple[float, float] | None = None,
    shade: float = 0.18,
) -> None:
    """Draw lines with their intervals, on an axis of at least this span."""
    drawing.share_axis(axes, *(limits or drawing.limits(lines, span)))
    for index, line in enumerate(lines):
        values = [drawing.number(value) for value in line.values]
        places: Sequence[float] = attempts
        if len(attempts) == 1:
            # A band has no width over a single number of attempts, and bars at the same place would hide each other.
            places = [attempts[0] + 0.15 * (index - (len(lines) - 1) / 2)]
        if line.low:
            band = [[drawing.number(value) for value in edge] for edge in (line.low, line.high)]
            if len(attempts) == 1:
                axes.vlines(places, band[0], band[1], color=line.colour, alpha=0.35, linewidth=6)
            axes.fill_between(places, band[0], band[1], color=line.colour, alpha=shade, linewidth=0)
        if line.most:
            axes.vlines(
                places, values, [drawing.number(value) for value in line.most], color=line.colour, linewidth=1.6
            )
        axes.plot(
            places, values, color=line.colour, linewidth=1.6 if line.dotted else 2.2, marker="o",
            linestyle=(0, (1, 1.6)) if line.dotted else "-", markersize=3.5 if line.dotted else 5.5,
            markeredgecolor="white", markeredgewidth=0.5 if line.dotted else 1, clip_on=False, zorder=3,
        )  # fmt: skip
    axes.set_xticks(attempts if len(attempts) <= 12 else attempts[:: math.ceil(len(attempts) / 12)])
    margin = 0.12 if len(attempts) > 1 else 1
    axes.set_xlim(attempts[0] - margin, attempts[-1] + margin)


def _label(line: Line) -> str:
    return f"{drawing.share(line)}\n{drawing.fitted(line.name, 17, 2)}"


def _training_of_several(
    runs: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], panels: Sequence[Panel], smooth: bool
) -> Figure:
    """A panel for each metric, with a line for each run."""
    shown = [(panel, series) for panel in panels for series in panel.series]
    colours = [STRONG[index % len(STRONG)] for index in range(len(runs))]
    _, rows = drawing.legend_shape([name for name, _ in runs], 10.0)
    height = 6.25 + LEGEND_ROW * rows
    figure = drawing.new_figure(10.0, height)
    top = 1 - (1.2 + LEGEND_ROW * rows) / height
    grid = figure.add_gridspec(2, 3, left=0.055, right=0.985, top=top, bottom=0.5 / height, wspace=0.22, hspace=0.56)
    for index, (panel, series) in enumerate(shown):
        lines = [
            (metrics, Series(series.metric, name, colour))
            for (name, metrics), colour in zip(runs, colours, strict=True)
        ]  # fmt: skip
        axes = figure.add_subplot(grid[divmod(index, 3)])
        _training_panel(axes, panel.title, panel.rate, lines, smooth)
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=24)
        axes.annotate(
            series.label, xy=(0, 1), xycoords="axes fraction", xytext=(0, 10), textcoords="offset points",
            fontsize=9, color=FAINT,
        )  # fmt: skip
    drawing.legend(figure, list(zip((name for name, _ in runs), colours, strict=True)))
    return figure


def _training_panel(
    axes: Axes,
    title: str,
    rate: bool,
    lines: Sequence[tuple[Sequence[Mapping[str, Any]], Series]],
    smooth: bool,
) -> None:
    drawing.clean(axes)
    for metrics, series in lines:
        measured = [row for row in metrics if series.metric in row]
        steps = [row["step"] for row in measured]
        values = [drawing.number(row[series.metric]) for row in measured]
        low, high = ([drawing.number(row.get(f"{series.metric}:{end}")) for row in measured] for end in (LOW, HIGH))
        axes.fill_between(steps, low, high, color=series.colour, alpha=0.15, linewidth=0)
        # A marker keeps a value without neighbours visible, which a line alone would not show.
        smoothed = smooth and len(measured) >= 3 * SMOOTHED_OVER
        marker = None if smoothed else "o"
        if smoothed:
            axes.plot(steps, values, color=series.colour, linewidth=0.8, alpha=0.3, clip_on=False)
            values = _moving_mean(values, SMOOTHED_OVER)
        axes.plot(
            steps, values, color=series.colour, linewidth=2, marker=marker, markersize=3.5, label=series.label,
            clip_on=not rate, solid_capstyle="round",
        )  # fmt: skip
    if rate:
        axes.set_ylim(0, 1)
        axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    # Given, since an axis has no limits of its own where no value is.
    ends = [metrics[place]["step"] for metrics, _ in lines for place in (0, -1)]
    margin = max(0.5, 0.04 * (max(ends) - min(ends)))
    axes.set_xlim(min(ends) - margin, max(ends) + margin)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.set_xlabel("training step", color=FAINT, fontsize=9)
    axes.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=10)


def _legend_in_panels(figure: Figure) -> None:
    for axes in figure.axes:
        axes.set_title(axes.get_title(loc="left"), loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=34)
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, 1.215), frameon=False, fontsize=8.5, handlelength=1.2,
            borderaxespad=0.2, labelspacing=0.25, labelcolor="linecolor",
        )  # fmt: skip
        for handle in legend.get_lines():
            handle.set_marker("")


def _moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the values around each, as many as there are; a gap stays a gap."""
    means = []
    for index, value in enumerate(values):
        around = [other for other in values[max(0, index - width // 2) : index + width // 2 + 1] if other == other]
        means.append(sum(around) / len(around) if value == value else math.nan)
    return means
