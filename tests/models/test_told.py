"""Every part of feedback, and reflection, on real chat templates: in words, and as tokens."""

from __future__ import annotations

import pytest
from families import family

from multi_attempt.episode import Episode
from multi_attempt.prompts import Message, load_prompt_set
from multi_attempt.tasks import Verdict, Words
from multi_attempt.tasks.math import Math, Problem
from multi_attempt.turns import ChatTemplate

FAMILIES = ("qwen2_5", "llama3", "smollm2", "gemma3", "qwen3", "zephyr")
QUESTION = Problem("2+2?", "4")
TURNS = pytest.mark.parametrize(
    ("name", "before", "after"),
    [
        ("qwen2_5", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        ("smollm2", "<|im_end|>\n<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"),
        ("gemma3", "<end_of_turn>\n<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n"),
    ],
)
"""What a turn of the user's begins and ends with, behind an attempt and before the next."""
ALL = ("verdict", "ruled_out", "attempts_left", "last_attempt", "score", "note", "question")


def chat_of(name: str) -> ChatTemplate:
    made = family(name)
    return ChatTemplate(made.tokenizer, generation_end_ids=made.engine_ends)


def between(chat: ChatTemplate, messages: list[Message]) -> str:
    """What stands behind an attempt that was cut, so that the token which closes it is there too."""
    ids = chat.after_attempt(messages, None)
    text: str = chat.tokenizer.decode(ids)
    assert chat.opening(messages)[-len(ids) :] == ids
    return text


def played(*answers: str, parts: tuple[str, ...] = ALL, blind: bool = False, reflects: bool = False) -> Episode:
    task = Math(words=Words(load_prompt_set("plain"), parts))
    episode = Episode(task, QUESTION, len(answers) + 1, blind=blind, reflects=reflects)
    for answer in answers:
        episode.record(f"It is {answer}.", Verdict(False, answer, score=0.5, note="Look again."))
    return episode


@TURNS
def test_all_parts_stand_between_two_attempts_word_for_word(name: str, before: str, after: str) -> None:
    said = (
        "That is not right. These are wrong: 5, 6. This is your last attempt. Try again. You have 50 of 100 points.\n"
        "Look again.\n\n2+2?"
    )
    assert between(chat_of(name), played("5", "6").messages) == before + said + after
    once = between(chat_of(name), played("5", "5", "7", parts=("verdict", "attempts_left")).messages)
    assert once == f"{before}That is not right. You have 1 attempt left. Try again.{after}"


@TURNS
def test_a_blind_dialogue_says_nothing_of_the_verdict(name: str, before: str, after: str) -> None:
    said = "Check that again. This is your last attempt. Try again.\n\n2+2?"
    assert between(chat_of(name), played("5", blind=True).messages) == before + said + after


@TURNS
def test_the_model_is_asked_what_went_wrong_and_then_for_the_next_attempt(name: str, before: str, after: str) -> None:
    episode, chat = played("5", parts=("verdict",), reflects=True), chat_of(name)
    asked = "That is not right. First say in a sentence what may have gone wrong, without an answer."
    assert between(chat, episode.messages) == before + asked + after
    episode.reflect("I added one too many.")
    assert between(chat, episode.messages) == f"{before}Now try again.{after}"


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_told_does_not_depend_on_the_attempts_own_words(name: str) -> None:
    chat, said = chat_of(name), set()
    for words in ("5", "<think>\nHm.\n</think>\n\n5", " 5 \n\n"):
        episode = played(parts=("verdict", "question"))
        episode = Episode(episode.task, QUESTION, 3, reflects=True)
        episode.record(words, Verdict(False, "5"))
        first = between_ids(chat, episode.messages)
        episode.reflect(words)
        said.add((first, between_ids(chat, episode.messages)))
    assert len(said) == 1


def between_ids(chat: ChatTemplate, messages: list[Message]) -> tuple[int, ...]:
    return tuple(chat.after_attempt(messages, None))
