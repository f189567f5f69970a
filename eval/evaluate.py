"""Evaluate models: play the episodes that the protocols ask for, all at once, and keep each as it ends.

Episodes, tasks and tokens are those of training.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm

from multi_attempt.dialogue import play
from multi_attempt.episode import Episode, StopReason
from multi_attempt.evaluation.engines import (
    ContextFull,
    Engine,
    EngineLost,
    MakeStream,
    Partner,
    Request,
    weights_digest,
)
from multi_attempt.evaluation.figures import Benchmarks, model_figures
from multi_attempt.evaluation.protocols import PROTOCOLS, SAMPLED, Kind, Outcome, Played, Rules
from multi_attempt.evaluation.records import Place, Records, outcomes
from multi_attempt.evaluation.shuffled import Donor, Donors, Group, ShuffledEpisode, summary
from multi_attempt.evaluation.told import told_figures
from multi_attempt.history import Turn, most_prompt_tokens
from multi_attempt.model_settings import DialogueSettings
from multi_attempt.reflection import longest_messages
from multi_attempt.tasks import Task
from multi_attempt.tasks.load import Asked, Tasks, row_problems
from multi_attempt.turns import TemplateError, template_problems

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
        gold: what is right.
        tolerance: how far a number may be from it, where the benchmark says so.
        task: the name of its task; empty for the settings' own.
        fields: what its task needs beside these.
    """

    id: str
    benchmark: str
    text: str
    gold: str
    tolerance: str = ""
    task: str = ""
    fields: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, asked: Asked[Any], id: str, benchmark: str, task: str = "") -> Question:
        """A question as its task sees it."""
        text, gold = asked.task.question(asked.row), asked.task.gold(asked.row)
        said = {"question": text, "ground_truth": gold}
        fields = {name: value for name, value in asdict(asked.row).items() if said.get(name) != value}
        return cls(id, benchmark, text, gold, str(fields.pop("tolerance", None) or ""), task, fields)

    def asked(self, tasks: Tasks) -> Asked[Any]:
        """The question with its task."""
        row = {"question": self.text, "ground_truth": self.gold, "tolerance": self.tolerance, **self.fields}
        return tasks.read({**row, "extra_info": {"task": self.task}}, self.name)

    @property
    def name(self) -> str:
        """What messages call it."""
        return f"question {self.id!r} of {self.benchmark}"

    def to_dict(self) -> dict[str, Any]:
        """What it says, without what other questions than mathematics may have, where it has none of that."""
        more = {"task": self.task, "fields": self.fields}
        return {
            **{name: getattr(self, name) for name in ("id", "benchmark", "text", "gold", "tolerance")},
            **{name: value for name, value in more.items() if value},
        }


class Model(NamedTuple):
    """A model: what reports call it, and its folder, or its name on the server."""

    name: str
    path: str


@dataclass(frozen=True)
class Settings:
    """What an evaluation depends on beside models and questions.

    Attributes:
        dialogue: what the models are asked with, as in training.
        protocols: which to run, see :data:`multi_attempt.evaluation.protocols.PROTOCOLS`.
        attempts: the greatest number of attempts, K.
        samples: dialogues of a kind for each question, and fresh samples, of which there are at least K.
        seed: of sampling.
        concurrency: episodes under way at once.
        fresh_temperature: of fresh samples; None for the dialogues' own, or training's where those are greedy.
    """

    dialogue: DialogueSettings
    protocols: tuple[str, ...] = ("oracle",)
    attempts: int = 5
    samples: int = 1
    seed: int = 0
    concurrency: int = 256
    fresh_temperature: float | None = None

    def __post_init__(self) -> None:
        for name in ("attempts", "samples", "concurrency"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name.replace('_', '-')} = {getattr(self, name)} must be at least 1")
        if self.fresh_temperature is not None and not 0 < self.fresh_temperature < math.inf:
            raise ValueError(
                f"--sampling-temperature = {self.fresh_temperature} must be a number above 0: greedy samples are all "
                "the same"
            )
        unknown = [name for name in self.protocols if name not in PROTOCOLS]
        if unknown or not self.protocols:
            raise ValueError(f"--protocols: unknown {', '.join(unknown)}; there are {', '.join(PROTOCOLS)}, and all")
        dialogues = [name for name in self.protocols if name not in SAMPLED]
        if self.samples > 1 and not self.temperature and dialogues:
            raise ValueError(
                f"--samples = {self.samples} with --temperature = 0: greedy dialogues ({', '.join(dialogues)}) are all "
                "the same; set a temperature above 0"
            )
        _check_feedback(self.dialogue.make_tasks().default, self)

    @property
    def temperature(self) -> float:
        """Of dialogues; 0 is greedy."""
        return self.dialogue.temperature

    @property
    def sampling_temperature(self) -> float:
        """Of fresh samples."""
        if self.fresh_temperature is not None:
            return self.fresh_temperature
        return self.temperature or TRAINING_TEMPERATURE

    def temperature_of(self, kind: Kind) -> float:
        """The temperature of a kind of episode."""
        return self.sampling_temperature if kind.protocol in SAMPLED else self.temperature

    def kinds(self, rules: Rules) -> list[Kind]:
        """The kinds of episode that the protocols need, each once."""
        return list(dict.fromkeys(kind for name in self.protocols for kind in PROTOCOLS[name].kinds(rules)))

    def fingerprint(self, questions: Sequence[Question]) -> dict[str, Any]:
        """What the episodes depend on; the protocols, K and the number of samples may change, and episodes are kept."""
        asked = json.dumps([question.to_dict() for question in questions])
        return {
            "questions": hashlib.sha256(asked.encode()).hexdigest(),
            **self.dialogue.to_dict(),
            "seed": self.seed,
            "fresh_temperature": self.fresh_temperature,
        }


