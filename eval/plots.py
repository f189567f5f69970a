"""The two figures of a run, as PNG files. They use no global state of matplotlib."""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

# From Okabe and Ito's palette, which colour-blind readers can tell apart; muted is for what came before.
MUTED = "#737C8A"
STRONG = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK = "#1F2933"
FAINT = "#667080"
GRID = "#E6E9EE"

SMOOTHED_OVER = 5
"""Steps in the moving mean of the training curves."""


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


def training_curves(metrics: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw reward and rates over the training steps.

    Args:
        metrics: one mapping a step, with ``step`` and the metrics of ``PANELS``; null or missing values leave a gap.
        path: the PNG file to write.
    """
    steps = [row["step"] for row in metrics]
    smooth = len(steps) >= 3 * SMOOTHED_OVER
    figure = _figure(10.0, 3.3)
    grid = figure.add_gridspec(1, len(PANELS), left=0.055, right=0.985, top=0.70, bottom=0.145, wspace=0.22)
    for column, panel in enumerate(PANELS):
        axes = figure.add_subplot(grid[0, column])
        _clean(axes)
        for series in panel.series:
            values = [_number(row.get(series.metric)) for row in metrics]
            # A marker keeps a value without neighbours visible, which a line alone would not show.
            marker = "o" if len(steps) < 3 * SMOOTHED_OVER else None
            if smooth:
                axes.plot(steps, values, color=series.colour, linewidth=0.8, alpha=0.3, clip_on=False)
                values = _moving_mean(values, SMOOTHED_OVER)
            axes.plot(
                steps, values, color=series.colour, linewidth=2, marker=marker, markersize=3.5, label=series.label,
                clip_on=not panel.rate, solid_capstyle="round",
            )  # fmt: skip
        if panel.rate:
            _percent_axis(axes)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlabel("training step", color=FAINT, fontsize=9)
        axes.set_title(panel.title, loc="left", fontsize=10.5, fontweight="bold", color=INK, pad=34)
        legend = axes.legend(
            loc="upper left", bbox_to_anchor=(-0.02, 1.215), frameon=False, fontsize=8.5, handlelength=1.2,
            borderaxespad=0.2, labelspacing=0.25, labelcolor="linecolor",
        )  # fmt: skip
        for handle in legend.get_lines():
            handle.set_marker("")
    note = (
        f"Thin lines: each step. Thick lines: mean over {SMOOTHED_OVER} steps."
        if smooth
        else "One point for each step."
    )
    figure.text(
        0.012, 0.955, "Reward and correctness during training", fontsize=13, fontweight="bold", color=INK, va="center"
    )
    figure.text(0.988, 0.955, note, fontsize=8.5, color=FAINT, va="center", ha="right")
    figure.savefig(path)


def accuracy_by_attempts(evaluation: Mapping[str, Any], path: Path) -> None:
    """Draw accuracy against the attempts allowed, a line for each model with its 95% interval shaded.

    Args:
        evaluation: the content of ``eval.json``. With several models, the first is drawn muted: the one compared with.
        path: the PNG file to write.
    """
    attempts = evaluation["attempts"]
    models = evaluation["models"]
    figure = _figure(7.0, 4.2)
    axes = figure.add_axes((0.085, 0.125, 0.69, 0.70))
    _clean(axes)
    _percent_axis(axes)
    colours = model_colours(len(models))
    for index, (model, colour) in enumerate(zip(models, colours, strict=True)):
        places = attempts
        if len(attempts) == 1:
            # A band has no width over a single number of attempts, and bars at the same place would hide each other.
            places = [attempts[0] + 0.15 * (index - (len(models) - 1) / 2)]
            axes.vlines(places, model["low"], model["high"], color=colour, alpha=0.35, linewidth=6)
        axes.fill_between(places, model["low"], model["high"], color=colour, alpha=0.18, linewidth=0)
        axes.plot(
            places, model["accuracy"], color=colour, linewidth=2.2, marker="o", markersize=5.5,
            markeredgecolor="white", markeredgewidth=1, clip_on=False, zorder=3,
        )  # fmt: skip
    labels = [
        f"{model['accuracy'][-1]:.0%}\n{textwrap.fill(model['name'], 17, max_lines=2, placeholder='...')}"
        for model in models
    ]
    lines = max(label.count("\n") + 1 for label in labels)
    heights = _spread([model["accuracy"][-1] for model in models], least=0.02 + 0.055 * lines)
    for label, colour, height in zip(labels, colours, heights, strict=True):
        axes.annotate(
            label, xy=(1.0, height), xycoords=("axes fraction", "data"), xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9, fontweight="bold", color=colour, annotation_clip=False, parse_math=False,
        )  # fmt: skip
    axes.set_xticks(attempts)
    margin = 0.12 if len(attempts) > 1 else 1
    axes.set_xlim(attempts[0] - margin, attempts[-1] + margin)
    axes.set_xlabel("attempts allowed", color=FAINT, fontsize=9.5)
    figure.text(0.02, 0.945, "Accuracy by attempts allowed", fontsize=13, fontweight="bold", color=INK, va="center")
    note = f"Share of {evaluation['questions']} questions answered correctly. Shaded: 95% intervals."
    figure.text(0.02, 0.885, note, fontsize=9, color=FAINT, va="center")
    figure.savefig(path)


def model_colours(count: int) -> list[str]:
    """A colour for each of some models: the first muted where there are others to stand out against it."""
    if count == 1:
        return [STRONG[0]]
    return [MUTED, *(STRONG[index % len(STRONG)] for index in range(count - 1))]


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _clean(axes: Axes) -> None:
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", colors=FAINT, labelsize=9, length=0, pad=5)


def _percent_axis(axes: Axes) -> None:
    axes.set_ylim(0, 1)
    axes.set_yticks([0, 0.2, 0.4, 0.6, 0.8, 1])
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _moving_mean(values: Sequence[float], width: int) -> list[float]:
    """The mean of the values around each, as many as there are; a gap stays a gap."""
    means = []
    for index, value in enumerate(values):
        around = [other for other in values[max(0, index - width // 2) : index + width // 2 + 1] if other == other]
        means.append(sum(around) / len(around) if value == value else math.nan)
    return means


def _spread(heights: Sequence[float], least: float) -> list[float]:
    """Move heights within 0 to 1 apart, in their order, so that labels at them do not cover each other."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    spread = list(heights)
    for lower, upper in itertools.pairwise(order):
        spread[upper] = max(spread[upper], spread[lower] + least)
    ceiling = 1.0
    for index in reversed(order):
        spread[index] = min(spread[index], ceiling)
        ceiling = spread[index] - least
    return spread
