"""The questions that ``multi-attempt eval`` reads: a question counts once, however many rows hold it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from multi_attempt.data import evaluation_source, make_row, write_parquet
from multi_attempt.evaluation.command import read_questions


def row(text: str, source: str, index: int, attempts: int | None = None, **changes: Any) -> dict[str, Any]:
    return make_row(text, "4", data_source=source, index=index, split="x", attempts=attempts, **changes)


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    write_parquet(rows, path)
    return path


@pytest.mark.parametrize("source", ["math_{}_attempts", "test/math_{}_attempts", "math"])
@pytest.mark.parametrize("named", [True, False], ids=["by id", "by index"])
def test_a_validation_question_counts_once(tmp_path: Path, source: str, named: bool) -> None:
    rows = [
        row(text, source.format(attempts), 10 * attempts + place, attempts, **({"id": text} if named else {}))
        for attempts in (1, 2, 5)
        for place, text in enumerate(("2+2", "1+3"))
    ]
    found = read_questions(written(tmp_path / "validation.parquet", rows))
    assert [(question.benchmark, question.text) for question in found] == [("math", "2+2"), ("math", "1+3")]


def test_rows_of_different_attempts_are_one_question_whatever_their_sets_are_called(tmp_path: Path) -> None:
    rows = [row("2+2", f"mine, {attempts}", attempts, attempts) for attempts in (1, 2)]
    found = read_questions(written(tmp_path / "validation.parquet", rows))
    assert [question.benchmark for question in found] == ["mine, 1"]


def test_questions_of_their_own_stay(tmp_path: Path) -> None:
    """Of another answer, text, name, or benchmark; and a benchmark whose name only looks like ours."""
    other = row("2+2", "one", 1) | {"reward_model": {"style": "rule", "ground_truth": "5"}}
    rows = [row("2+2", "one", 0), other, row("2+ 2", "one", 2), row("2+2", "two", 3)]
    rows += [row("1", "in_2_attempts", 4, 5), row("2+2", "one", 5)]
    found = read_questions(written(tmp_path / "test.parquet", rows))
    assert [(question.benchmark, question.gold, question.id) for question in found] == [
        *(("one", "4", "0"), ("one", "5", "1"), ("one", "4", "2"), ("two", "4", "3"), ("in_2_attempts", "4", "4")),
        ("one", "4", "5"),
    ]


def test_rows_without_a_name_are_told_apart_by_what_they_ask(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{name: value for name, value in row(text, "mine", 0).items() if name != "extra_info"} for text in "aba"]
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    assert [question.text for question in read_questions(path)] == ["a", "b"]


def test_an_evaluation_set_with_attempts_is_that_without(tmp_path: Path) -> None:
    plain, more = (
        written(tmp_path / name, [row("2+2", source, 7, attempts, id="a")])
        for name, source, attempts in (
            ("test.parquet", "aime24", None),
            ("more.parquet", evaluation_source("aime24", 2), 2),
        )
    )
    assert read_questions(plain) == read_questions(more)


def test_different_questions_of_one_name_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row(text, "mine", 0)) + "\n" for text in ("2+2", "1+3")))
    with pytest.raises(
        ValueError, match=r"two questions of mine are called '0'; give each an extra_info\.id of its own"
    ):
        read_questions(path)


def test_a_question_has_its_rows_tolerance(tmp_path: Path) -> None:
    rows = [row("2+2", "one", 0, tolerance="1%"), row("3+3", "one", 1)]
    assert [question.tolerance for question in read_questions(written(tmp_path / "test.parquet", rows))] == ["1%", ""]
    wrong = written(tmp_path / "wrong.parquet", [row("2+2", "one", 0, tolerance="some")])
    with pytest.raises(ValueError, match=r"row 0: reward_model\.tolerance = 'some'"):
        read_questions(wrong)
