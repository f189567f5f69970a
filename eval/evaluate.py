"""Evaluate models: play the episodes that the protocols ask for, all at once, and keep each as it ends.

Episodes, prompts, grader and tokens are those of training.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from multi_attempt.config import TaskSettings
from multi_attempt.dialogue import Stream, play
from multi_attempt.episode import Episode, StopReason
from multi_attempt.evaluation.engines import Engine, EngineLost, Request, Vocabulary, weights_digest
from multi_attempt.evaluation.figures import model_figures
from multi_attempt.evaluation.protocols import PROTOCOLS, SAMPLED, Kind, Outcome, Rules
from multi_attempt.evaluation.records import Place, Records, outcomes
from multi_attempt.grading import Grader

_logger = logging.getLogger(__name__)

TRAINING_TEMPERATURE = 1.0
"""Of fresh samples, where dialogues are greedy."""


@dataclass(frozen=True)
class Question:
    """A question, its answer, and where it is from.

    Attributes:
        id: its name in its benchmark.
        benchmark: the set of questions that it belongs to.
        text: what is asked.
        gold: the right answer.
    """

    id: str
    benchmark: str
    text: str
    gold: str


class Model(NamedTuple):
    """A model: what reports call it, and its folder, or its name on the server."""

    name: str
    path: str


@dataclass(frozen=True)
class Settings:
    """What an evaluation depends on beside models and questions.

    Attributes:
        task: prompts, limits and grader, as in training.
        protocols: which to run, see :data:`multi_attempt.evaluation.protocols.PROTOCOLS`.
        attempts: the greatest number of attempts, K.
        samples: dialogues of a kind for each question, and fresh samples, of which there are at least K.
        temperature: of dialogues; 0 is greedy.
        seed: of sampling.
        max_prompt_length: tokens of the first prompt.
        max_response_length: tokens of all attempts and the feedback between them.
        concurrency: episodes under way at once.
    """

    task: TaskSettings
    protocols: tuple[str, ...] = ("oracle",)
    attempts: int = 5
    samples: int = 1
    temperature: float = 0.0
    seed: int = 0
    max_prompt_length: int = 1024
    max_response_length: int = 3000
    concurrency: int = 256

    def __post_init__(self) -> None:
        for name in ("attempts", "samples", "max_prompt_length", "max_response_length", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} = {getattr(self, name)} must be at least 1")
        if self.temperature < 0:
            raise ValueError(f"--temperature = {self.temperature} must be 0 (greedy) or more")
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols:
            raise ValueError(f"--protocols: unknown {', '.join(unknown)}; there are {', '.join(PROTOCOLS)}, and all")
        dialogues = [name for name in self.protocols if name not in SAMPLED]
        if self.samples > 1 and not self.temperature and dialogues:
            raise ValueError(
                f"--samples = {self.samples} with --temperature = 0: greedy dialogues ({', '.join(dialogues)}) are all "
                "the same; set a temperature above 0"
            )
        if "blind" in self.protocols and not self.task.prompt_set.neutral:
            raise ValueError(
                f"--prompts = {self.task.prompts!r} cannot be used with the protocol blind: it has no field 'neutral', "
                "which words what follows an attempt on which nothing is said"
            )

    @property
    def sampling_temperature(self) -> float:
        """Of fresh samples: the dialogues' own, or training's where those are greedy."""
        return self.temperature or TRAINING_TEMPERATURE

    def temperature_of(self, kind: Kind) -> float:
        """The temperature of a kind of episode."""
        return self.sampling_temperature if kind.protocol in SAMPLED else self.temperature

    def kinds(self, rules: Rules) -> list[Kind]:
        """The kinds of episode that the protocols need, each once."""
        return list(dict.fromkeys(kind for name in self.protocols for kind in PROTOCOLS[name].kinds(rules)))

    def fingerprint(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What the episodes depend on; the protocols, K and the number of samples may change, and episodes are kept."""
        asked = json.dumps([asdict(question) for question in questions])
        task = self.task
        return {
            "questions": hashlib.sha256(asked.encode()).hexdigest(),
            "prompts": asdict(task.prompt_set),
            "repeat_question": task.repeat_question,
            "max_tokens_per_attempt": task.max_tokens_per_attempt,
            "grader": asdict(task.grader.policies),
            **{name: getattr(self, name) for name in ("temperature", "seed", "max_prompt_length")},
            "max_response_length": self.max_response_length,
        }


def evaluate(
    models: Sequence[Model], questions: Sequence[Question], settings: Settings, engine: Engine, output: Path
) -> dict[str, Any]:
    """Evaluate models, one after the other, into a folder; goes on where an earlier run in it was.

    Args:
        models: whose names differ.
        questions: of one benchmark or several.
        settings: what and how.
        engine: where answers come from.
        output: the folder, see :mod:`multi_attempt.evaluation.records`.

    Returns:
        What ``eval.json`` holds.

    Raises:
        ValueError: a question's prompt is too long, or the folder belongs to another evaluation.
        EngineLost: the engine gave up; the episodes so far are kept.
    """
    digests = {
        model.name: weights_digest(Path(model.path)) if Path(model.path).is_dir() else model.path for model in models
    }
    with Records(output, settings.fingerprint(questions), digests) as records:
        grader = settings.task.grader.make()
        try:
            rules = Rules(
                settings.attempts,
                settings.samples,
                settings.max_response_length,
                lambda one, other: grader.grade(one, other).correct,
            )
            vocabularies = {model: engine.vocabulary(model.path) for model in models}
            for vocabulary in vocabularies.values():
                _check_prompts(vocabulary, questions, settings)
            for model, vocabulary in vocabularies.items():
                asyncio.run(_Evaluation(model, questions, settings, rules, records, grader).run(engine, vocabulary))
            figures = _figures(vocabularies, questions, settings, rules, records)
        finally:
            grader.close()
        records.write_figures(figures)
    return figures


