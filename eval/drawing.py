"""What the figures of a report are made of: colours, panels, axes of shares, labels and legends."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

# From Okabe and Ito's palette, which colour-blind readers can tell apart; muted is for what came before.
MUTED = "#737C8A"
STRONG = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
INK = "#1F2933"
FAINT = "#667080"
GRID = "#E6E9EE"

SMOOTHED_OVER = 5
"""Steps in the moving mean of the training curves."""

_LONGEST_NAME = 44
LEGEND_ROW = 0.21
"""Height of a row of a legend, in inches."""


class Line(NamedTuple):
    """A curve of shares. Values may be None; low and high are empty without an interval, most without ranges."""

    name: str
    colour: str
    values: Sequence[float | None]
    low: Sequence[float | None] = ()
    high: Sequence[float | None] = ()
    dotted: bool = False
    most: Sequence[float | None] = ()


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write a figure as ``stem.png`` and ``stem.svg``."""
    paths = [stem.with_name(f"{stem.name}.{kind}") for kind in ("png", "svg")]
    figure.savefig(paths[0])
    figure.savefig(paths[1], metadata={"Date": None})
    return paths


def limits(lines: Iterable[Line], span: float = 0.0) -> tuple[float, float]:
    """An axis for the values and intervals of lines: in steps of ten points, at least twenty or the span."""
    values = [
        value for line in lines for edge in (line.values, line.low, line.high) for value in edge if value is not None
    ]
    if not values:
        return 0.0, 1.0
    low = math.floor(10 * min(values) + 1e-6)
    high = max(math.ceil(10 * max(values) - 1e-6), low + max(2, round(10 * span)))
    over = max(0, high - 10)  # the axis ends at 100%
    low, high = max(0, low - over), high - over
    return (0.0, 1.0) if high - low >= 8 else (low / 10, high / 10)


def share_axis(axes: Axes, low: float, high: float) -> None:
    """An empty place for lines of shares between two ends."""
    clean(axes)
    axes.set_ylim(low, high)
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def end_labels(axes: Axes, lines: Sequence[Line], labels: Sequence[str], inches: float) -> None:
    """Label lines at their right ends, moved apart where they would cover each other.

    Args:
        axes: where the lines are.
        lines: what to label; those without a value are left out.
        labels: in the lines' order.
        inches: the axes' height.
    """
    low, high = axes.get_ylim()
    labelled = [
        (line, label, (next(value for value in reversed(line.values) if value is not None) - low) / (high - low))
        for line, label in zip(lines, labels, strict=True)
        if any(value is not None for value in line.values)
    ]
    rows = max((label.count("\n") + 1 for _, label, _ in labelled), default=1)
    least = (0.16 * rows + 0.03 * min(rows, 2)) / inches
    heights = _spread([height for _, _, height in labelled], least)
    for (line, label, _), height in zip(labelled, heights, strict=True):
        axes.annotate(
            label, xy=(1.0, height), xycoords="axes fraction", xytext=(8, 0), textcoords="offset points",
            va="center", fontsize=9, fontweight="bold", color=line.colour, annotation_clip=False, parse_math=False,
        )  # fmt: skip


def share(line: Line) -> str:
    """The last value of a line in percent, or the range that it is in; nothing where it has none."""
    ranges = zip(line.values, line.most or line.values, strict=True)
    last = next((found for found in reversed([*ranges]) if found[0] is not None), None)
    return "" if last is None else " to ".join(dict.fromkeys(f"{end:.0%}" for end in last if end is not None))


def fitted(text: str, width: int, lines: int = 1) -> str:
    """A name as it can be drawn: broken into lines, without what no font shows."""
    printable = "".join(character if character.isprintable() else " " for character in text)
    return textwrap.fill(printable, width, max_lines=lines, placeholder="...", break_on_hyphens=False)


def panels(count: int, top: float, right: float, below: str = "attempts allowed") -> tuple[Figure, list[Axes]]:
    """A figure of panels, with space above all and right of each, in inches, and words below the last in a column."""
    columns = min(count, 3)
    rows = math.ceil(count / columns)
    width = panels_width(count, right)
    height = top + rows * 2.85
    figure = new_figure(width, height)
    cell = (width - 0.15) / columns
    axes = []
    for index in range(count):
        row, column = divmod(index, columns)
        left, bottom = 0.1 + column * cell + 0.45, height - top - (row + 1) * 2.85 + 0.4
        axes.append(figure.add_axes((left / width, bottom / height, (cell - 0.45 - right) / width, 2.0 / height)))
        if row == rows - 1 or index + columns >= count:
            axes[-1].set_xlabel(below, color=FAINT, fontsize=9)
    return figure, axes


