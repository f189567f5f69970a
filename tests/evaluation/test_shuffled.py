"""The protocol ``shuffled`` on scripted answers: who gives feedback to whom, and what that shows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from scripted import Script, ScriptedEngine, box, settings

from multi_attempt.evaluation.engines import Request
from multi_attempt.evaluation.evaluate import Model, Question, evaluate
from multi_attempt.evaluation.statistics import MACRO
from multi_attempt.evaluation.tables import markdown, protocol_tables
from multi_attempt.prompts import Message
from multi_attempt.tasks import Attempt, Verdict
from multi_attempt.tasks.math import Math, Problem

MODEL = Model("model", "served")
RULED = "test_shuffled:Ruled"


class Ruled(Math):
    """Feedback names all wrong answers so far, and what the verdicts said of the last."""

    name = ""

    async def verdict(self, row: Problem, response: str) -> Verdict:
        answer = self.words.prompts.extract(response)
        return Verdict(answer == row.ground_truth, answer, score=0.5, note=f"as {answer} is")

    def feedback(self, row: Problem, attempts: Sequence[Attempt], left: int) -> Message:
        return {"role": "user", "content": wording(row.question, [str(each.answer) for each in attempts], left)}


def wording(question: str, answers: Sequence[str], left: int) -> str:
    return f"Not {', '.join(answers)}, of 0.5, as {answers[-1]} is. {question} ({left})"


def questions(*solved_at: int) -> list[Question]:
    """Questions q0, q1, ... of which qN has the answers N1, N2, ...; right is the one of this number."""
    return [
        Question(id=f"q{number}", benchmark="sums", text=f"q{number}", gold=f"{number}{place}")
        for number, place in enumerate(solved_at)
    ]


class Reading(ScriptedEngine):
    """A model that goes through a question's answers, and takes the first that feedback does not rule out."""

    def __init__(self) -> None:
        super().__init__(self.first)

    def first(self, question: str, budget: int, attempt: int, request: Request) -> str:
        heard = self.told[-1][-1]["content"] if attempt > 1 else ""  # one episode at a time
        return box(next(answer for place in range(1, 9) if (answer := f"{question[1:]}{place}") not in heard))


def in_turn(question: str, budget: int, attempt: int, request: Request) -> str:
    """Goes through a question's answers, whatever it is told."""
    return box(f"{question[1:]}{attempt}")


def play(
    engine: ScriptedEngine, output: Path, asked: Sequence[Question], task: str = RULED, **changes: Any
) -> dict[str, Any]:
    how = settings("oracle", "shuffled", task=task, concurrency=1, **{"attempts": 3, **changes})
    return evaluate([MODEL], asked, how, engine, output)


def accuracy(figures: dict[str, Any], protocol: str) -> list[float]:
    found: list[float] = figures["models"][0]["results"][protocol][MACRO]["accuracy"]
    return found


def rows(folder: Path, protocol: str, budget: int) -> dict[str, dict[str, Any]]:
    found = map(json.loads, (folder / "episodes.jsonl").read_text().splitlines())
    return {row["id"]: row for row in found if (row["protocol"], row["budget"]) == (protocol, budget)}


def answers(row: dict[str, Any]) -> list[str]:
    return [attempt["answer"] for attempt in row["attempts"]]


def test_what_is_told_is_word_for_word_what_another_question_s_attempts_make(tmp_path: Path) -> None:
    play(ScriptedEngine(in_turn), tmp_path, questions(9, 9, 9, 3, 1, 9))
    oracle, shuffled = (rows(tmp_path, protocol, 3) for protocol in ("oracle", "shuffled"))
    donors = {id: row["told"]["donor"] for id, row in shuffled.items()}
    for id, row in shuffled.items():
        wrong = [attempt["answer"] for attempt in oracle[donors[id]]["attempts"] if not attempt["correct"]]
        heard = [message["content"] for message in row["messages"][2::2]]
        assert heard == [wording(id, wrong[:made], 3 - made) for made in range(1, len(heard) + 1)]
        assert len(heard) == {"q4": 0}.get(id, 2)
        assert row["messages"][0] == oracle[id]["messages"][0]
    assert not [id for id, donor in donors.items() if id == donor]
    # Those that have enough wrong attempts are permuted among themselves.
    enough = {"q0", "q1", "q2", "q3", "q5"}
    assert {donors[id] for id in enough} == enough
    assert donors["q4"] in enough


def test_a_model_that_ignores_feedback_solves_as_much_and_one_that_reads_it_does_not(tmp_path: Path) -> None:
    asked = questions(1, 2, 3, 3, 9)
    ignoring = play(ScriptedEngine(in_turn), tmp_path / "ignoring", asked)
    assert accuracy(ignoring, "shuffled") == accuracy(ignoring, "oracle") == [1 / 5, 2 / 5, 4 / 5]
    reading = play(Reading(), tmp_path / "reading", asked)
    assert accuracy(reading, "oracle") == [1 / 5, 2 / 5, 4 / 5]
    # What is ruled out is of another question: it says its first answer again and again.
    assert accuracy(reading, "shuffled") == [1 / 5, 1 / 5, 1 / 5]
    text = markdown(protocol_tables(reading))
    assert "model: 12 of 12 messages read otherwise than its own attempts make them." in text


