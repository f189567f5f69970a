"""The figures of a report: that labels lie clear of each other, and that odd runs can be drawn."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_files import HOSTILE, PAPER_BENCHMARKS, evaluation, model, paper_evaluation, training_step

from multi_attempt.data import evaluation_source
from multi_attempt.evaluation import drawing, plots
from multi_attempt.evaluation.benchmark_steps import benchmarks_over_steps


def check_texts(figure: Figure) -> None:
    """No text is cut by the figure's edge, and none covers another."""
    figure.canvas.draw()
    texts = [text for text in figure.findobj(Text) if text.get_visible() and text.get_text().strip()]
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        # Ticks beyond the axis have texts, which are not drawn.
        low, high = sorted(axis.get_view_interval())
        beyond = {tick.label1 for tick in axis.get_major_ticks() if not low <= tick.get_loc() <= high}
        texts = [text for text in texts if text not in beyond]
    renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
    boxes = [(text.get_text(), text.get_window_extent(renderer)) for text in texts]
    width, height = figure.get_size_inches() * figure.dpi
    for index, (words, box) in enumerate(boxes):
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height, f"{words!r} is cut"  # noqa: PT018
        for other, other_box in boxes[:index]:
            clear = box.x1 <= other_box.x0 or other_box.x1 <= box.x0 or box.y1 <= other_box.y0 or other_box.y1 <= box.y0
            assert clear, f"{words!r} covers {other!r}"


def test_texts_of_a_large_evaluation() -> None:
    content = paper_evaluation()
    for figure in (plots.accuracy_by_attempts(content), plots.accuracy_by_benchmark(content), plots.protocols(content)):
        check_texts(figure)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_texts_of_many_models_alike(share: float) -> None:
    names = [f"a model with a long name, number {number}" for number in range(6)]
    both = ("oracle", "blind")
    content = evaluation(
        *(model(name, [share] * 7, tuple(PAPER_BENCHMARKS), both) for name in names),
        attempts=range(1, 8),
        benchmarks=PAPER_BENCHMARKS,
        protocols=both,
    )
    for figure in (plots.accuracy_by_attempts(content), plots.accuracy_by_benchmark(content), plots.protocols(content)):
        check_texts(figure)


@pytest.mark.parametrize("runs", [1, 2, 5])
def test_texts_of_training(runs: int) -> None:
    steps = [training_step(step, step / 40) for step in range(1, 41)]
    check_texts(plots.training_curves([(f"run of a long name, {number}", steps) for number in range(runs)]))


def validated(*attempts: int, benchmarks: Iterable[str] = PAPER_BENCHMARKS, steps: int = 20) -> list[dict[str, Any]]:
    """What verl logged of benchmarks: the same accuracy on each, rising by the step."""
    names = [evaluation_source(benchmark, allowed) for benchmark in benchmarks for allowed in attempts]
    return [{"step": 8 * step, **dict.fromkeys(names, 0.3 + step / 100)} for step in range(steps)]


@pytest.mark.parametrize(
    "runs",
    [
        [("", validated(1, 2, 5))],
        [("", validated(1, steps=1))],
        [("", validated(3, benchmarks=["only"]))],
        [(f"run of a long name, {number}", validated(1, 5)) for number in range(5)],
    ],
)
def test_texts_of_benchmarks_over_steps(runs: list[tuple[str, list[dict[str, Any]]]]) -> None:
    check_texts(benchmarks_over_steps(runs))


def test_benchmarks_over_steps_of_one_run_are_the_mean_and_each_by_attempts() -> None:
    rows = validated(1, 5, benchmarks=["a", "b"])
    rows[1] |= {evaluation_source("a", 1): 0.8, evaluation_source("b", 1): 0.4}
    del rows[2][evaluation_source("a", 1)]
    figure = benchmarks_over_steps([("", rows)])
    assert [axes.texts[-2].get_text() for axes in figure.axes] == ["mean", "a", "b"]
    mean: list[Any] = list(figure.axes[0].lines)
    assert [len(line.get_xdata()) for line in mean] == [19, 20]  # there is no mean of a step without one of them
    assert list(mean[0].get_ydata())[:3] == pytest.approx([0.3, 0.6, 0.33])
    assert list(mean[0].get_xdata())[:3] == [0, 8, 24]


def test_benchmarks_over_steps_of_several_runs_are_the_mean_of_what_all_have() -> None:
    runs = [("one", validated(1, 5, benchmarks=["a", "b"])), ("two", validated(1, benchmarks=["b", "c"]))]
    runs[0][1][0][evaluation_source("a", 1)] = 0.9
    figure = benchmarks_over_steps(runs)
    assert [[text.get_text() for text in axes.texts[-2:]] for axes in figure.axes] == [["1 attempt", "b"]]
    lines: list[Any] = list(figure.axes[0].lines)
    assert [line.get_ydata()[0] for line in lines] == [0.3, 0.3]


def test_paper_is_dotted() -> None:
    figure = plots.accuracy_by_attempts(paper_evaluation())
    drawn = {text.get_text().partition("\n")[2].replace("\n", " ") for text in figure.axes[0].texts}
    assert {"paper, multi-attempt", "paper, baseline"} < drawn
    assert sum(line.get_linestyle() != "-" for line in figure.axes[0].lines) == 2


def test_odd_runs_leave_matplotlib_alone(tmp_path: Path) -> None:
    settings = dict(matplotlib.rcParams)
    hostile = [model(f"_{HOSTILE} {number}\x00\u2029", [0.5]) for number in range(5)]
    unmeasured = [model("nothing measured", [None, None]), model("something", [None, 0.5])]
    figures = {
        "one_step": plots.training_curves([("", [training_step(1, None)])]),
        "one_budget": plots.accuracy_by_attempts(evaluation(*hostile, attempts=[3])),
        "gaps": plots.accuracy_by_attempts(evaluation(*unmeasured)),
        "nothing": plots.accuracy_by_attempts(evaluation(unmeasured[0])),
        "names": plots.training_curves([("_$a$", [training_step(1)]), ("b", [training_step(1)])]),
    }
    for name, figure in figures.items():
        for path in plots.save(figure, tmp_path / name):
            assert path.stat().st_size > 1000
    assert dict(matplotlib.rcParams) == settings


def test_axis_fits_what_is_drawn() -> None:
    line = drawing.Line("", "", [0.45, 0.52], [0.41, 0.5], [0.5, 0.58])
    assert drawing.limits([line]) == (0.4, 0.6)
    assert drawing.limits([line], span=0.5) == (0.4, 0.9)
    assert drawing.limits([drawing.Line("", "", [0.97, 1.0])]) == (0.8, 1.0)
    assert drawing.limits([drawing.Line("", "", [0.05, 0.95])]) == (0.0, 1.0)
    assert drawing.limits([drawing.Line("", "", [None])]) == (0.0, 1.0)


def test_labels_are_moved_apart_within_the_axes() -> None:
    assert drawing._spread([0.97, 0.94, 0.2], least=0.1) == pytest.approx([0.95, 0.85, 0.2])
    assert drawing._spread([0.5, 0.5], least=0.1) == pytest.approx([0.45, 0.55])
    assert drawing._spread([0.0, 0.3], least=0.1) == pytest.approx([0.05, 0.3])
    assert drawing._spread([], least=0.1) == []
