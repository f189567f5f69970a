"""Accuracy by the number of attempts allowed: the paper's evaluation, on vLLM in this process.

The protocol is the paper's (``oracle``): for each k one run (greedy by default) with N = k, whose prompts say k and
whose dialogues the ground truth ends. Episodes, prompts, grader and tokens are those of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from multi_attempt.config import TaskSettings
from multi_attempt.episode import Episode, StopReason

PROTOCOL = "oracle"
"""What the model is told: after each attempt, by the ground truth, whether it was right."""

_CONFIDENCE = 0.95
_RESAMPLES = 10_000


@dataclass(frozen=True)
class Question:
    """A question and its answer."""

    text: str
    gold: str


@dataclass(frozen=True)
class EngineSettings:
    """The engine's limits.

    Attributes:
        dtype: of weights and activations.
        max_prompt_length: tokens of the first prompt.
        max_response_length: tokens of all attempts and the feedback between them.
        temperature: of sampling; 0 is greedy.
        seed: of sampling.
        options: further arguments of ``vllm.LLM``.
    """

    dtype: str = "auto"
    max_prompt_length: int = 1024
    max_response_length: int = 3000
    temperature: float = 0.0
    seed: int = 0
    options: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Run:
    """An episode and its tokens: prompt and response so far."""

    episode: Episode
    gold: str
    ids: list[int]
    prompt_length: int


def evaluate(
    model: Path,
    questions: Sequence[Question],
    attempts: Sequence[int],
    settings: TaskSettings,
    engine: EngineSettings,
    *,
    name: str,
) -> dict[str, Any]:
    """Evaluate one model.

    Args:
        model: folder of a model in Hugging Face format, with its tokenizer.
        questions: what to ask.
        attempts: the numbers of attempts to allow, each in a run of its own.
        settings: prompts, limits and grader, as in training.
        engine: the engine's limits.
        name: what to call the model in reports.

    Returns:
        The model's entry of ``eval.json``: ``accuracy``, its 95% interval ``low`` to ``high`` (bootstrap over
        questions) and ``first_attempt_accuracy``, each a list aligned with ``attempts``; and all ``dialogues``.
    """
    from transformers import AutoConfig, AutoTokenizer
    from verl.utils.tokenizer.continuous_token_wiring import create_continuous_token_builder

    from verl_ext.agent_loop import end_of_turn_ids

    tokenizer = AutoTokenizer.from_pretrained(model)
    builder = create_continuous_token_builder(tokenizer, hf_model_type=AutoConfig.from_pretrained(model).model_type)
    runs = []
    for allowed in attempts:
        for question in questions:
            episode = Episode(question.text, allowed, settings.prompt_set, settings.repeat_question)
            ids = list(builder.build_initial_tokens(episode.messages))
            runs.append(_Run(episode, question.gold, ids, prompt_length=len(ids)))
    with _Engine(model, engine, end_of_turn_ids(tokenizer, {})) as generate:
        _play(runs, generate, builder, tokenizer, settings, engine.max_response_length, name)
    by_attempts = [runs[start : start + len(questions)] for start in range(0, len(runs), len(questions))]
    solved = [[run.episode.transcript.success for run in group] for group in by_attempts]
    intervals = [_interval(group) for group in solved]
    return {
        "name": name,
        "path": str(model),
        "accuracy": [float(np.mean(group)) for group in solved],
        "low": [low for low, _ in intervals],
        "high": [high for _, high in intervals],
        "first_attempt_accuracy": [
            float(np.mean([run.episode.transcript.attempts[0].correct for run in group])) for group in by_attempts
        ],
        "dialogues": [_dialogue(run) for run in runs],
    }


class _Engine:
    """vLLM for one model, shut down on exit: the next model needs its memory."""

    def __init__(self, model: Path, settings: EngineSettings, end_ids: frozenset[int]) -> None:
        self._model, self._settings, self._end_ids = model, settings, end_ids

    def __enter__(self) -> Callable[[list[list[int]], list[int]], list[tuple[list[int], bool]]]:
        from vllm import LLM

        settings = self._settings
        self._engine = LLM(
            model=str(self._model),
            dtype=settings.dtype,  # type: ignore[arg-type]
            max_model_len=settings.max_prompt_length + settings.max_response_length,
            enable_prefix_caching=True,
            seed=settings.seed,
            **settings.options,
        )
        return self._generate

    def __exit__(self, *_: object) -> None:
        self._engine.llm_engine.engine_core.shutdown()
        del self._engine

    def _generate(self, prompts: list[list[int]], limits: list[int]) -> list[tuple[list[int], bool]]:
        """Responses of at most so many tokens: token ids, and whether the limit cut them."""
        from vllm import SamplingParams, TokensPrompt

        parameters = [
            SamplingParams(
                temperature=self._settings.temperature, max_tokens=limit, stop_token_ids=sorted(self._end_ids)
            )
            for limit in limits
        ]
        outputs = self._engine.generate(
            [TokensPrompt(prompt_token_ids=ids) for ids in prompts], parameters, use_tqdm=False
        )
        responses = [list(output.outputs[0].token_ids) for output in outputs]
        return [(ids, not ids or ids[-1] not in self._end_ids) for ids in responses]


def _play(
    runs: list[_Run],
    generate: Callable[[list[list[int]], list[int]], list[tuple[list[int], bool]]],
    builder: Any,
    tokenizer: Any,
    settings: TaskSettings,
    max_response_length: int,
    name: str,
) -> None:
    """Play all episodes to their end, one attempt of each at a time."""
    grader = settings.grader.make()
    with tqdm(total=len(runs), desc=f"Evaluating {name}", unit="episode") as progress:
        while active := [run for run in runs if not run.episode.done]:
            room = [max_response_length - (len(run.ids) - run.prompt_length) for run in active]
            limits = [min(left, settings.max_tokens_per_attempt or left) for left in room]
            for run, (ids, truncated) in zip(active, generate([run.ids for run in active], limits), strict=True):
                span = (len(run.ids) - run.prompt_length, len(run.ids) - run.prompt_length + len(ids))
                run.ids = builder.merge_assistant_tokens(run.ids, ids).token_ids
                text = tokenizer.decode(ids, skip_special_tokens=True)
                before = len(run.episode.messages)
                verdict = grader.grade(run.episode.extract(text), run.gold)
                if run.episode.record(text, verdict, span=span, truncated=truncated) is not None:
                    answered, messages = run.episode.messages[: before + 1], run.episode.messages
                    merged = builder.merge_context_tokens(answered, messages, run.ids).token_ids
                    if len(merged) - run.prompt_length >= max_response_length:
                        run.episode.finish(StopReason.TRUNCATED)
                    run.ids = merged
                progress.update(run.episode.done)
    grader.close()


def _interval(solved: Sequence[bool]) -> tuple[float, float]:
    """The percentile bootstrap interval of a share; resampling yes-or-no answers is drawing from a binomial."""
    generator = np.random.default_rng(0)
    shares = generator.binomial(len(solved), np.mean(solved), _RESAMPLES) / len(solved)
    tail = (1 - _CONFIDENCE) / 2
    return float(np.quantile(shares, tail)), float(np.quantile(shares, 1 - tail))


def _dialogue(run: _Run) -> dict[str, Any]:
    transcript = run.episode.transcript
    fields = ("answer", "correct", "well_formed", "truncated", "repeated")
    return {
        "question": run.episode.question,
        "gold": run.gold,
        "budget": transcript.budget,
        "stop": transcript.stop.value,
        "messages": run.episode.messages,
        "attempts": [{name: getattr(attempt, name) for name in fields} for attempt in transcript.attempts],
    }
