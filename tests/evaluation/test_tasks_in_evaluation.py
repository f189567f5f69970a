"""A mixture of tasks, evaluated on scripted answers: each question by its own task, with its own sameness."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from scripted import ScriptedEngine, box, settings

from multi_attempt.data import make_row
from multi_attempt.evaluation.command import read_questions
from multi_attempt.evaluation.engines import Request
from multi_attempt.evaluation.evaluate import Model, Question, Settings, evaluate
from multi_attempt.evaluation.settings import in_words

SUM, CAPITAL = "1/4 + 1/4", "Capital of France?"

# What fresh samples and attempts say, in turn. The two right ones win the vote if they are taken for the same.
SAID = {SUM: ["3", "0.5", "7", "1/2"], CAPITAL: ["Rome", "PARIS", "Lyon", " paris"]}


def said(question: str, budget: int, attempt: int, request: Request) -> str:
    sample = int(request.key.split()[-1]) if budget == 1 else attempt - 1
    return box(SAID[question][sample])


@pytest.fixture
def asked() -> Settings:
    return settings("oracle", "majority", attempts=4, tasks={"match": {"prompts": "toy"}})


@pytest.fixture
def questions(tmp_path: Path, asked: Settings) -> list[Question]:
    sums = make_row(SUM, "1/2", data_source="sums", index=0, split="test")
    capital = make_row(
        CAPITAL, "Paris", data_source="capitals", index=1, split="test", task="match", fields={"pattern": ""}
    )
    file = tmp_path / "mixture.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in (sums, capital)))
    return read_questions(file, asked.dialogue.make_tasks())


def test_each_question_is_evaluated_by_its_own_task(tmp_path: Path, asked: Settings, questions: list[Question]) -> None:
    assert [(question.text, question.gold) for question in questions] == [(SUM, "1/2"), (CAPITAL, "Paris")]
    output = tmp_path / "evaluation"
    figures = evaluate([Model("model", "served")], questions, asked, ScriptedEngine(said), output)
    results = figures["models"][0]["results"]
    for benchmark in ("sums", "capitals"):
        assert results["oracle"]["benchmarks"][benchmark]["accuracy"] == [0, 1, 1, 1]
        # Of the sets of three, two hold both right samples, and two one of three different ones.
        assert results["majority"]["benchmarks"][benchmark]["accuracy"] == pytest.approx([1 / 2, 1 / 2, 2 / 3, 1])
    rows = [json.loads(line) for line in (output / "episodes.jsonl").read_text().splitlines()]
    answers = {(row["id"], tuple(each["answer"] for each in row["attempts"])) for row in rows if row["budget"] == 4}
    assert answers == {("0", ("3", "0.5")), ("1", ("Rome", "PARIS"))}
    assert "match.prompts" in in_words(figures["settings"])


def test_a_question_whose_gold_response_its_task_calls_wrong_is_named(
    tmp_path: Path, asked: Settings, questions: list[Question]
) -> None:
    wrong = Question(
        "7", "capitals", "Which?", "Paris", task="match", fields={"ground_truth": "Paris", "pattern": "L.*"}
    )
    with pytest.raises(ValueError, match=r"question '7' of capitals: the task 'match' calls the row's own gold"):
        evaluate([Model("model", "served")], [*questions, wrong], asked, ScriptedEngine(said), tmp_path / "evaluation")
    assert not (tmp_path / "evaluation").exists()
