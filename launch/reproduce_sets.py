"""The sets of held-out questions of an experiment, each a file in which every kind of question is a benchmark."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reproduce_plan import Plan

from multi_attempt.data import write_parquet
from multi_attempt.evaluation.command import read_questions
from multi_attempt.evaluation.evaluate import Question


@dataclass(frozen=True)
class QuestionSet:
    """A set of questions to evaluate on.

    Attributes:
        title: what to call it.
        file: where it is.
        questions: what it holds; their benchmarks are the kinds of question.
    """

    title: str
    file: Path
    questions: list[Question]

    @property
    def kinds(self) -> list[str]:
        """The kinds of question."""
        return list(dict.fromkeys(question.benchmark for question in self.questions))


def question_sets(plan: Plan) -> list[QuestionSet]:
    """The sets that a plan names, of questions that are written already.

    Raises:
        ValueError: a file is missing, or holds no questions of the data source named.
    """
    return [_question_set(plan, entry) for entry in plan.sets]


def by_kind(file: Path, entry: Mapping[str, Any], output: Path, most: int | None = None) -> Path:
    """Write a file's questions of one data source once more, the kind of each as its data source.

    Args:
        file: with a ``kind`` in each row's ``extra_info``.
        entry: of the plan: ``data_source`` says which questions, ``prefix`` what stands before their kinds.
        output: where to write.
        most: how many questions at most, from the first.

    Raises:
        ValueError: there are none of this data source.
    """
    import datasets

    rows = datasets.load_dataset("parquet", data_files=str(file), split="train").to_list()
    found = [row for row in rows if row["data_source"] == entry["data_source"]][:most]
    if not found:
        there = ", ".join(sorted({row["data_source"] for row in rows}))
        raise ValueError(
            f"{file} holds no questions of data_source = {entry['data_source']!r}: name one of {there} in the plan"
        )
    output.parent.mkdir(parents=True, exist_ok=True)
    prefix = entry.get("prefix", "")
    write_parquet([{**row, "data_source": f"{prefix}{row['extra_info']['kind']}"} for row in found], output)
    return output


def _question_set(plan: Plan, entry: Mapping[str, Any]) -> QuestionSet:
    file = plan.task / entry["file"]
    if "data_source" in entry:
        file = by_kind(file, entry, plan.output / "sets" / f"{entry['data_source']}.parquet")
    return QuestionSet(entry["title"], file, read_questions(file))
