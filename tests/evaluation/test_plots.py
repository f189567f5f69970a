"""The figures of a report: that labels lie clear of each other, and that odd runs can be drawn."""

from __future__ import annotations

from pathlib import Path

import matplotlib
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from report_files import HOSTILE, PAPER_BENCHMARKS, evaluation, model, paper_evaluation, training_step

from multi_attempt.evaluation import plots


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
    line = plots._Line("", "", [0.45, 0.52], [0.41, 0.5], [0.5, 0.58])
    assert plots._limits([line]) == (0.4, 0.6)
    assert plots._limits([line], span=0.5) == (0.4, 0.9)
    assert plots._limits([plots._Line("", "", [0.97, 1.0])]) == (0.8, 1.0)
    assert plots._limits([plots._Line("", "", [0.05, 0.95])]) == (0.0, 1.0)
    assert plots._limits([plots._Line("", "", [None])]) == (0.0, 1.0)


def test_labels_are_moved_apart_within_the_axes() -> None:
    assert plots._spread([0.97, 0.94, 0.2], least=0.1) == pytest.approx([0.95, 0.85, 0.2])
    assert plots._spread([0.5, 0.5], least=0.1) == pytest.approx([0.45, 0.55])
    assert plots._spread([0.0, 0.3], least=0.1) == pytest.approx([0.05, 0.3])
    assert plots._spread([], least=0.1) == []
