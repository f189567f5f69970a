"""The supervised warm-up, after which the toy model knows the format and is about as often right as wrong."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen2ForCausalLM

from multi_attempt.prompts import PromptSet
from multi_attempt.toy.dialogues import EncodedDialogue, demonstrate, encode_dialogue
from multi_attempt.toy.questions import ToyQuestion
from multi_attempt.toy.settings import ToySettings

# The label that the loss of transformers' models leaves out.
_IGNORED = -100


def warm_up(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[ToyQuestion],
    prompts: Sequence[PromptSet],
    settings: ToySettings,
    seed: int,
) -> float:
    """Train a model in place on demonstrated dialogues.

    The same arguments give the same weights on the same machine, with the same number of threads.

    Args:
        model: the model; it is left in evaluation mode.
        tokenizer: the toy tokenizer.
        questions: what the dialogues are about.
        prompts: their wordings, each of which as many have.
        settings: steps, rates, shares.
        seed: decides the dialogues and their order.

    Returns:
        The loss over the last pool of batches, in nats per learned token.
    """
    generator = random.Random(f"toy warm-up {seed}")
    matrices = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=settings.moment_decay,
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, settings))
    model.train()
    losses: deque[float] = deque(maxlen=settings.batches_per_pool)
    batches = _batches(questions, tokenizer, prompts, settings, generator)
    with tqdm(total=settings.steps, desc="warm-up", unit="step") as progress:
        for batch, learned_tokens in batches:
            tokens, labels = collate(batch, padding=tokenizer.pad_token_id)
            # Padding is on the right, where causal attention never looks at it: no attention mask. Every token weighs
            # the same in all batches of a pool: batches of short dialogues would else make first attempts count more.
            loss = model(input_ids=tokens, labels=labels, use_cache=False, num_items_in_batch=learned_tokens).loss
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
            progress.update()
            progress.set_postfix(loss=f"{sum(losses) / len(losses):.3f}", refresh=False)
    model.eval()
    return sum(losses) / len(losses) if losses else math.nan


def collate(dialogues: Sequence[EncodedDialogue], padding: int) -> tuple[Tensor, Tensor]:
    """Tokens and labels, each ``[dialogues, longest]``, padded on the right; labels are -100 where none is learned."""
    longest = max(len(dialogue.tokens) for dialogue in dialogues)
    tokens = torch.full((len(dialogues), longest), padding)
    labels = torch.full((len(dialogues), longest), _IGNORED)
    for row, dialogue in enumerate(dialogues):
        length = len(dialogue.tokens)
        tokens[row, :length] = torch.tensor(dialogue.tokens)
        labels[row, :length] = tokens[row, :length].where(torch.tensor(dialogue.trained), _IGNORED)
    return tokens, labels


def _batches(
    questions: Sequence[ToyQuestion],
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[PromptSet],
    settings: ToySettings,
    generator: random.Random,
) -> Iterator[tuple[list[EncodedDialogue], float]]:
    """For each step a batch of dialogues of similar length, and the learned tokens of an average batch of its pool."""
    for first in range(0, settings.steps, settings.batches_per_pool):
        steps = min(settings.batches_per_pool, settings.steps - first)
        pool = [
            encode_dialogue(demonstrate(question, generator.choice(prompts), settings, generator), tokenizer)
            for question in generator.choices(questions, k=steps * settings.batch_size)
        ]
        pool.sort(key=lambda dialogue: len(dialogue.tokens))
        learned_tokens = sum(sum(dialogue.trained) for dialogue in pool) / steps
        starts = list(range(0, len(pool), settings.batch_size))
        generator.shuffle(starts)
        for start in starts:
            yield pool[start : start + settings.batch_size], learned_tokens


def _rate(step: int, settings: ToySettings) -> float:
    """The learning rate's factor: a linear ramp, then a cosine to zero."""
    ramp = max(1, round(settings.ramp_fraction * settings.steps))
    if step < ramp:
        return (step + 1) / ramp
    return 0.5 * (1 + math.cos(math.pi * (step - ramp) / max(1, settings.steps - ramp)))
