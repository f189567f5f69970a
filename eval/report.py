"""The report of a run: figures, tables and sample dialogues on one page that needs nothing else.

What it reads is checked first, so that a mistake is reported with its place instead of ending in a broken page.

    page = write_report(Path("outputs/quickstart"))      # also writes training.png and accuracy_by_attempts.png
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import jinja2

from multi_attempt.evaluation import plots

METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "eval.json"

_TRAINING_METRICS = tuple(series.metric for panel in plots.PANELS for series in panel.series)
_STOPS = ("correct", "exhausted", "truncated", "aborted")
_STEPS_IN_WORDS = ("", "step", "two steps", "three steps", "four steps", "five steps")


class ReportError(ValueError):
    """A run's files are missing or not as expected; the message names the file, the place in it and the field."""


def write_report(run: Path) -> Path:
    """Write the report of a run into its directory.

    Args:
        run: a directory with ``metrics.jsonl`` (of training), ``eval.json`` (of evaluation) or both; what is missing
            is left out of the report.

    Returns:
        The page, ``report.html``. It holds its figures, which are also written beside it.

    Raises:
        ReportError: neither file is there, or one is malformed.
    """
    metrics_path, evaluation_path = run / METRICS_FILE, run / EVALUATION_FILE
    if not metrics_path.is_file() and not evaluation_path.is_file():
        raise ReportError(
            f"nothing to report in {run}: expected {METRICS_FILE} (written by training), "
            f"{EVALUATION_FILE} (written by evaluation) or both"
        )
    metrics = read_metrics(metrics_path) if metrics_path.is_file() else []
    evaluation = read_evaluation(evaluation_path) if evaluation_path.is_file() else None

    images = {}
    if metrics:
        plots.training_curves(metrics, run / "training.png")
        images["training"] = _inlined(run / "training.png")
    if evaluation:
        plots.accuracy_by_attempts(evaluation, run / "accuracy_by_attempts.png")
        images["accuracy"] = _inlined(run / "accuracy_by_attempts.png")

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    models = evaluation["models"] if evaluation else []
    html = environment.get_template("report.html.j2").render(
        headline=headline(metrics, evaluation),
        images=images,
        steps=[metrics[0]["step"], metrics[-1]["step"]] if metrics else [],
        evaluation=evaluation,
        # A page may be published; the directories of the machine it was made on are nobody's business.
        data=PurePath(evaluation["data"]).name if evaluation else "",
        dialogues=_dialogues(models),
        models=[model["name"] for model in models],
        colours=plots.model_colours(len(models)) if models else [],
    )
    page = run / "report.html"
    page.write_text(html, encoding="utf-8")
    return page


