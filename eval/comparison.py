"""Several runs put side by side as if they were one evaluation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from multi_attempt.evaluation.protocols import SAMPLED
from multi_attempt.evaluation.run_files import ReportError, Run
from multi_attempt.evaluation.settings import in_words

MAIN_PROTOCOL = "oracle"
"""The protocol of the paper."""

_ASKED = ("benchmarks", "temperature", "settings")


@dataclass(frozen=True)
class Comparison:
    """What some runs say together.

    Attributes:
        runs: names of the runs' folders, all different.
        evaluation: as the content of one ``eval.json``, with the models of all runs, each with the ``context`` that it
            had, and ``runs``, which says what each run asked, and how; None where no run has one.
        shown_names: of the models, by run and the name in its files.
        conditions: in words, what the models of the runs were asked with.
    """

    runs: list[str]
    evaluation: dict[str, Any] | None
    shown_names: dict[tuple[int, str], str]
    conditions: str


def compare(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side. Models of the same name are told apart by their runs' names.

    Raises:
        ReportError: the runs allowed other attempts or are of other benchmarks.
    """
    names = _distinct([run.name for run in runs])
    models = [(index, name) for index, run in enumerate(runs) for name in _models_of(run)]
    clashes = Counter(name for _, name in models)
    shown = {(index, name): f"{names[index]}: {name}" if clashes[name] > 1 else name for index, name in models}
    evaluated = [(index, run.evaluation) for index, run in enumerate(runs) if run.evaluation]
    if not evaluated:
        return Comparison(names, None, shown, "")
    first_index, first = evaluated[0]
    for index, other in evaluated[1:]:
        _must_agree(first, other, names[first_index], names[index])
    protocols = {name: text for _, evaluation in reversed(evaluated) for name, text in evaluation["protocols"].items()}
    order = dict.fromkeys(name for _, evaluation in evaluated for name in evaluation["protocols"])
    merged = {
        **first,
        "protocols": {name: protocols[name] for name in order},
        "models": [
            {**model, "name": shown[index, model["name"]], "context": runs[index].contexts.get(model["name"])}
            for index, evaluation in evaluated
            for model in evaluation["models"]
        ],
        "runs": [{name: evaluation.get(name) for name in _ASKED} for _, evaluation in evaluated],
    }
    settings = {_conditions(evaluation): names[index] for index, evaluation in reversed(evaluated)}
    words = [text if len(settings) == 1 else f"{name}: {text}" for text, name in reversed(settings.items())]
    return Comparison(names, merged, shown, "; ".join(words))


def main_protocol(evaluation: Mapping[str, Any]) -> str:
    """The protocol that the main figure and the headline are about: the paper's, or the first that has results."""
    found = [
        name for name in evaluation["protocols"] if any(name in model["results"] for model in evaluation["models"])
    ]
    return MAIN_PROTOCOL if MAIN_PROTOCOL in found else found[0]


def _must_agree(first: Mapping[str, Any], other: Mapping[str, Any], name: str, other_name: str) -> None:
    def benchmarks(evaluation: Mapping[str, Any]) -> list[str]:
        return sorted(benchmark["name"] for benchmark in evaluation["benchmarks"])

    for field, value, other_value in (
        ("attempts", first["attempts"], other["attempts"]),
        ("benchmarks", benchmarks(first), benchmarks(other)),
    ):
        if value != other_value:
            raise ReportError(
                f"the runs cannot be put side by side: '{field}' is {value} in {name} but {other_value} in "
                f"{other_name}; evaluate both alike (multi-attempt eval), or report each by itself"
            )


def _models_of(run: Run) -> list[str]:
    evaluated = [model["name"] for model in run.evaluation["models"]] if run.evaluation else []
    # An evaluation under way has episodes of models that are not in eval.json yet.
    return list(dict.fromkeys([*evaluated, *(key.model for key in (run.episodes.places if run.episodes else ()))]))


def _distinct(names: Sequence[str]) -> list[str]:
    return [
        f"{name} ({names[: index + 1].count(name)})" if names.count(name) > 1 else name
        for index, name in enumerate(names)
    ]  # fmt: skip


def _conditions(evaluation: Mapping[str, Any]) -> str:
    temperature = evaluation["temperature"]
    words = "greedy decoding" if temperature == 0 else f"temperature {temperature:g}"
    if evaluation["samples"] > 1:
        words += f", {evaluation['samples']} samples a question"
    if any(name in SAMPLED for name in evaluation["protocols"]):
        words += f", independent samples at temperature {evaluation['sampling_temperature']:g}"
    if evaluation.get("settings"):  # evaluations of earlier versions have none
        words += f", {in_words(evaluation['settings'])}"
    return words
