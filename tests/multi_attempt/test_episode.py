"""The dialogue about one question: when it ends, what the model is told, and what is recorded."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wordings import REPEATED, after_unjudged, after_wrong

from multi_attempt.episode import Attempt, StopReason, Transcript
from multi_attempt.grading import Verdict
from multi_attempt.prompts import load_prompt_set
from multi_attempt.tasks.math_episode import MathEpisode as Episode

BOXED = load_prompt_set("boxed")
RIGHT = Verdict(correct=True, answer="42", method="exact")
WRONG = Verdict(correct=False, answer="41", method="math-verify")


def new_episode(attempts: int, parts: tuple[str, ...] = ()) -> Episode:
    return Episode("What is 6 times 7?", attempts, BOXED, parts)


def text(answer: object) -> str:
    return f"I say \\boxed{{{answer}}}."


def content(message: dict[str, str] | None) -> str:
    assert message is not None
    return message["content"]


def test_new_episode_shows_the_question_and_has_all_attempts() -> None:
    episode = new_episode(3)
    assert episode.messages == BOXED.opening("What is 6 times 7?", 3)
    assert (episode.done, episode.attempts_left) == (False, 3)
    assert episode.transcript == Transcript(budget=3, stop=StopReason.ABORTED)


def test_correct_first_attempt_ends_the_episode() -> None:
    episode = new_episode(3)
    assert episode.record(text(42), RIGHT) is None
    assert (episode.done, episode.attempts_left) == (True, 0)
    assert episode.transcript.stop is StopReason.CORRECT
    assert episode.transcript.success
    assert len(episode.transcript.attempts) == 1


def test_correct_third_attempt_ends_the_episode() -> None:
    episode = new_episode(5)
    assert episode.record(text(1), WRONG) is not None
    assert episode.record(text(2), WRONG) is not None
    assert episode.record(text(42), RIGHT) is None
    assert episode.transcript.stop is StopReason.CORRECT
    assert [attempt.correct for attempt in episode.transcript.attempts] == [False, False, True]


def test_correct_last_attempt_is_no_exhaustion() -> None:
    episode = new_episode(2)
    episode.record(text(1), WRONG)
    assert episode.record(text(42), RIGHT) is None
    assert episode.transcript.stop is StopReason.CORRECT


def test_wrong_last_attempt_exhausts_the_episode() -> None:
    episode = new_episode(2)
    assert episode.record(text(1), WRONG) is not None
    assert episode.record(text(2), WRONG) is None
    assert (episode.done, episode.attempts_left) == (True, 0)
    assert episode.transcript.stop is StopReason.EXHAUSTED
    assert not episode.transcript.success


@pytest.mark.parametrize("verdict", [RIGHT, WRONG])
def test_single_attempt_never_gets_feedback(verdict: Verdict) -> None:
    episode = new_episode(1)
    assert episode.record(text(42), verdict) is None
    assert episode.done
    assert len(episode.messages) == len(BOXED.opening("", 1)) + 1


@pytest.mark.parametrize(("verdict", "success"), [(RIGHT, True), (WRONG, False)])
def test_truncated_attempt_ends_the_episode_and_is_graded_on_what_it_holds(verdict: Verdict, success: bool) -> None:
    episode = new_episode(3)
    assert episode.record(text(42), verdict, truncated=True) is None
    assert episode.transcript.stop is StopReason.TRUNCATED
    assert episode.transcript.attempts[0].truncated
    assert episode.transcript.success is success
    assert episode.attempts_left == 0


def test_attempts_left_counts_down_and_feedback_says_so() -> None:
    episode = new_episode(4)
    seen = [(episode.attempts_left, "")]
    for guess in range(3):
        feedback = content(episode.record(text(guess), WRONG))
        seen.append((episode.attempts_left, feedback))
    assert [left for left, _ in seen] == [4, 3, 2, 1]
    for (_, feedback), words in zip(seen[1:], ["3 attempts left", "2 attempts left", "1 attempt left"], strict=True):
        assert words in feedback


@pytest.mark.parametrize("parts", [(), REPEATED])
def test_feedback_repeats_the_question_when_asked_to(parts: tuple[str, ...]) -> None:
    episode = new_episode(2, parts)
    assert ("What is 6 times 7?" in content(episode.record(text(1), WRONG))) is bool(parts)


def test_messages_grow_by_the_attempt_and_its_feedback() -> None:
    episode = new_episode(3)
    for guess in (1, 2):
        before = episode.messages
        snapshot = [dict(message) for message in before]
        feedback = episode.record(text(guess), WRONG)
        assert episode.messages == [*before, {"role": "assistant", "content": text(guess)}, feedback]
        assert before == snapshot  # callers keep the messages of before, to render what was added
    before = episode.messages
    episode.record(text(3), WRONG)
    assert episode.messages == [*before, {"role": "assistant", "content": text(3)}]


@pytest.mark.parametrize(
    ("verdict", "truncated", "reason"),
    [(RIGHT, False, "correct"), (WRONG, False, "exhausted"), (WRONG, True, "truncated")],
)
def test_record_after_the_end_raises_and_changes_nothing(verdict: Verdict, truncated: bool, reason: str) -> None:
    episode = new_episode(1)
    episode.record(text(42), verdict, truncated=truncated)
    before = (episode.messages, episode.transcript.to_dict())
    with pytest.raises(RuntimeError, match=reason):
        episode.record(text(42), RIGHT)
    assert (episode.messages, episode.transcript.to_dict()) == before


@pytest.mark.parametrize(
    ("stop", "error"), [(StopReason.TRUNCATED, ""), (StopReason.ABORTED, ""), (StopReason.ABORTED, "OSError: gone")]
)
def test_finish_ends_the_episode_from_outside(stop: StopReason, error: str) -> None:
    episode = new_episode(3)
    episode.record(text(1), WRONG)
    episode.finish(stop, error)
    assert (episode.done, episode.attempts_left) == (True, 0)
    assert (episode.transcript.stop, episode.transcript.error) == (stop, error)
    assert len(episode.transcript.attempts) == 1
    with pytest.raises(RuntimeError, match=stop.value):
        episode.record(text(42), RIGHT)


def test_attempt_without_a_verdict_is_wrong() -> None:
    episode = new_episode(2)
    assert episode.record("I give up.") is not None
    attempt = episode.transcript.attempts[0]
    assert (attempt.answer, attempt.correct, attempt.well_formed, attempt.method) == (None, False, False, "none")


@pytest.mark.parametrize("parts", [(), REPEATED])
def test_attempt_without_an_answer_is_told_that_none_was_found(parts: tuple[str, ...]) -> None:
    question = "What is 6 times 7?"
    episode = new_episode(4, parts)
    assert episode.record("It is 42.") == after_wrong(BOXED, question, 3, parts, answered=False)
    assert episode.record(text(41), WRONG) == after_wrong(BOXED, question, 2, parts)
    assert episode.record(r"\boxed{}") == after_wrong(BOXED, question, 1, parts, answered=False)
    assert [attempt.answer for attempt in episode.transcript.attempts] == [None, "41", None]


def test_where_the_answer_stands_is_the_prompt_sets_choice() -> None:
    episode = Episode("What is 6 times 7?", 2, load_prompt_set("plain"))
    assert episode.extract("6 times 7 makes 41.") == "41"
    assert episode.record("6 times 7 makes 41.", WRONG) == after_wrong(load_prompt_set("plain"), "", 1)


def test_nothing_is_said_of_a_missing_answer_in_a_blind_dialogue() -> None:
    episode = Episode("What is 6 times 7?", 2, BOXED, blind=True)
    assert episode.record("no answer") == after_unjudged(BOXED, "What is 6 times 7?", 1)


def test_attempt_is_recorded_with_all_that_is_known_of_it() -> None:
    episode = new_episode(2)
    verdict = Verdict(correct=False, answer="9^{9^{9}}", method="math-verify", reason="timeout", seconds=2.0)
    episode.record(r"\boxed{9^{9^{9}}}", verdict, span=(7, 20))
    assert episode.transcript.attempts == [
        Attempt(
            span=(7, 20),
            answer="9^{9^{9}}",
            correct=False,
            well_formed=True,
            truncated=False,
            repeated=False,
            method="math-verify",
            reason="timeout",
        )
    ]


@pytest.mark.parametrize(
    ("responses", "repeated"),
    [
        ([text(1), text(1)], [False, True]),
        ([text(1), text(2), text(1)], [False, False, True]),
        ([text(1), text(2), text(3)], [False, False, False]),
        ([text("1/2"), text(" 1 / 2. ")], [False, True]),
        ([text(r"\dfrac{1}{2}"), text(r"$\frac{1}{2}$")], [False, True]),
        ([text(r"\left( 1, 2 \right)"), text("(1,2)")], [False, True]),
        # The same value in another form is another answer: only what normalisation removes counts as the same.
        ([text("1/2"), text("0.5")], [False, False]),
        # No answer twice is no repeated answer.
        (["no", "no"], [False, False]),
        (["no", text(1), "no", text(1)], [False, False, False, True]),
        ([r"\boxed{1} then \boxed{2}", text(1), text(2)], [False, False, True]),
    ],
)
def test_answer_of_an_earlier_attempt_is_marked_as_repeated(responses: list[str], repeated: list[bool]) -> None:
    episode = new_episode(len(responses))
    for response in responses:
        episode.record(response, WRONG)
    assert [attempt.repeated for attempt in episode.transcript.attempts] == repeated


@pytest.mark.parametrize("attempts", [0, -1])
def test_episode_without_attempts_is_refused(attempts: int) -> None:
    with pytest.raises(ValueError, match=f"attempts = {attempts}"):
        new_episode(attempts)


attempts_of_any_kind = st.builds(
    Attempt,
    span=st.tuples(st.integers(0, 10_000), st.integers(0, 10_000)),
    answer=st.none() | st.text(),
    correct=st.booleans(),
    well_formed=st.booleans(),
    truncated=st.booleans(),
    repeated=st.booleans(),
    method=st.sampled_from(["none", "exact", "math-verify"]),
    reason=st.sampled_from(["", "timeout", "crash"]),
)
transcripts = st.builds(
    Transcript,
    budget=st.integers(1, 10),
    stop=st.sampled_from(StopReason),
    attempts=st.lists(attempts_of_any_kind, max_size=10),
    prompt_tokens=st.integers(0, 10**6),
    cached_tokens=st.integers(0, 10**6),
    error=st.text(),
)


@given(transcripts)
def test_transcript_survives_json(transcript: Transcript) -> None:
    data = json.loads(json.dumps(transcript.to_dict()))
    assert Transcript.from_dict(data) == transcript


@given(transcripts)
def test_transcript_as_a_dictionary_holds_built_in_types_only(transcript: Transcript) -> None:
    def check(value: Any) -> None:
        assert type(value) in (dict, list, tuple, str, int, float, bool, type(None))
        if isinstance(value, dict):
            for key, inner in value.items():
                assert type(key) is str
                check(inner)
        elif isinstance(value, (list, tuple)):
            for inner in value:
                check(inner)

    data = transcript.to_dict()
    check(data)
    assert set(data) == {field.name for field in fields(Transcript)}


@given(
    budget=st.integers(1, 6),
    moves=st.lists(
        st.tuples(st.sampled_from([text(1), text(2), text(42), "no answer"]), st.booleans(), st.booleans()), max_size=8
    ),
    parts=st.sampled_from([(), REPEATED]),
)
def test_episode_keeps_its_rules_whatever_the_model_does(
    budget: int, moves: list[tuple[str, bool, bool]], parts: tuple[str, ...]
) -> None:
    episode = new_episode(budget, parts)
    made = 0
    for response, correct, truncated in moves:
        if episode.done:
            break
        left = episode.attempts_left
        feedback = episode.record(response, RIGHT if correct else WRONG, truncated=truncated)
        made += 1
        assert (feedback is None) == episode.done == (correct or truncated or made == budget)
        assert episode.attempts_left == (0 if episode.done else left - 1)

    transcript = episode.transcript
    attempts = transcript.attempts
    assert len(attempts) == made <= budget
    assert not any(attempt.correct or attempt.truncated for attempt in attempts[:-1])
    if not episode.done:
        assert transcript.stop is StopReason.ABORTED
        assert made == len(moves) < budget
    elif attempts[-1].truncated:
        assert transcript.stop is StopReason.TRUNCATED
    elif attempts[-1].correct:
        assert transcript.stop is StopReason.CORRECT
    else:
        assert transcript.stop is StopReason.EXHAUSTED
        assert made == budget
    assert transcript.success == any(attempt.correct for attempt in attempts)
    roles = [message["role"] for message in episode.messages[len(BOXED.opening("", budget)) :]]
    assert roles == (["assistant", "system"] * made)[: 2 * made - episode.done]