def headline(metrics: Sequence[Mapping[str, Any]], evaluation: Mapping[str, Any] | None) -> list[str]:
    """What was learned, in a few sentences.

    Args:
        metrics: the training steps in order, or none.
        evaluation: the content of ``eval.json``, or None. Its first model is compared with its last.
    """
    sentences = []
    if evaluation:
        attempts, models = evaluation["attempts"], evaluation["models"]
        before, after = models[0]["accuracy"], models[-1]["accuracy"]
        compared = len(models) > 1

        def change(position: int) -> str:
            return f"{before[position]:.1%} -> {after[position]:.1%}" if compared else f"{before[position]:.1%}"

        sentence = f"Accuracy with {attempts[0]} attempt{'s' if attempts[0] > 1 else ''}: {change(0)}"
        sentences.append(sentence + (f"; with {attempts[-1]}: {change(-1)}" if len(attempts) > 1 else ""))
        if len(attempts) > 1:
            gains = [f"{100 * (values[-1] - values[0]):+.1f}" for values in (before, after)]
            sentences.append(
                f"Points gained by allowing {attempts[-1]} attempts instead of {attempts[0]}: "
                + (" -> ".join(gains) if compared else gains[0])
            )
    for name, metric, form in (
        ("Reward", "critic/score/mean", ".2f"),
        ("Training episodes solved", "multi_attempt/success", ".1%"),
    ):
        values = [row[metric] for row in metrics if row.get(metric) is not None and not math.isnan(row[metric])]
        if len(values) == 1:
            sentences.append(f"{name}: {values[0]:{form}} (one step)")
        elif values:
            # No step counts towards both ends, however short the run.
            count = min(5, len(values) // 2)
            first, last = (sum(part) / count for part in (values[:count], values[-count:]))
            steps = _STEPS_IN_WORDS[count]
            sentences.append(f"{name}: first {steps} {first:{form}} -> last {steps} {last:{form}}")
    return sentences


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the training steps of a ``metrics.jsonl``, in order.

    Lines with none of the metrics shown are left out (a step that only validated). Where a step is there more than
    once, as after resuming from a checkpoint, the last counts.

    Raises:
        ReportError: a line is malformed, or no training step is left.
    """
    steps: dict[float, dict[str, Any]] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        place = f"{path}, line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ReportError(f"{place}: not JSON ({error.msg} at column {error.colno})") from error
        row = _checked(row, dict, place, "")
        step = _take(row, "step", float, place, "")
        if not any(metric in row for metric in _TRAINING_METRICS):
            continue
        for metric in _TRAINING_METRICS:
            if metric not in row:
                raise ReportError(f"{place}: the field {metric!r} is missing")
            if row[metric] is not None:
                _take(row, metric, float, place, "")
        steps[step] = row
    if not steps:
        raise ReportError(f"{path}: no training step, that is no line with {_TRAINING_METRICS[0]!r}")
    return [steps[step] for step in sorted(steps)]


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read and check an ``eval.json``.

    Raises:
        ReportError: it is malformed.
    """
    place = str(path)
    try:
        evaluation: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ReportError(f"{place}, line {error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    _checked(evaluation, dict, place, "")
    for name in ("protocol", "data"):
        _take(evaluation, name, str, place, "")
    _take(evaluation, "questions", int, place, "")
    attempts = _list(evaluation, "attempts", int, place, "")
    if not attempts or attempts != sorted(set(attempts)):
        raise ReportError(f"{place}: the field 'attempts' is {attempts}, expected one or more rising numbers")
    models = _list(evaluation, "models", dict, place, "")
    if not models:
        raise ReportError(f"{place}: the field 'models' is empty")
    for index, model in enumerate(models):
        within = f"models[{index}]."
        _take(model, "name", str, place, within)
        for name in ("accuracy", "low", "high", "first_attempt_accuracy"):
            values = _list(model, name, float, place, within)
            if len(values) != len(attempts):
                raise ReportError(
                    f"{place}: the field '{within}{name}' has {len(values)} values for {len(attempts)} 'attempts'"
                )
            if not all(0 <= value <= 1 for value in values):
                raise ReportError(f"{place}: the field '{within}{name}' is {values}, expected shares from 0 to 1")
        for position, dialogue in enumerate(_list(model, "dialogues", dict, place, within)):
            _check_dialogue(dialogue, place, f"{within}dialogues[{position}].")
    return evaluation


def _check_dialogue(dialogue: Mapping[str, Any], place: str, within: str) -> None:
    for name in ("question", "gold", "stop"):
        _take(dialogue, name, str, place, within)
    if dialogue["stop"] not in _STOPS:
        raise ReportError(f"{place}: the field '{within}stop' is {dialogue['stop']!r}, expected one of {_STOPS}")
    _take(dialogue, "budget", int, place, within)
    messages = _list(dialogue, "messages", dict, place, within)
    for index, message in enumerate(messages):
        for name in ("role", "content"):
            _take(message, name, str, place, f"{within}messages[{index}].")
    attempts = _list(dialogue, "attempts", dict, place, within)
    for index, attempt in enumerate(attempts):
        inside = f"{within}attempts[{index}]."
        if "answer" not in attempt or attempt["answer"] is not None:
            _take(attempt, "answer", str, place, inside)
        for name in ("correct", "well_formed", "truncated", "repeated"):
            _take(attempt, name, bool, place, inside)
    responses = sum(message["role"] == "assistant" for message in messages)
    if responses < len(attempts):
        raise ReportError(
            f"{place}: the field '{within}attempts' has {len(attempts)} entries "
            f"for {responses} assistant messages in '{within}messages'"
        )


def _take(record: Mapping[str, Any], name: str, kind: type, place: str, within: str) -> Any:
    if name not in record:
        raise ReportError(f"{place}: the field '{within}{name}' is missing")
    return _checked(record[name], kind, place, within + name)


def _list(record: Mapping[str, Any], name: str, kind: type, place: str, within: str) -> list[Any]:
    values = _take(record, name, list, place, within)
    return [_checked(value, kind, place, f"{within}{name}[{index}]") for index, value in enumerate(values)]


def _checked(value: Any, kind: type, place: str, name: str) -> Any:
    # To Python a bool is an int, and JSON writes whole floats as ints.
    fits = isinstance(value, (int, float) if kind is float else kind) and (kind is bool or not isinstance(value, bool))
    if not fits:
        words = {dict: "an object", list: "a list", str: "a string", int: "a whole number", float: "a number"}
        what = f"the field '{name}'" if name else "the content"
        raise ReportError(f"{place}: {what} is {value!r:.80}, expected {words.get(kind, 'true or false')}")
    return value


def _dialogues(models: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The dialogues as the page's script shows them; the models' dialogues about a question stand together."""
    shown = [
        (position, index, _dialogue(index, dialogue))
        for index, model in enumerate(models)
        for position, dialogue in enumerate(model["dialogues"])
    ]
    return [dialogue for _, _, dialogue in sorted(shown, key=lambda entry: entry[:2])]


def _dialogue(model: int, dialogue: Mapping[str, Any]) -> dict[str, Any]:
    graded = dialogue["attempts"]
    solved = [index for index, attempt in enumerate(graded) if attempt["correct"]]
    kinds = ["never" if not solved else "later" if solved[0] else "first"]
    kinds += [name for name in ("repeated", "truncated") if any(attempt[name] for attempt in graded)]
    if dialogue["stop"] == "truncated" and "truncated" not in kinds:
        kinds.append("truncated")  # no room was left for another attempt
    attempts: list[dict[str, Any]] = []
    told: list[dict[str, str]] = []
    for message in dialogue["messages"]:
        if message["role"] != "assistant":
            told.append({"role": message["role"], "content": message["content"]})
            continue
        # A response that came before an episode was aborted may lack a grade.
        attempt = graded[len(attempts)] if len(attempts) < len(graded) else None
        attempts.append(
            {
                "told": told,
                "content": message["content"],
                "answer": attempt["answer"] if attempt else None,
                "verdicts": _verdicts(attempt),
            }
        )
        told = []
    return {
        "model": model,
        **{name: dialogue[name] for name in ("question", "gold", "budget", "stop")},
        "kinds": kinds,
        "attempts": attempts,
    }


def _verdicts(attempt: Mapping[str, Any] | None) -> list[str]:
    if attempt is None:
        return ["not graded"]
    return [
        "right" if attempt["correct"] else "wrong",
        *(name for name in ("repeated", "truncated") if attempt[name]),
        *([] if attempt["well_formed"] else ["not in the format"]),
    ]


def _inlined(image: Path) -> str:
    return "data:image/png;base64," + base64.b64encode(image.read_bytes()).decode("ascii")