def test_shuffled_plays_oracle_first_and_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    asked = questions(1, 2, 3, 3, 9)
    how = settings("shuffled", task=RULED, attempts=3)  # many episodes at once
    whole = evaluate([MODEL], asked, how, ScriptedEngine(in_turn), tmp_path)
    assert list(whole["models"][0]["results"]) == ["shuffled"]
    file = tmp_path / "episodes.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    protocols = [json.loads(line)["protocol"] for line in lines]
    assert protocols == ["oracle"] * 15 + ["shuffled"] * 10
    for kept in (4, 18):  # in the middle of each
        file.write_bytes(b"".join(lines[:kept]))
        engine = ScriptedEngine(in_turn)
        assert evaluate([MODEL], asked, how, engine, tmp_path) == whole
        assert len(engine.asked) == len(lines) - kept
        assert sorted(file.read_bytes().splitlines(keepends=True)) == sorted(lines)


def test_donors_are_others_with_another_seed(tmp_path: Path) -> None:
    donors = []
    for seed in (0, 1):
        play(ScriptedEngine(in_turn), tmp_path / str(seed), questions(*[9] * 8), seed=seed)
        donors.append({id: row["told"]["donor"] for id, row in rows(tmp_path / str(seed), "shuffled", 3).items()})
    assert donors[0] != donors[1]


@pytest.mark.parametrize(
    ("solved_at", "told", "counts"),
    [
        # q1 has one wrong attempt for the two messages that q0 gets, and q1 gets the last of q0's.
        ((9, 2), {"q0": ["11", "11"], "q1": ["01", "01, 02"]}, {"messages": 6, "others": 6, "short": 1, "own": 0}),
        # Nobody has anything for q0, which hears of its own.
        ((9, 1), {"q0": ["01", "01, 02"], "q1": []}, {"messages": 3, "others": 0, "short": 0, "own": 2}),
    ],
)
def test_where_no_other_question_has_enough_wrong_attempts_it_is_said_what_was_told(
    tmp_path: Path, solved_at: Sequence[int], told: dict[str, list[str]], counts: dict[str, int]
) -> None:
    never_right = {"q1": 9} if solved_at[1] == 2 else {}

    def script(question: str, budget: int, attempt: int, request: Request) -> str:
        # q1 is right under oracle alone, so that it needs all messages when they are shuffled.
        heard = engine.told[-1][-1]["content"] if attempt > 1 else ""
        mislead = never_right and question == "q1" and "11" not in heard and attempt > 1
        return box("18" if mislead else f"{question[1:]}{attempt}")

    engine = ScriptedEngine(script)
    figures = play(engine, tmp_path, questions(*solved_at))
    heard = {
        id: [message["content"].removeprefix("Not ").split(", of")[0] for message in row["messages"][2::2]]
        for id, row in rows(tmp_path, "shuffled", 3).items()
    }
    assert heard == told
    assert figures["models"][0]["shuffled"] == {"dialogues": 4, **counts}


def test_feedback_without_content_leaves_nothing_to_shuffle(tmp_path: Path) -> None:
    figures = play(ScriptedEngine(in_turn), tmp_path, questions(9, 9), task="math")
    oracle, shuffled = (rows(tmp_path, protocol, 3) for protocol in ("oracle", "shuffled"))
    assert {id: row["messages"] for id, row in oracle.items()} == {id: row["messages"] for id, row in shuffled.items()}
    text = markdown(protocol_tables(figures))
    assert "none of 6 messages reads otherwise than its own attempts make it, so that shuffled is oracle here" in text


def test_a_sampled_dialogue_is_drawn_as_under_oracle(tmp_path: Path) -> None:
    engine = ScriptedEngine(in_turn)
    play(engine, tmp_path, questions(9, 9), temperature=1.0, samples=2)
    keys = [request.key for _, request in engine.asked]
    # Those with one attempt, in which nothing is told, are played once.
    assert sorted(keys) == sorted([*set(keys), *(key for key in set(keys) if key.split()[-2] != "1")])
    assert len(set(keys)) == 2 * 3 * 2


def test_dialogues_that_lack_what_feedback_is_worded_from_are_refused(tmp_path: Path) -> None:
    script: Script = in_turn
    evaluate([MODEL], questions(9, 9), settings("oracle", task=RULED), ScriptedEngine(script), tmp_path)
    file = tmp_path / "episodes.jsonl"
    found = [json.loads(line) for line in file.read_text().splitlines()]
    for attempt in (attempt for row in found for attempt in row["attempts"]):
        for name in ("score", "note", "method", "reason"):
            del attempt[name]
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    engine = ScriptedEngine(script)
    with pytest.raises(ValueError, match=r"holds dialogues of an earlier version.*--restart"):
        play(engine, tmp_path, questions(9, 9))
    assert not engine.asked
