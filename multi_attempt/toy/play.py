"""Playing episodes with a model in memory, without an engine: how well does the toy model do?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast, Qwen2ForCausalLM

from multi_attempt.episode import Transcript
from multi_attempt.grading import Grader
from multi_attempt.prompts import PromptSet
from multi_attempt.tasks.math_episode import MathEpisode
from multi_attempt.toy.questions import ToyQuestion


def play(
    model: Qwen2ForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    questions: Sequence[ToyQuestion],
    prompts: PromptSet,
    *,
    attempts: int,
    max_new_tokens: int,
    seed: int,
    greedy: bool = False,
) -> list[Transcript]:
    """One episode for each question, all at the same time, sampled at temperature 1 from the full distribution.

    Spans of the transcripts count from the start of an attempt, so they give its length, the end token included.

    Args:
        model: the model.
        tokenizer: its tokenizer.
        questions: the questions.
        prompts: the wording.
        attempts: the budget of each episode.
        max_new_tokens: longest attempt, in tokens; a longer one is cut.
        seed: of the sampling.
        greedy: take the likeliest token instead.
    """
    episodes = [MathEpisode(question.question, attempts, prompts) for question in questions]
    grader = Grader()
    generate: Any = model.generate  # type: ignore[misc]  # a mixin whose type does not know its models
    sampling = GenerationConfig(
        do_sample=not greedy,
        top_k=None if greedy else 0,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        while running := [number for number, episode in enumerate(episodes) if not episode.done]:
            prompt: Any = tokenizer.apply_chat_template(
                [episodes[number].messages for number in running],
                add_generation_prompt=True,
                padding=True,
                return_tensors="pt",
                return_dict=True,
            )
            output: Any = generate(**prompt, generation_config=sampling)
            for number, response in zip(running, output[:, prompt["input_ids"].shape[1] :].tolist(), strict=True):
                complete = tokenizer.eos_token_id in response
                length = response.index(tokenizer.eos_token_id) + 1 if complete else len(response)
                text = str(tokenizer.decode(response[:length], skip_special_tokens=True))
                verdict = grader.grade(episodes[number].extract(text), questions[number].answer)
                episodes[number].record(text, verdict, span=(0, length), truncated=not complete)
    grader.close()
    return [episode.transcript for episode in episodes]