def evaluate(
    models: Sequence[Model],
    questions: Sequence[Question],
    settings: Settings,
    engine: Engine,
    output: Path,
    restart: bool = False,
) -> dict[str, Any]:
    """Evaluate models, one after the other, into a folder; goes on where an earlier run in it was.

    Args:
        models: whose names differ.
        questions: of one benchmark or several.
        settings: what and how.
        engine: where answers come from.
        output: the folder, see :mod:`multi_attempt.evaluation.records`.
        restart: throw away what the folder holds of an earlier evaluation, as soon as this one can begin.

    Returns:
        What ``eval.json`` holds.

    Raises:
        ValueError: a question cannot be asked (its prompt fills the context, it spells special tokens), or its task
            calls its own gold response wrong; a task has no words for a protocol, or lacks what it needs; the chat
            template cannot show the dialogues, or the folder belongs to another evaluation.
        EngineLost: the engine gave up; the episodes so far are kept.
    """
    work = _Work(settings, questions)
    work.check()
    digests = {
        model.name: weights_digest(Path(model.path)) if Path(model.path).is_dir() else model.path for model in models
    }
    partners = {model: engine.prepare(model.path, settings.dialogue) for model in models}
    contexts = {model.name: partner.context for model, partner in partners.items()}
    partners = {model: _with_room(model, partner, work) for model, partner in partners.items()}
    with Records(output, settings.fingerprint(questions), digests, contexts, restart) as records:
        try:
            for model, partner in partners.items():
                asyncio.run(_Evaluation(model, partner, work, records).run(engine))
            figures = _figures(partners, work, records)
        finally:
            asyncio.run(work.tasks.close())
        records.write_figures(figures)
    return figures


# ---- Before anything starts ----


