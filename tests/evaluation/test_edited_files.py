"""Files of a run in which something was changed: what reads them says what is wrong, and where, and never breaks."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from report_files import RIGHT, WRONG, episode, evaluation, model, put, training_step, write_run
from scripted import ScriptedEngine, ask, box, settings

from multi_attempt.evaluation import report, tables
from multi_attempt.evaluation.comparison import compare
from multi_attempt.evaluation.dialogues import page_dialogues
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.paper import paper_differences
from multi_attempt.evaluation.run_files import ReportError, read_run
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.prompts import load_prompt_set

GONE = object()
STRANGE = [GONE, None, True, -1, float("nan"), float("inf"), 10**400, "x", [], {}, [[]]]
NO_JSON = [b"", b"{", b"\xff", b"[" * 100_000, b"1" * 5000, b"[1]", b"{}"]


def places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of all values within a JSON document."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (*place, key)
        yield from places(value[key], (*place, key))


def edited(content: Any) -> Iterator[Any]:
    """The document with each of its values gone, or another."""
    for place in places(content):
        for value in STRANGE:
            yield put(copy.deepcopy(content), place, value, gone=GONE)


def read_all(run: Path) -> None:
    """All of a report but its figures, which are slow."""
    found = read_run(run)
    comparison = compare([found])
    assert comparison.evaluation is not None
    sections = tables.protocol_tables(comparison.evaluation)
    assert tables.markdown(sections)
    assert tables.latex(sections)
    assert report.headline(found.metrics, comparison.evaluation)
    paper_differences(comparison.evaluation, "oracle")
    page_dialogues([found], comparison)


def content_of_a_run() -> dict[str, Any]:
    asked = DialogueSettings(load_prompt_set("toy")).to_dict()
    content = evaluation(model("before", [0.4, 0.6]), model("after", [0.5, None]), settings=asked)
    for entry in content["models"]:
        for questions in entry["scores"]["oracle"].values():
            for name in list(questions)[2:]:
                del questions[name]
    return {
        "eval.json": content,
        "metrics.jsonl": training_step(1),
        "episodes.jsonl": episode(WRONG, RIGHT),
        "run.json": {"models": {"before": "x"}, "contexts": {"before": 100}},
    }


@pytest.mark.parametrize("name", ["eval.json", "metrics.jsonl", "episodes.jsonl", "run.json"])
def test_a_report_of_edited_files_is_made_or_refused_with_the_place(tmp_path: Path, name: str) -> None:
    files = content_of_a_run()
    write_run(tmp_path)
    for other, content in files.items():
        (tmp_path / other).write_text(json.dumps(content) + "\n")
    read_all(tmp_path)
    texts = [json.dumps(changed).encode() for changed in edited(files[name])] + NO_JSON
    refusals = []
    for text in texts:
        (tmp_path / name).write_bytes(text + b"\n")
        try:
            read_all(tmp_path)
        except ReportError as error:
            refusals.append(str(error))
    assert len(refusals) > len(texts) / 4
    assert all(name in message for message in refusals)


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("played")
    play(folder)
    return folder


def play(folder: Path) -> None:
    def script(question: str, budget: int, attempt: int, request: object) -> str:
        return box(4 if attempt == 2 else 5)

    how = settings("oracle", "blind", "majority", attempts=2)
    evaluate([Model("m", "served")], ask("a"), how, ScriptedEngine(script), folder)


@pytest.mark.parametrize("name", ["run.json", "episodes.jsonl"])
def test_an_evaluation_goes_on_from_edited_files_or_refuses_them(played: Path, name: str) -> None:
    whole = {file: (played / file).read_bytes() for file in ("run.json", "episodes.jsonl")}
    first, rest = whole[name].split(b"\n", 1) if name == "episodes.jsonl" else (whole[name], b"")
    refusals = []
    texts = [json.dumps(changed).encode() for changed in edited(json.loads(first))] + NO_JSON
    for text in texts:
        for file, content in whole.items():
            (played / file).write_bytes(content)
        (played / name).write_bytes(text + b"\n" + rest)
        try:
            play(played)
        except ValueError as error:
            refusals.append(str(error))
    assert len(refusals) > len(texts) / 4
    assert all(str(played) in message for message in refusals)
