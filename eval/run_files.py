"""A run's files, read and checked: a mistake is reported with its place instead of ending in a broken page.

run = read_run(Path("outputs/quickstart"))
run.metrics, run.evaluation, run.episodes        # each empty or None where the run has no such file
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from multi_attempt.data import read_evaluation_source
from multi_attempt.history import History
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.tasks.load import DEFAULT

METRICS_FILE = "metrics.jsonl"
EVALUATION_FILE = "eval.json"
EPISODES_FILE = "episodes.jsonl"
SETTINGS_FILE = "run.json"

TRAINING_METRICS = (
    "critic/score/mean",
    "multi_attempt/success",
    "multi_attempt/first_attempt_accuracy",
    "multi_attempt/retry_success",
    "multi_attempt/repeat_rate",
)
"""The metrics of training that are reported."""

_ACCURACY = re.compile(r"val-core/(?P<data_source>.+)/acc/mean@\d+")
_STOPS = ("correct", "exhausted", "truncated", "aborted")
_WORDS = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
}
_ROUNDING = 1e-9  # a mean of ones may exceed one by so little
_EXACT = 2**53  # as far as whole numbers are floats too
_DRAWABLE = 1e100  # figures have room for distances between numbers, which a float must hold too


class ReportError(ValueError):
    """A run's files are missing or not as expected; the message names the file, the place in it and the field."""


class EpisodeKey(NamedTuple):
    """What tells one episode of an evaluation from another."""

    model: str
    benchmark: str
    id: str
    protocol: str
    budget: int
    sample: int


@dataclass(frozen=True)
class EpisodeFile:
    """The checked episodes of an ``episodes.jsonl``, which may be larger than memory: where each of them is.

    Attributes:
        path: the file.
        places: offset and length in bytes of each episode's line.
    """

    path: Path
    places: Mapping[EpisodeKey, tuple[int, int]]

    def read(self, key: EpisodeKey) -> dict[str, Any]:
        """The episode of this key."""
        offset, length = self.places[key]
        with self.path.open("rb") as file:
            file.seek(offset)
            episode: dict[str, Any] = json.loads(file.read(length))
        return episode


@dataclass(frozen=True)
class Run:
    """What a run's folder holds.

    Attributes:
        name: of the folder.
        metrics: the training steps in order; empty without ``metrics.jsonl``.
        evaluation: the content of ``eval.json``, if it is there.
        episodes: of ``episodes.jsonl``, if it is there.
        benchmarks: the steps of training that evaluation sets were validated on at, in order; see
            :func:`read_benchmarks`.
        contexts: by model, the tokens that prompt and response could have together, where ``run.json`` says so.
    """

    name: str
    metrics: list[dict[str, Any]]
    evaluation: dict[str, Any] | None
    episodes: EpisodeFile | None
    benchmarks: list[dict[str, Any]]
    contexts: dict[str, int]