class _Work:
    """What there is to do: the questions with their tasks."""

    def __init__(self, settings: Settings, questions: Sequence[Question]) -> None:
        self.settings, self.questions = settings, questions
        self.tasks = settings.dialogue.make_tasks()
        self.critic = settings.dialogue.make_critic()
        self.rules = Rules(settings.attempts, settings.samples)
        self._asked = {(each.benchmark, each.id): each.asked(self.tasks) for each in questions}

    def asked(self, question: Question) -> Asked[Any]:
        """A question with its task."""
        return self._asked[question.benchmark, question.id]

    def rules_of(self, benchmark: str, id: str) -> Rules:
        """The rules of a question, of whose answers its task says which are the same."""
        task = self._asked[benchmark, id].task
        return replace(self.rules, same=task.same, repeats=task.repeats)

    def episode(self, question: Question, attempts: int, *, blind: bool = False) -> Episode:
        """An episode that has not begun."""
        asked = self.asked(question)
        reflects = self.settings.dialogue.reflect == "self"
        return Episode(asked.task, asked.row, attempts, blind=blind, reflects=reflects)

    def shuffled_episode(self, question: Question, attempts: int, donor: Donor | None) -> ShuffledEpisode:
        """One in which the model is told of a donor's attempts."""
        asked = self.asked(question)
        reflects = self.settings.dialogue.reflect == "self"
        return ShuffledEpisode(asked.task, asked.row, attempts, donor, reflects=reflects)

    def group(self, question: Question) -> Group:
        """Among which questions one may be told of another's attempts: those of its benchmark and task."""
        return question.benchmark, self.asked(question).task.name

    def longest(self) -> list[Asked[Any]]:
        """For each task its longest question."""
        longest: dict[str, Asked[Any]] = {}
        for question in sorted(self.questions, key=lambda each: len(each.text)):
            longest[self.asked(question).task.name] = self.asked(question)
        return list(longest.values())

    def check(self) -> None:
        """Whether the tasks have all that they need.

        Raises:
            ValueError: one has not, or calls a gold response of its own wrong.
        """
        for asked in self.longest():
            asked.task.check()
            _check_feedback(asked.task, self.settings)
        # In a thread of its own, since an event loop may be running in this one.
        with ThreadPoolExecutor(1) as apart:
            if self.critic is not None:
                apart.submit(self.critic.check).result()
            problems = apart.submit(asyncio.run, self._problems()).result()
        for question, problem in zip(self.questions, problems, strict=True):
            if problem:
                raise ValueError(f"{question.name}: {problem}")

    async def _problems(self) -> list[str]:
        try:
            return await row_problems([self.asked(question) for question in self.questions])
        finally:
            await self.tasks.close()


def _check_feedback(task: Task[Any], settings: Settings) -> None:
    reflects = settings.dialogue.reflect == "self"
    if problem := task.feedback_problem(blind="blind" in settings.protocols, reflects=reflects):
        protocols = " ".join(settings.protocols)
        raise ValueError(f"--prompts = {task.words.prompts.name!r}, --protocols {protocols}: {problem}")


def _with_room(model: Model, partner: Partner, work: _Work) -> Partner:
    """The model with as much of its context as the questions can use, if all of them can be asked.

    Raises:
        ValueError: one cannot; the message names it.
    """
    limit = work.settings.dialogue.max_response_length
    if partner.context is None and limit is None:
        raise ValueError(
            f"--model = {model.path!r}: nobody says how long its context is, nor so how many tokens a dialogue may "
            "have: say it (--max-response-length N), or name the tokenizer's folder (--tokenizer PATH)"
        )
    if partner.vocabulary is None:
        return partner
    _check_template(model, partner, work)
    longest = max(_prompt_length(model, partner, question, work) for question in work.questions)
    longest = max(longest, *(_longest_later(partner, asked, work) for asked in work.longest()))
    lengths = (partner.context, None if limit is None else longest + limit)
    return replace(partner, context=min(length for length in lengths if length is not None))


def _longest_later(partner: Partner, asked: Asked[Any], work: _Work) -> int:
    """Tokens of the prompt of a question's last attempt, as far as they are bounded."""
    dialogue, attempts = work.settings.dialogue, work.settings.attempts
    limits = [limit for limit in (dialogue.max_tokens_per_attempt, dialogue.max_response_length) if limit is not None]
    if not (dialogue.kept.apart and limits):
        return 0
    assert partner.vocabulary is not None
    between = longest_messages(asked.task, asked.row, attempts, dialogue.reflect, dialogue.reflection)
    turn = Turn(*between, min(limits), dialogue.reflection.max_tokens)
    return most_prompt_tokens(dialogue.kept, partner.vocabulary.chat, asked.task, asked.row, turn, attempts=attempts)


def _check_template(model: Model, partner: Partner, work: _Work) -> None:
    assert partner.vocabulary is not None
    chat, attempts, problems = partner.vocabulary.chat, work.settings.attempts, []
    for task, row in ((asked.task, asked.row) for asked in work.longest()):
        dialogue = work.settings.dialogue
        between = longest_messages(task, row, attempts, dialogue.reflect, dialogue.reflection)
        problems += template_problems(chat, task.wording, task.opening(row, attempts), [*between[0], *between[1]])
    if problems:
        raise ValueError(
            f"--model = {model.path!r}: {'; '.join(problems)}. The flags for these settings of training are --prompts, "
            "--feedback-role and --chat-template"
        )


