"""Dialogues that show the toy model what multi-attempt episodes look like, as tokens with a loss mask."""

from __future__ import annotations

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from multi_attempt.grading import Verdict
from multi_attempt.prompts import Message, PromptSet
from multi_attempt.tasks.math_episode import MathEpisode
from multi_attempt.toy.questions import KINDS, ToyQuestion, slipped_solution, solution
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
    """The messages of one episode, played with worked solutions until one is right or no attempt is left.

    The first attempt takes the reading that is meant more often. So do most others: who plays insists.
    """
    episode = MathEpisode(question.question, generator.randint(1, settings.max_attempts), prompts)
    likelier = KINDS[question.kind].plus > 0.5
    while not episode.done:
        mends = bool(episode.transcript.attempts) and generator.random() < settings.retry_right
        plus = question.plus if mends else likelier
        slips = not mends and generator.random() < settings.slips
        attempt = slipped_solution(question, plus, generator) if slips else solution(question, plus)
        answer = episode.extract(attempt)
        episode.record(attempt, Verdict(correct=answer == question.answer, answer=answer, method="exact"))
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