def read_run(folder: Path) -> Run:
    """Read and check the files of a run.

    Raises:
        ReportError: there is neither ``metrics.jsonl`` nor ``eval.json``, or a file is malformed.
    """
    files = (METRICS_FILE, EVALUATION_FILE, EPISODES_FILE, SETTINGS_FILE)
    metrics, evaluation, episodes, settings = (folder / name for name in files)
    if not metrics.is_file() and not evaluation.is_file():
        raise ReportError(
            f"nothing to report in {folder}: expected {METRICS_FILE} (written by training), "
            f"{EVALUATION_FILE} (written by evaluation) or both"
        )
    return Run(
        name=folder.resolve().name,
        metrics=read_metrics(metrics) if metrics.is_file() else [],
        evaluation=read_evaluation(evaluation) if evaluation.is_file() else None,
        episodes=read_episodes(episodes) if episodes.is_file() else None,
        benchmarks=read_benchmarks(metrics) if metrics.is_file() else [],
        contexts=_read_contexts(settings) if settings.is_file() else {},
    )


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read the training steps of a ``metrics.jsonl``, in order.

    A line has the metrics beside ``step``, or under ``data`` as verl's file logger writes them. Lines with none of the
    metrics reported are left out (a step that only validated). Where a step is there more than once, as after resuming
    from a checkpoint, the last counts.

    Raises:
        ReportError: a line is malformed, or no training step is left.
    """
    steps: dict[float, dict[str, Any]] = {}
    for step, row in _logged(path):
        if not any(metric in row.get(dict) for metric in TRAINING_METRICS):
            continue
        for metric in TRAINING_METRICS:
            row[metric].get(float, or_null=True)
        steps[step] = {**row.value, "step": step}
    if not steps:
        raise ReportError(f"{path}: no training step, that is no line with {TRAINING_METRICS[0]!r}")
    return [steps[step] for step in sorted(steps)]


def read_benchmarks(path: Path) -> list[dict[str, Any]]:
    """Read the steps of a ``metrics.jsonl`` at which evaluation sets were validated on, in order.

    A step has ``step``, which is 0 before training, and for each evaluation set its accuracy, or null, by its
    ``data_source`` (:func:`multi_attempt.data.evaluation_source`). Where a step is there more than once, the last
    counts.

    Raises:
        ReportError: a line is malformed.
    """
    steps: dict[float, dict[str, Any]] = {}
    for step, row in _logged(path):
        found = {
            match["data_source"]: row[name].get(float, or_null=True)
            for name in row.get(dict)
            if (match := _ACCURACY.fullmatch(name)) and read_evaluation_source(match["data_source"])
        }
        if found:
            steps[step] = {"step": step, **found}
    return [steps[step] for step in sorted(steps)]


def _logged(path: Path) -> Iterator[tuple[float, _Node]]:
    """The steps and the metrics of a ``metrics.jsonl``, line by line, but for a last one that was half-written."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip() and not _is_half_written(line):
                entry = _parsed(line, f"{path}, line {number}")
                step = entry["step"].get(float)
                if not abs(step) <= _EXACT:
                    raise entry["step"].error("a number of a step")
                yield step, entry["data"] if "data" in entry.value else entry


def read_settings(path: Path) -> dict[str, Any]:
    """Read and check a ``run.json``: what the episodes beside it depend on.

    Raises:
        ReportError: it is malformed.
    """
    root = _parsed(path.read_bytes(), str(path))
    for _, digest in root["models"].items():
        digest.get(str)
    # Evaluations of earlier versions say nothing of tasks and of what stays of earlier attempts.
    usual: dict[str, Any] = {"task": DEFAULT, "tasks": {}, "feedback_role": None}
    kept = {"history": History().policy, "history_answer_bytes": History().answer_bytes}
    return {**usual, **kept, **root.value, "contexts": _contexts(root)}


def _contexts(settings: _Node) -> dict[str, int | None]:
    # Evaluations of earlier versions have none.
    contexts = settings["contexts"].items() if "contexts" in settings.value else ()
    return {name: context.get(int, or_null=True) for name, context in contexts}