def _check_prompts(vocabulary: Vocabulary | None, questions: Sequence[Question], settings: Settings) -> None:
    if vocabulary is None:
        return
    for question in questions:
        length = len(vocabulary.opening(_episode(question, settings, settings.attempts).messages))
        if length > settings.max_prompt_length:
            raise ValueError(
                f"--max-prompt-length = {settings.max_prompt_length}: the prompt of question {question.id!r} of "
                f"{question.benchmark} has {length} tokens; raise it"
            )


def _episode(question: Question, settings: Settings, attempts: int, *, blind: bool = False) -> Episode:
    task = settings.task
    return Episode(question.text, attempts, task.prompt_set, task.repeat_question, blind=blind)


@dataclass
class _Evaluation:
    """The evaluation of one model."""

    model: Model
    questions: Sequence[Question]
    settings: Settings
    rules: Rules
    records: Records
    grader: Grader
    failures_in_a_row: int = 0

    async def run(self, engine: Engine, vocabulary: Vocabulary | None) -> None:
        """Play what has not been played, or has failed."""
        kinds = self.settings.kinds(self.rules)
        places = [
            (question, place)
            for kind in kinds
            for question in self.questions
            if (place := Place(self.model.name, question.benchmark, question.id, kind)) not in self.records.played
        ]
        if not places:
            return
        room = self.settings.max_prompt_length + self.settings.max_response_length
        self.grader.warm_up()
        total = len(kinds) * len(self.questions)
        async with engine.open(self.model.path, vocabulary, room) as make_stream:
            with tqdm(
                total=total, initial=total - len(places), desc=f"Evaluating {self.model.name}", unit="episode"
            ) as bar:
                await self._play_all(iter(places), make_stream, bar)

    async def _play_all(
        self, places: Iterator[tuple[Question, Place]], make_stream: Callable[[Request], Stream], bar: tqdm[Any]
    ) -> None:
        async def work() -> None:
            for question, place in places:
                await self._play(question, place, make_stream)
                bar.update()

        workers = [asyncio.create_task(work()) for _ in range(self.settings.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _play(self, question: Question, place: Place, make_stream: Callable[[Request], Stream]) -> None:
        settings, kind = self.settings, place.kind
        episode = _episode(question, settings, kind.budget, blind=kind.protocol == "blind")
        key = f"{settings.seed} {question.benchmark} {question.id} {' '.join(map(str, kind))}"
        stream = make_stream(Request(settings.temperature_of(kind), key))
        try:
            await play(
                episode,
                question.gold,
                stream,
                self.grader.grade_async,
                room=settings.max_response_length,
                max_tokens_per_attempt=settings.task.max_tokens_per_attempt,
            )
            self.failures_in_a_row = 0
        except EngineLost:
            raise
        except Exception as error:
            _logger.warning("Question %s of %s failed: %r", question.id, question.benchmark, error)
            episode.finish(StopReason.ABORTED, error=f"{type(error).__name__}: {error}")
        self.records.add(place, _row(question, episode))
        self._give_up_after_failures(episode.transcript.error)

    def _give_up_after_failures(self, error: str) -> None:
        """A server that answers nothing any more would cost every episode all of its retries."""
        self.failures_in_a_row += bool(error)
        if self.failures_in_a_row > self.settings.concurrency:
            raise EngineLost(
                f"{self.failures_in_a_row} episodes in a row failed; what was done is kept, and the same command goes "
                f"on from there. The last error: {error}"
            )


def _row(question: Question, episode: Episode) -> dict[str, Any]:
    transcript = episode.transcript
    attempts = tuple(
        Outcome(
            attempt.answer,
            attempt.correct,
            attempt.well_formed,
            attempt.repeated,
            attempt.truncated,
            tokens=attempt.span[1] - attempt.span[0],
        )
        for attempt in transcript.attempts
    )
    return {
        "question": question.text,
        "gold": question.gold,
        "stop": transcript.stop.value,
        "error": transcript.error,
        "messages": episode.messages,
        "attempts": outcomes(attempts),
    }


def _figures(
    models: Mapping[Model, Vocabulary | None],
    questions: Sequence[Question],
    settings: Settings,
    rules: Rules,
    records: Records,
) -> dict[str, Any]:
    played = records.played
    benchmarks: dict[str, list[str]] = {}
    for question in questions:
        benchmarks.setdefault(question.benchmark, []).append(question.id)
    kinds = settings.kinds(rules)
    entries = []
    for model, vocabulary in models.items():
        places = {
            name: {
                id: {kind: played[place] for kind in kinds if (place := Place(model.name, name, id, kind)) in played}
                for id in ids
            }
            for name, ids in benchmarks.items()
        }
        missing = len(kinds) * len(questions) - sum(len(found) for rows in places.values() for found in rows.values())
        entries.append(
            {
                "name": model.name,
                "path": model.path,
                "architecture": vocabulary and {name: vocabulary.config.get(name) for name in _ARCHITECTURE},
                "failed": missing,
                **model_figures(places, settings.protocols, rules),
            }
        )
    return {
        "attempts": list(range(1, settings.attempts + 1)),
        "temperature": settings.temperature,
        "sampling_temperature": settings.sampling_temperature,
        "samples": settings.samples,
        "benchmarks": [{"name": name, "questions": len(ids)} for name, ids in benchmarks.items()],
        "protocols": {name: PROTOCOLS[name].information for name in settings.protocols},
        "models": entries,
    }


# What tells which model a checkpoint was made from.
_ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