def panels_width(count: int, right: float) -> float:
    """How wide a figure of panels is, in inches."""
    return max(6.6, 0.35 + min(count, 3) * (2.35 + right))


def panel_title(axes: Axes, title: str, subtitle: str) -> None:
    """Words above a panel, to the left and to the right."""
    axes.annotate(
        fitted(title, 34), xy=(0, 1), xycoords="axes fraction", xytext=(-28, 12), textcoords="offset points",
        fontsize=10.5, fontweight="bold", color=INK, va="baseline", parse_math=False,
    )  # fmt: skip
    axes.annotate(
        subtitle, xy=(1, 1), xycoords="axes fraction", xytext=(0, 12), textcoords="offset points",
        fontsize=8.5, color=FAINT, va="baseline", ha="right", parse_math=False,
    )  # fmt: skip


def headings(figure: Figure, title: str, note: str) -> None:
    """Words above all panels: what is shown, and how it is to be read."""
    width, height = figure.get_size_inches()
    figure.text(0.14 / width, 1 - 0.15 / height, title, fontsize=13, fontweight="bold", color=INK, va="top")
    note = textwrap.fill(note, int(14 * width))
    figure.text(0.14 / width, 1 - 0.42 / height, note, fontsize=9, color=FAINT, va="top", parse_math=False)


def legend_shape(names: Sequence[str], width: float) -> tuple[int, int]:
    """How many columns and rows of names there is room for on so many inches."""
    longest = min(_LONGEST_NAME, max(map(len, names)))
    columns = max(1, min(len(names), int(11.5 * width / (longest + 6))))
    return columns, math.ceil(len(names) / columns)


def legend(figure: Figure, entries: Sequence[tuple[str, str]]) -> None:
    """Names in their colours, in rows below the headings."""
    width, height = figure.get_size_inches()
    names = [fitted(name, _LONGEST_NAME) for name, _ in entries]
    columns, _ = legend_shape(names, width)
    handles = [Line2D([], [], color=colour, linewidth=2.2) for _, colour in entries]
    legend = figure.legend(
        handles, ["name"] * len(names), loc="upper left", bbox_to_anchor=(0.06 / width, 1 - 0.58 / height),
        ncols=columns, frameon=False, fontsize=9, handlelength=1.2, borderaxespad=0.2,
        labelcolor=[colour for _, colour in entries],
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names, strict=True):
        # Set afterwards: a legend leaves out names that begin with an underscore.
        text.set_text(name)
        text.set_parse_math(False)
        text.set_fontweight("bold")


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, of inches."""
    figure = Figure(figsize=(width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def clean(axes: Axes) -> None:
    """Leave of the axes what is of use: the lower edge, faint lines across, the numbers."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(MUTED)
    axes.grid(axis="y", color=GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.tick_params(axis="both", colors=FAINT, labelsize=9, length=0, pad=5)


def number(value: Any) -> float:
    """A value as it can be drawn: none is a gap."""
    return math.nan if value is None else float(value)


def _spread(heights: Sequence[float], least: float) -> list[float]:
    """Move heights apart, as little as can be, so that labels as high as ``least`` lie within 0 to 1, each clear."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    # Less what the labels below take, the heights need only not fall: where they do, their mean stands for them.
    blocks: list[tuple[float, int]] = []
    for rank, index in enumerate(order):
        blocks.append((heights[index] - rank * least, 1))
        while len(blocks) > 1 and blocks[-2][0] > blocks[-1][0]:
            (lower, below), (upper, above) = blocks[-2:]
            blocks[-2:] = [((lower * below + upper * above) / (below + above), below + above)]
    ceiling = max(least / 2, 1 - least * (len(heights) - 0.5))
    settled = [min(max(height, least / 2), ceiling) for height, count in blocks for _ in range(count)]
    spread = [0.0] * len(heights)
    for rank, index in enumerate(order):
        spread[index] = settled[rank] + rank * least
    return spread