def _prompt_length(model: Model, partner: Partner, question: Question, work: _Work) -> int:
    """Tokens of a question's longest prompt."""
    assert partner.vocabulary is not None
    chat, name = partner.vocabulary.chat, question.name
    if marks := chat.marks_in(question.text):
        raise ValueError(
            f"{name} holds {', '.join(map(repr, marks))}, which the tokenizer of {model.path!r} takes for a special "
            "token, so that it would open or close turns of its own; write it otherwise, or leave the question out"
        )
    # Prompts differ in the number of attempts only, which is longest where it is greatest, or has words for 1.
    prompts = [work.episode(question, attempts).messages for attempts in {1, work.settings.attempts}]
    try:
        length = max(len(chat.opening(messages)) for messages in prompts)
    except TemplateError as error:
        raise ValueError(f"{name}: {error}") from error
    if partner.context is not None and length >= partner.context:
        raise ValueError(
            f"{name}: its prompt has {length} tokens, and the context of {model.path!r} {partner.context}, which "
            "leaves none for an attempt; leave the question out, or give the model a longer context, if it can have "
            "one (--engine max_model_len=N, or the server's own setting)"
        )
    return length


# ---- The episodes ----


@dataclass
class _Evaluation:
    """The evaluation of one model."""

    model: Model
    partner: Partner
    work: _Work
    records: Records
    failures_in_a_row: int = 0

    def __post_init__(self) -> None:
        groups: dict[Group, list[str]] = {}
        for question in self.work.questions:
            groups.setdefault(self.work.group(question), []).append(question.id)
        self.donors = Donors(groups, self._played, self.work.settings.seed)

    def _played(self, group: Group, id: str, kind: Kind) -> Played | None:
        return self.records.played.get(Place(self.model.name, group[0], id, kind))

    async def run(self, engine: Engine) -> None:
        """Play what has not been played, or has failed."""
        kinds, questions = self.work.settings.kinds(self.work.rules), self.work.questions
        places = [
            (question, place)
            for kind in kinds
            for question in questions
            if (place := Place(self.model.name, question.benchmark, question.id, kind)) not in self.records.played
        ]
        if not places:
            return
        self._check_donors(place.kind for _, place in places)
        self.work.tasks.warm_up()
        total = len(kinds) * len(questions)
        try:
            async with engine.open(self.partner) as make_stream:
                with tqdm(
                    total=total, initial=total - len(places), desc=f"Evaluating {self.model.name}", unit="episode"
                ) as bar:
                    # Feedback that is shuffled comes from dialogues that have ended.
                    for shuffled in (False, True):
                        batch = (each for each in places if (each[1].kind.protocol == "shuffled") == shuffled)
                        await self._play_all(batch, make_stream, bar)
        finally:
            await self.work.tasks.close()

    def _check_donors(self, kinds: Iterable[Kind]) -> None:
        """Whether the dialogues under oracle that there are have all that feedback is worded from."""
        if any(kind.protocol == "shuffled" for kind in kinds) and any(
            attempt.note is None
            for place, played in self.records.played.items()
            if place.model == self.model.name and place.kind.protocol == "oracle"
            for attempt in played.attempts
        ):
            raise ValueError(
                f"--output = {str(self.records.folder)!r} holds dialogues of an earlier version, which did not keep "
                "all that the protocol shuffled words feedback from; name another folder, or --restart to begin anew "
                "there"
            )

    async def _play_all(
        self, places: Iterator[tuple[Question, Place]], make_stream: MakeStream, bar: tqdm[Any]
    ) -> None:
        async def work() -> None:
            for question, place in places:
                await self._play(question, place, make_stream)
                bar.update()

        workers = [asyncio.create_task(work()) for _ in range(self.work.settings.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)

    async def _play(self, question: Question, place: Place, make_stream: MakeStream) -> None:
        settings, kind = self.work.settings, place.kind
        shuffled = kind.protocol == "shuffled"
        if shuffled:
            donor = self.donors.of(self.work.group(question), question.id, kind)
            episode: Episode = self.work.shuffled_episode(question, kind.budget, donor)
        else:
            episode = self.work.episode(question, kind.budget, blind=kind.protocol == "blind")
        # What is shuffled is sampled like its dialogue under oracle, so that they differ by what is told alone.
        sampled_as = kind._replace(protocol="oracle") if shuffled else kind
        key = f"{settings.seed} {question.benchmark} {question.id} {' '.join(map(str, sampled_as))}"
        stream = make_stream(Request(settings.temperature_of(kind), key))
        room = settings.dialogue.max_response_length or self.partner.context
        assert room is not None
        try:
            await play(
                episode,
                stream,
                room=room,
                max_tokens_per_attempt=settings.dialogue.max_tokens_per_attempt,
                max_tokens_per_reflection=settings.dialogue.reflection.max_tokens,
                critic=self.work.critic,
                history=settings.dialogue.kept,
            )
            self.failures_in_a_row = 0
        except EngineLost:
            raise
        except ContextFull:
            episode.finish(StopReason.TRUNCATED)
        except Exception as error:
            _logger.warning("Question %s of %s failed: %r", question.id, question.benchmark, error)
            episode.finish(StopReason.ABORTED, error=f"{type(error).__name__}: {error}")
        known = stream.context_room  # not before the first answer, where only the server knows the prompt's tokens
        room = room if known is None else min(room, known)
        # Where attempts are sequences of their own, each has all of the room.
        sequences = settings.attempts if settings.dialogue.kept.apart else 1
        self.records.add(place, _row(question, episode, room * sequences))
        self._give_up_after_failures(episode.transcript.error)

    def _give_up_after_failures(self, error: str) -> None:
        """A server that answers nothing any more would cost every episode all of its retries."""
        self.failures_in_a_row += bool(error)
        if self.failures_in_a_row > self.work.settings.concurrency:
            raise EngineLost(
                f"{self.failures_in_a_row} episodes in a row failed; what was done is kept, and the same command goes "
                f"on from there. The last error: {error}"
            )


def _row(question: Question, episode: Episode, room: int) -> dict[str, Any]:
    transcript = episode.transcript
    reflected = {each.attempt: each.span[1] - each.span[0] for each in transcript.reflections}
    made = [Outcome.of(attempt) for attempt in transcript.attempts]
    attempts = tuple(
        replace(outcome, tokens=outcome.tokens + reflected.get(number, 0)) for number, outcome in enumerate(made, 1)
    )
    return {
        "question": question.text,
        "gold": question.gold,
        "room": room,
        "stop": transcript.stop.value,
        "error": transcript.error,
        "messages": episode.messages,
        "attempts": outcomes(attempts),
        "reflections": [asdict(reflection) for reflection in transcript.reflections],
        **({"told": asdict(episode.told)} if isinstance(episode, ShuffledEpisode) else {}),
    }


def _figures(partners: Mapping[Model, Partner], work: _Work, records: Records) -> dict[str, Any]:
    settings, questions, played = work.settings, work.questions, records.played
    benchmarks: dict[str, list[str]] = {}
    for question in questions:
        benchmarks.setdefault(question.benchmark, []).append(question.id)
    kinds = settings.kinds(work.rules)
    entries = []
    for model, partner in partners.items():
        vocabulary = partner.vocabulary
        places = {
            name: {
                id: {kind: played[place] for kind in kinds if (place := Place(model.name, name, id, kind)) in played}
                for id in ids
            }
            for name, ids in benchmarks.items()
        }
        found = model_figures(places, settings.protocols, settings.attempts, work.rules_of)
        missing = len(kinds) * len(questions) - sum(len(each) for rows in places.values() for each in rows.values())
        entries.append(
            {
                "name": model.name,
                "path": model.path,
                "architecture": vocabulary and {name: vocabulary.config.get(name) for name in _ARCHITECTURE},
                "failed": missing,
                **_shuffled(places, settings.protocols),
                **found,
                "told": told_figures(found, places, work.rules),
            }
        )
    return {
        "attempts": list(range(1, settings.attempts + 1)),
        "temperature": settings.temperature,
        "sampling_temperature": settings.sampling_temperature,
        "samples": settings.samples,
        "settings": settings.dialogue.to_dict(),
        "benchmarks": [{"name": name, "questions": len(ids)} for name, ids in benchmarks.items()],
        "protocols": {name: PROTOCOLS[name].information for name in settings.protocols},
        "models": entries,
    }


def _shuffled(places: Benchmarks, protocols: Sequence[str]) -> dict[str, Any]:
    if "shuffled" not in protocols:
        return {}
    return {"shuffled": summary(each for rows in places.values() for found in rows.values() for each in found.values())}


# What tells which model a checkpoint was made from.
_ARCHITECTURE = ("model_type", "hidden_size", "num_hidden_layers", "vocab_size", "max_position_embeddings")
