"""What being told is worth, beside protocols that tell less, worked out by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import ScriptedEngine, ask, box, settings

from multi_attempt.evaluation.engines import Request
from multi_attempt.evaluation.evaluate import Model, evaluate
from multi_attempt.evaluation.statistics import MACRO, WEIGHTED
from multi_attempt.evaluation.tables import markdown, protocol_tables
from multi_attempt.evaluation.told import EQUAL_ATTEMPTS, EQUAL_TOKENS

TOKENS = len(box(4))


def evaluated(script: Any, output: Path, *protocols: str, attempts: int = 3, **changes: Any) -> dict[str, Any]:
    how = settings(*protocols, attempts=attempts, **changes)
    return evaluate([Model("model", "served")], ask("a", "b", "c", "d"), how, ScriptedEngine(script), output)


def told(figures: dict[str, Any], equal: str, other: str) -> dict[str, Any]:
    found: dict[str, Any] = figures["models"][0]["told"][equal][other]
    macro: dict[str, Any] = found[MACRO]
    for name, values in macro.items():  # of the one benchmark there is
        assert found["benchmarks"]["sums"][name] == pytest.approx(values)
        assert found[WEIGHTED][name] == pytest.approx(values)
    return macro


def right_from(places: dict[str, int]) -> Any:
    return lambda question, budget, attempt, request: box(4 if attempt >= places.get(question, 9) else 5)


def test_a_model_to_which_feedback_is_nothing_gains_nothing_by_it(tmp_path: Path) -> None:
    # a is right from its first attempt on, b from its second, told or not.
    figures = evaluated(right_from({"a": 1, "b": 2}), tmp_path, "oracle", "blind")
    for equal in (EQUAL_ATTEMPTS, EQUAL_TOKENS):
        found = told(figures, equal, "blind")
        assert found["difference"] == [0, 0, 0]
        assert found["accuracy"] == [1 / 4, 2 / 4, 2 / 4]
        assert found["low"][0] < 0 < found["high"][0]
    # With as many attempts blind makes all of them; for as many tokens it ends where oracle does.
    assert told(figures, EQUAL_ATTEMPTS, "blind")["tokens"] == [TOKENS, 2 * TOKENS, 3 * TOKENS]
    for_tokens = told(figures, EQUAL_TOKENS, "blind")
    assert for_tokens["attempts"] == [1, 2, 3]
    assert for_tokens["tokens"] == pytest.approx([TOKENS, TOKENS * 7 / 4, TOKENS * 9 / 4])
    assert "### Oracle beyond blind, for as many tokens" in markdown(protocol_tables(figures))


def test_fresh_samples_may_have_as_many_attempts_as_take_the_tokens(tmp_path: Path) -> None:
    # Told, all but d are right at the second attempt. Of 4 fresh samples of a question the first is right.
    def script(question: str, budget: int, attempt: int, request: Request) -> str:
        if "independent" in request.key:
            return box(4 if request.key.endswith(" 0") else 5)
        return box(4 if attempt == 2 and question != "d" else 5)

    figures = evaluated(script, tmp_path, "oracle", "independent", samples=4, temperature=1.0)
    found = told(figures, EQUAL_TOKENS, "independent")
    # One right of four, in any order: m samples take 1, 7/4, 9/4, 10/4 attempts and are right with m/4.
    # Oracle makes 1, 2 and 9/4: the second is between two samples and three, at odds of a half.
    assert found["attempts"] == pytest.approx([1, 2.5, 3])
    assert found["accuracy"] == pytest.approx([1 / 4, 5 / 8, 3 / 4])
    assert found["difference"] == pytest.approx([-1 / 4, 1 / 8, 0])
    assert found["tokens"] == pytest.approx([TOKENS, 2 * TOKENS, TOKENS * 9 / 4])


def test_where_all_attempts_are_fewer_tokens_there_is_no_figure(tmp_path: Path) -> None:
    # Told, the model goes on and on; not told, it is right at once.
    def script(question: str, budget: int, attempt: int, request: Request) -> str:
        return box(4) if "blind" in request.key else "so " + box(5)

    figures = evaluated(script, tmp_path, "oracle", "blind")
    found = told(figures, EQUAL_TOKENS, "blind")
    for name in ("difference", "low", "high", "accuracy", "attempts"):
        assert found[name] == [None, None, None]
    assert found["failed_by_attempts"] == [0, 0, 0]
    assert told(figures, EQUAL_ATTEMPTS, "blind")["difference"] == [-1, -1, -1]
    assert markdown(protocol_tables(figures))


def test_what_failed_makes_the_difference_a_range(tmp_path: Path) -> None:
    def script(question: str, budget: int, attempt: int, request: Request) -> str:
        if question == "d" and budget == 2:
            raise ConnectionError("the line is dead")
        return right_from({"a": 1, "b": 2})(question, budget, attempt, request)

    figures = evaluated(script, tmp_path, "oracle", "blind", attempts=2)
    found = told(figures, EQUAL_TOKENS, "blind")
    assert found["failed_by_attempts"][1] == 1
    assert (found["difference"][1], found["difference_at_most"][1]) == (-1 / 4, 1 / 4)


def test_without_oracle_there_is_nothing_to_compare(tmp_path: Path) -> None:
    figures = evaluated(right_from({"a": 1}), tmp_path, "blind", "independent")
    assert figures["models"][0]["told"] == {}
    assert "beyond" not in markdown(protocol_tables(figures))
