"""The paper's own curve, and whether an evaluation is one that it can be drawn beside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml


def paper_curves(evaluation: Mapping[str, Any], protocol: str) -> dict[str, list[float | None]]:
    """The paper's curves, by name and aligned with ``attempts``; none where there are :func:`paper_differences`."""
    if paper_differences(evaluation, protocol):
        return {}
    paper = _paper()
    curves = {name: dict(zip(paper["attempts"], values, strict=True)) for name, values in paper["curves"].items()}
    return {
        name: [curve[allowed] / 100 if allowed in curve else None for allowed in evaluation["attempts"]]
        for name, curve in curves.items()
    }


def paper_differences(evaluation: Mapping[str, Any], protocol: str) -> list[str]:
    """In words, what makes an evaluation another than the paper's; nothing where the two can be compared.

    The greatest number of attempts makes none: under the paper's protocol each number has a run of its own.

    Args:
        evaluation: the content of ``eval.json``, or of several put side by side, of which all must be like the paper's.
        protocol: the one that is shown.
    """
    paper = _paper()
    models = [model for model in evaluation["models"] if protocol in model["results"]]
    runs = evaluation.get("runs", [evaluation])
    differences = [
        *([] if protocol == paper["protocol"] else [f"the protocol is {protocol}, not {paper['protocol']}"]),
        *(difference for run in runs for difference in _benchmark_differences(run["benchmarks"], paper)),
        *(difference for model in models for difference in _model_differences(model, paper)),
        *(difference for run in runs for difference in _asked_differently(run, paper)),
    ]
    return list(dict.fromkeys(differences))


class PaperEvaluation(NamedTuple):
    """How the paper evaluates.

    Attributes:
        protocol: by name.
        benchmarks: by name, with their questions.
        attempts: the greatest number of attempts.
        first_attempt: the share that its model solves with one attempt.
    """

    protocol: str
    benchmarks: dict[str, int]
    attempts: int
    first_attempt: float


def paper_evaluation() -> PaperEvaluation:
    """As paper.yaml has it."""
    paper = _paper()
    [curve, *_] = paper["curves"].values()
    return PaperEvaluation(paper["protocol"], paper["benchmarks"], max(paper["attempts"]), curve[0] / 100)


@cache
def _paper() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((Path(__file__).parent / "paper.yaml").read_text(encoding="utf-8"))
    return content


def _benchmark_differences(benchmarks: list[dict[str, Any]], paper: Mapping[str, Any]) -> Iterator[str]:
    questions = {benchmark["name"]: benchmark["questions"] for benchmark in benchmarks}
    if set(questions) != set(paper["benchmarks"]):
        yield f"the benchmarks are {', '.join(questions)}, not {', '.join(paper['benchmarks'])}"
        return
    for name, count in paper["benchmarks"].items():
        if abs(questions[name] - count) > paper["questions_differ"] * count:
            yield f"{name} has {questions[name]} questions, not {count}"


def _model_differences(model: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[str]:
    name, architecture = model["name"], model["architecture"]
    if architecture is None:
        yield f"what kind of model {name} is, is not known"
    elif any(architecture.get(field) != value for field, value in paper["architecture"].items()):
        yield f"{name} is no {paper['model']}"
    elif (context := model.get("context")) not in (None, _context(paper)):
        yield f"{name} had a context of {context} tokens, not {_context(paper)}"


def _asked_differently(run: Mapping[str, Any], paper: Mapping[str, Any]) -> Iterator[str]:
    if run["temperature"]:
        yield f"dialogues are sampled at temperature {run['temperature']:g}, not greedy"
    settings = run.get("settings")
    if settings is None:  # as in evaluations of earlier versions
        yield "the limits of dialogues are not known"
        return
    for name, what in (("max_response_length", "a dialogue"), ("max_tokens_per_attempt", "an attempt")):
        if settings[name] is not None and settings[name] < _context(paper):
            yield f"{what} has at most {settings[name]} tokens, not what the context leaves"


def _context(paper: Mapping[str, Any]) -> int:
    return int(paper["architecture"]["max_position_embeddings"])