def _read_contexts(path: Path) -> dict[str, int]:
    contexts = _contexts(_parsed(path.read_bytes(), str(path)))
    return {name: context for name, context in contexts.items() if context is not None}


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read and check an ``eval.json``.

    Raises:
        ReportError: it is malformed.
    """
    root = _parsed(path.read_bytes(), str(path))
    attempts = [entry.get(int) for entry in root["attempts"]]
    if not attempts or attempts != sorted(set(attempts)) or attempts[0] < 1 or attempts[-1] > _EXACT:
        raise root["attempts"].error("one or more rising numbers from 1")
    for name in ("temperature", "sampling_temperature"):
        root[name].get(float)
    root["samples"].get(int)
    settings = _settings(root["settings"]) if "settings" in root.value else None
    for benchmark in root["benchmarks"]:
        benchmark["questions"].get(int)
    benchmarks = _names(root["benchmarks"])
    for _, sentence in root["protocols"].items():
        sentence.get(str)
    if not root["protocols"].value:
        raise root["protocols"].error("at least one protocol")
    _names(root["models"])
    for model in root["models"]:
        _check_model(model, list(root["protocols"].value), benchmarks, attempts)
    return {**root.value, "settings": settings}


def parse_episode(line: bytes, place: str, *, ended: bool = False) -> tuple[EpisodeKey, dict[str, Any]]:
    """An episode of an ``episodes.jsonl``, and what tells it from others.

    Args:
        line: of the file.
        place: of the line, for errors.
        ended: whether it must also hold what figures are made of, unless it failed.

    Raises:
        ReportError: it is malformed.
    """
    episode = _parsed(line, place)
    key = _check_episode(episode)
    if ended and not episode["error"].value:
        _check_ended(episode, key)
    row: dict[str, Any] = episode.value
    return key, row


def _is_half_written(line: bytes) -> bool:
    """Whether this is what a run that was killed, or writes just now, left as the last line of a file."""
    if line.endswith(b"\n"):
        return False
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return True
    return False


def read_episodes(path: Path) -> EpisodeFile:
    """Check the episodes of an ``episodes.jsonl`` and note where each is.

    A line is superseded by a later one of the same key. A last line that was half-written is left out.

    Raises:
        ReportError: another line is malformed.
    """
    places: dict[EpisodeKey, tuple[int, int]] = {}
    offset = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            offset += len(line)
            if not line.strip():
                continue
            if _is_half_written(line):
                break
            key, _ = parse_episode(line, f"{path}, line {number}")
            # As a run would find it again, the order is of when the episode was last written.
            places.pop(key, None)
            places[key] = (offset - len(line), len(line))
    return EpisodeFile(path, places)


class _Node:
    """A value within a JSON document that knows its place there, for the errors about it."""

    def __init__(self, value: Any, place: str, name: str = "") -> None:
        self.value, self._place, self._name = value, place, name

    def get(self, kind: type, *, or_null: bool = False) -> Any:
        """The value, if it is of this kind."""
        if or_null and self.value is None:
            return None
        # To Python a bool is an int, and JSON writes whole floats as ints.
        fits = isinstance(self.value, (int, float) if kind is float else kind)
        if not fits or (isinstance(self.value, bool) and kind is not bool):
            raise self.error(_WORDS[kind])
        if kind is float and _DRAWABLE < abs(self.value) < math.inf:
            raise self.error(f"a number no greater than {_DRAWABLE:g}")
        return self.value

    def __getitem__(self, name: str) -> _Node:
        if name not in self.get(dict):
            raise ReportError(f"{self._place}: the field '{self._within(name)}' is missing")
        return _Node(self.value[name], self._place, self._within(name))

    def __iter__(self) -> Iterator[_Node]:
        return (
            _Node(value, self._place, f"{self._name}[{index}]") for index, value in enumerate(self.get(list))
        )  # fmt: skip

    def items(self) -> Iterator[tuple[str, _Node]]:
        """The fields of an object."""
        return ((name, _Node(value, self._place, self._within(name))) for name, value in self.get(dict).items())

    def error(self, expected: str) -> ReportError:
        """The error that this value is not what was expected."""
        what = f"the field '{self._name}'" if self._name else "the content"
        return ReportError(f"{self._place}: {what} is {self.value!r:.80}, expected {expected}")

    def numbers(self, count: int, most: float = math.inf, least: float = 0) -> None:
        """Check that this is a list of so many numbers from ``least`` to ``most``, or nulls."""
        if len(self.get(list)) != count:
            raise ReportError(
                f"{self._place}: the field '{self._name}' has {len(self.value)} values for {count} 'attempts'"
            )
        for entry in self:
            value = entry.get(float, or_null=True)
            if value is not None and not (math.isfinite(value) and least - _ROUNDING <= value <= most + _ROUNDING):
                share = "a share" if least == 0 else "a number"
                raise entry.error(f"{share} from {least} to 1, or null" if most == 1 else "a number from 0, or null")

    def _within(self, name: str) -> str:
        return f"{self._name}.{name}" if self._name else name


def _parsed(text: bytes, place: str) -> _Node:
    try:
        node = _Node(json.loads(text), place)
    except UnicodeDecodeError as error:
        raise ReportError(f"{place}: not UTF-8 ({error.reason} at byte {error.start})") from error
    except json.JSONDecodeError as error:
        line = f", line {error.lineno}" if ", line " not in place else ""
        raise ReportError(f"{place}{line}: not JSON ({error.msg} at column {error.colno})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, or brackets within brackets
        raise ReportError(f"{place}: JSON that cannot be read ({error})") from error
    node.get(dict)
    return node


def _names(records: _Node) -> list[str]:
    names: list[str] = [record["name"].get(str) for record in records]
    if not names or len(set(names)) < len(names):
        raise records.error("one or more, of different names")
    return names


def _settings(settings: _Node) -> dict[str, Any] | None:
    """What a model was asked with, whole; None as in evaluations of earlier versions, which do not say."""
    if settings.value is None:
        return None
    try:
        return DialogueSettings.from_dict(settings.value).to_dict()
    except ValueError as error:
        raise settings.error(f"what a model was asked with ({error})") from error


def _check_model(model: _Node, protocols: list[str], benchmarks: list[str], attempts: list[int]) -> None:
    model["architecture"].get(dict, or_null=True)
    model["failed"].get(int)
    if not model["results"].get(dict):
        raise model["results"].error("the results of at least one protocol")
    for protocol, results in model["results"].items():
        if protocol not in protocols:
            raise results.error(f"results of 'protocols' only, that is of {protocols}")
        if set(results["benchmarks"].get(dict)) != set(benchmarks):
            raise results["benchmarks"].error(f"an entry for each of 'benchmarks', that is {benchmarks}")
        for _, figures in results["benchmarks"].items():
            _check_figures(figures, attempts)
        for name in ("macro", "weighted"):
            _check_figures(results[name], attempts)
    if "told" in model.value:  # earlier versions have none
        for _, others in model["told"].items():
            for _, groups in others.items():
                _check_told(groups, benchmarks, len(attempts))
    if "shuffled" in model.value:
        for name in ("dialogues", "messages", "others", "short", "own"):
            model["shuffled"][name].get(int)
    for _, by_benchmark in model["scores"].items():
        for _, by_question in by_benchmark.items():
            for _, scores in by_question.items():
                scores.numbers(len(attempts), most=1)


def _check_told(groups: _Node, benchmarks: list[str], count: int) -> None:
    if set(groups["benchmarks"].get(dict)) != set(benchmarks):
        raise groups["benchmarks"].error(f"an entry for each of 'benchmarks', that is {benchmarks}")
    for entry in (*(entry for _, entry in groups["benchmarks"].items()), groups["macro"], groups["weighted"]):
        for name in ("difference", "difference_at_most", "low", "high"):
            entry[name].numbers(count, least=-1, most=1)
        for name in ("failed_by_attempts", "accuracy", "attempts", "tokens"):
            entry[name].numbers(count)


def _check_figures(figures: _Node, attempts: list[int]) -> None:
    count = len(attempts)
    for name in ("questions", "failed"):
        figures[name].get(int)
    for name in ("accuracy", "low", "high"):
        figures[name].numbers(count, most=1)
    if "accuracy_at_most" in figures.value:  # earlier versions have none
        figures["accuracy_at_most"].numbers(count, most=1)
        figures["failed_by_attempts"].numbers(count)
    for _, values in figures["measures"].items():
        values.numbers(count)
    if "by_attempt" in figures.value:  # nor this
        for _, values in figures["by_attempt"].items():
            values.numbers(attempts[-1])


def _check_ended(episode: _Node, key: EpisodeKey) -> None:
    if episode["room"].get(int) < 1:
        raise episode["room"].error("a number of tokens from 1")
    if key.budget < 1 or not 1 <= len(episode["attempts"].value) <= key.budget:
        raise episode["attempts"].error(f"from 1 to as many as the 'budget' of {key.budget}")
    for attempt in episode["attempts"]:
        if attempt["tokens"].get(float) < 0:
            raise attempt["tokens"].error("a number of tokens from 0")
        if "note" in attempt.value:  # earlier versions have neither this nor the others
            attempt["score"].get(float)
            for name in ("note", "method", "reason"):
                attempt[name].get(str)
    if "told" in episode.value:  # of the protocol shuffled
        episode["told"]["donor"].get(str, or_null=True)
        for name in ("attempts", "messages", "others"):
            episode["told"][name].get(int)


def _check_episode(episode: _Node) -> EpisodeKey:
    for name in ("question", "gold", "error"):
        episode[name].get(str)
    if episode["stop"].get(str) not in _STOPS:
        raise episode["stop"].error(f"one of {_STOPS}")
    roles = []
    for message in episode["messages"]:
        message["content"].get(str)
        roles.append(message["role"].get(str))
    for attempt in episode["attempts"]:
        attempt["answer"].get(str, or_null=True)
        attempt["tokens"].get(int)
        for name in ("correct", "well_formed", "truncated", "repeated"):
            attempt[name].get(bool)
    responses = roles.count("assistant")
    if responses < len(episode["attempts"].value):
        raise episode["attempts"].error(f"at most an entry for each of the {responses} assistant messages")
    return EpisodeKey(*(episode[name].get(int if name in ("budget", "sample") else str) for name in EpisodeKey._fields))
