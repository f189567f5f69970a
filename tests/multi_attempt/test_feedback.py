"""The parts of the message between two attempts: what each says, and where it says nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from multi_attempt.config import load_settings
from multi_attempt.episode import Episode, StopReason
from multi_attempt.feedback import Situation, feedback_message, parts_problem
from multi_attempt.prompts import BUILT_IN, OF_TASKS, PARTS, load_prompt_set
from multi_attempt.rewards import RewardRule
from multi_attempt.tasks import Attempt, Message, Task, Verdict, Words, user
from multi_attempt.tasks.load import load_task
from multi_attempt.tasks.math import Math, Problem

PLAIN = load_prompt_set("plain")
TOY = load_prompt_set("toy")
FULL = Situation("Why?", 2, ruled_out=("7", "x + 1"), score=0.254, note="The second test fails.")


def said(situation: Situation, *parts: str, name: str = "plain") -> str:
    return feedback_message(load_prompt_set(name), situation, parts)["content"]


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("verdict", "That is not right."),
        ("attempts_left", "You have 2 attempts left. Try again."),
        ("last_attempt", ""),
        ("ruled_out", "These are wrong: 7, x + 1."),
        ("score", "You have 25 of 100 points."),
        ("note", "The second test fails."),
        ("question", "Why?"),
    ],
)
def test_each_part_in_the_words_of_its_set(part: str, words: str) -> None:
    assert said(FULL, part) == words


def test_parts_come_in_the_order_that_is_asked_for() -> None:
    assert said(FULL, "ruled_out", "verdict", "question") == "These are wrong: 7, x + 1. That is not right.\n\nWhy?"
    assert said(FULL, "question", "verdict") == "Why? That is not right."


def test_the_last_attempt_has_words_of_its_own_in_place_of_the_number() -> None:
    last = replace(FULL, attempts_left=1)
    parts = ("verdict", "attempts_left", "last_attempt")
    assert said(last, *parts) == "That is not right. This is your last attempt. Try again."
    assert said(FULL, *parts) == "That is not right. You have 2 attempts left. Try again."
    assert said(last, "attempts_left") == "You have 1 attempt left. Try again."


def test_what_has_nothing_to_say_leaves_no_gap() -> None:
    nothing = Situation("Why?", 2)
    assert said(nothing, "verdict", "ruled_out", "note", "attempts_left") == said(nothing, "verdict", "attempts_left")


def test_an_attempt_without_an_answer_is_told_so_in_the_words_of_the_rule_for_answers() -> None:
    assert said(replace(FULL, answered=False), "verdict", name="boxed").startswith(r"There is no answer in \boxed{}.")


def test_blind_nothing_is_said_that_gives_the_verdict_away() -> None:
    blind = replace(FULL, blind=True)
    assert said(blind, *PARTS) == "Check that again. You have 2 attempts left. Try again.\n\nWhy?"
    with pytest.raises(ValueError, match="neutral is empty"):
        feedback_message(replace(PLAIN, neutral=""), blind)


@pytest.mark.parametrize("name", [*BUILT_IN, *OF_TASKS])
def test_no_text_of_an_episode_is_taken_for_a_template(name: str) -> None:
    awkward = r"$n ${x} $$ {y} %s \1"
    prompts = load_prompt_set(name)
    parts = [part for part in PARTS if getattr(prompts, part)]
    situation = Situation(awkward, 3, ruled_out=(awkward, "2"), note=awkward)
    content = feedback_message(prompts, situation, parts)["content"]
    assert content.count(awkward) == len({"question", "ruled_out", "note"} & {*parts})


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (("verdict", "wrong"), "no part 'wrong'; the parts are verdict"),
        (("verdict", "note", "verdict"), "verdict stands there twice"),
        (("ruled_out", "note"), "none of these parts always says something"),
        (("verdict", "attempts_left"), "prompt set 'toy_uncounted' has no words for attempts_left"),
    ],
)
def test_parts_that_make_no_message_are_refused(parts: tuple[str, ...], problem: str) -> None:
    assert problem in parts_problem(load_prompt_set("toy_uncounted"), parts)


@pytest.mark.parametrize(
    ("name", "part"), [("math", "score"), ("match", "note"), ("code", "ruled_out"), ("judge", "ruled_out")]
)
def test_what_a_task_cannot_say_is_refused(name: str, part: str) -> None:
    settings: dict[str, Any] = {"judge": {"url": "http://localhost:1/v1", "model": "m"}}
    task = load_task(name, settings.get(name, {}), Words(parts=("verdict", part)))
    assert f"{part}: the task {name!r} cannot say that" in task.feedback_problem()
    assert not load_task(name, settings.get(name, {}), Words(parts=("verdict", "attempts_left"))).feedback_problem()


class OwnWords(Task[Problem]):
    """A task that words its feedback itself, and takes answers for numbers."""

    Row = Problem

    def opening(self, row: Problem, attempts: int) -> list[Message]:
        return [user(row.question)]

    async def verdict(self, row: Problem, response: str) -> Verdict:
        return Verdict(response == row.ground_truth, response)

    def gold_response(self, row: Problem) -> str:
        return row.ground_truth

    def feedback(self, row: Problem, attempts: Sequence[Attempt], left: int) -> Message:
        return user(f"{attempts[-1].answer}? No.")


def test_parts_and_words_of_a_tasks_own_exclude_each_other() -> None:
    assert "words its feedback itself" in OwnWords(words=Words(parts=("verdict",))).feedback_problem()
    assert not OwnWords().feedback_problem()
    assert "no field 'neutral'" in Math(words=Words(replace(PLAIN, neutral=""))).feedback_problem(blind=True)


def math_task(*parts: str, length: int = 80) -> Math:
    return Math(words=Words(TOY, parts, ruled_out_length=length))


def record(episode: Episode, answer: str | None, correct: bool = False) -> str | None:
    message = episode.record("", Verdict(correct, answer))
    return message["content"] if message else None


def test_the_distinct_wrong_answers_so_far_are_ruled_out() -> None:
    episode = Episode(math_task("verdict", "ruled_out"), Problem("1+1", "2"), 6)
    told = [record(episode, answer) for answer in ("3", "4", " 3", None)]
    # The third repeats the first, as the task sees it.
    assert told == ["Wrong. Not 3.", *["Wrong. Not 3, 4."] * 3]


def test_a_long_answer_is_cut_and_stays_on_its_line() -> None:
    episode = Episode(math_task("verdict", "ruled_out", length=8), Problem("1+1", "2"), 3)
    assert record(episode, "1\n+ 2 + 3 + 4") == "Wrong. Not 1 + 2...."


@pytest.mark.parametrize("length", [1, 5, 80])
def test_no_feedback_is_longer_than_those_that_lengths_are_checked_by(length: int) -> None:
    budget, answers = 5, ["9" * 200, "8" * 200, "7" * 79, None]
    task = math_task("verdict", "ruled_out", "attempts_left", length=length)
    episode = Episode(task, Problem("1+1", "2"), budget)
    longest = max(len(message["content"]) for message in task.feedbacks(Problem("1+1", "2"), budget))
    assert max(len(record(episode, answer) or "") for answer in answers) <= longest


def test_lengths_are_checked_by_notes_as_long_as_the_task_may_give() -> None:
    judge = load_task("judge", {"url": "http://localhost:1/v1", "model": "m", "note_length": 300}, Words(TOY))
    row = judge.Row("Why?", "Because.")
    assert max(len(message["content"]) for message in judge.feedbacks(row, 3)) >= 300
    tried = [Attempt.of(Verdict(False, "x", note="y" * 500))]
    assert judge.feedback(row, tried, 1)["content"].count("y") <= 300 + 10


def test_with_one_attempt_nothing_is_told() -> None:
    assert math_task().feedbacks(Problem("1+1", "2"), 1) == []


# ---- Blind ----


@dataclass
class Case:
    right: Sequence[bool]
    reward: float
    stop: StopReason


@pytest.mark.parametrize(
    "case",
    [
        Case((True, False, True), 1.0, StopReason.CORRECT),
        Case((True, True, False), -0.5, StopReason.EXHAUSTED),
        Case((False, False, False), -0.5, StopReason.EXHAUSTED),
    ],
)
def test_a_blind_episode_makes_all_attempts_and_the_last_one_counts(case: Case) -> None:
    episode = Episode(math_task(), Problem("1+1", "2"), len(case.right), blind=True)
    told = [record(episode, str(number), right) for number, right in enumerate(case.right)]
    assert told == ["Again. (2)", "Again. (1)", None]
    assert episode.transcript.stop is case.stop
    assert episode.transcript.success is case.right[-1]
    assert RewardRule()(episode.transcript) == case.reward


def test_config_and_task_agree_on_what_is_told() -> None:
    settings = load_settings({"prompts": "toy", "feedback": ["verdict", "ruled_out"], "ruled_out_length": 4})
    tried = [Attempt.of(Verdict(False, "12345"))]
    assert settings.make_tasks()["math"].feedback(Problem("1+1", "2"), tried, 1) == user("Wrong. Not 1....")
