"""Dialogues that show the toy model what multi-attempt episodes look like, as tokens with a loss mask."""

from __future__ import annotations

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from multi_attempt.episode import Episode
from multi_attempt.grading import Verdict
from multi_attempt.prompts import Message, PromptSet
from multi_attempt.toy.questions import ToyQuestion, right_solution, wrong_solution
from multi_attempt.toy.settings import ToySettings
from multi_attempt.toy.tokenizer import MESSAGE_END, MESSAGE_START


@dataclass(frozen=True)
class EncodedDialogue:
    """A dialogue as the model sees it.

    Attributes:
        tokens: token ids, as the chat template gives them.
        trained: for each token, whether the model is to learn it.
    """

    tokens: list[int]
    trained: list[bool]


def demonstrate(
    question: ToyQuestion, prompts: PromptSet, settings: ToySettings, generator: random.Random
) -> list[Message]:
    """The messages of one episode, played with worked solutions until one is right or no attempt is left."""
    episode = Episode(question.question, generator.randint(1, settings.max_attempts), prompts)
    wrong: list[str] = []
    while not episode.done:
        right = generator.random() < (settings.retry_right if wrong else settings.first_right)
        if right:
            attempt = right_solution(question)
        elif wrong and generator.random() < settings.repeat_wrong:
            attempt = generator.choice(wrong)
        else:
            attempt = wrong_solution(question, generator)
        if not right:
            wrong.append(attempt)
        episode.record(attempt, Verdict(correct=right, answer=episode.extract(attempt), method="exact"))
    return episode.messages


def encode_dialogue(messages: list[Message], tokenizer: PreTrainedTokenizerFast) -> EncodedDialogue:
    """The tokens of a dialogue, message by message: the model learns what it says, with the token that ends it.

    Since each byte is a token of its own, the tokens of the parts are the tokens of the whole.
    """
    tokens: list[int] = []
    trained: list[bool] = []
    for message in messages:
        own = message["role"] == "assistant"
        parts = (
            (f"{MESSAGE_START}{message['role']}\n", False),
            (f"{message['content']}{MESSAGE_END}", own),
            ("\n", False),
        )
        for text, learned in parts:
            ids = tokenizer.encode(text)
            tokens += ids
            trained += [learned] * len(ids)
    return EncodedDialogue(tokens, trained)
