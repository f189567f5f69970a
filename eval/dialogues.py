"""The dialogues of a report: as many as fit on its page, in the form that the page's script shows."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from multi_attempt.evaluation.comparison import Comparison
from multi_attempt.evaluation.run_files import EpisodeKey, Run

LIMIT = 12_000_000
"""Bytes of dialogues on a page."""

_Places = list[tuple[str, int, EpisodeKey]]
"""The episodes of a question: the model's name as shown, the run and the key in its file."""


class _Packed:
    """Dialogues in the page's form; texts that come more than once are kept once, and referred to by number."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.questions: list[dict[str, Any]] = []
        self.dialogues: list[dict[str, Any]] = []
        self.size = 0
        self._numbers: dict[str, int] = {}

    def add(self, benchmark: str, name: str, episodes: Sequence[tuple[str, Mapping[str, Any]]], limit: int) -> bool:
        """Add a question with the episodes about it, each by its model's name, unless that would pass the limit."""
        question = {
            "benchmark": benchmark,
            "id": name,
            "question": episodes[0][1]["question"],
            "gold": episodes[0][1]["gold"],
        }
        known = len(self.texts)
        dialogues = [
            {"question": len(self.questions), "model": model, **self._dialogue(episode)} for model, episode in episodes
        ]
        size = self.size + len(to_script([question, dialogues, self.texts[known:]]).encode())
        if size > limit:
            for text in self.texts[known:]:
                del self._numbers[text]
            del self.texts[known:]
            return False
        self.size = size
        self.questions.append(question)
        self.dialogues += dialogues
        return True

    def _dialogue(self, episode: Mapping[str, Any]) -> dict[str, Any]:
        graded = episode["attempts"]
        attempts: list[dict[str, Any]] = []
        told: list[list[Any]] = []
        reflected = {each["attempt"] for each in episode.get("reflections", ()) if each["by"] == "self"}
        for message in episode["messages"]:
            own = message["role"] == "assistant"
            if not own or len(attempts) in reflected:
                role = "reflection" if own else message["role"]
                told.append([role, self._number(message["content"])])
                reflected -= {len(attempts)} if own else set()
                continue
            # A response that came before an episode failed may lack a grade.
            attempt = graded[len(attempts)] if len(attempts) < len(graded) else {"answer": None, "tokens": None}
            attempts.append(
                {
                    "told": told,
                    "content": message["content"],
                    "answer": attempt["answer"],
                    "tokens": attempt["tokens"],
                    "verdicts": _verdicts(attempt),
                }
            )
            told = []
        fields = {name: episode[name] for name in ("protocol", "budget", "sample", "stop", "error")}
        return {**fields, "outcomes": outcomes(episode), "attempts": attempts}

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


def page_dialogues(runs: Sequence[Run], comparison: Comparison, limit: int = LIMIT) -> dict[str, Any]:
    """What the page's script is given: all dialogues, or those about as many questions as fit.

    Questions are taken in turn from each benchmark, in an order by the hash of their ids, each with all episodes about
    it, until one does not fit.

    Args:
        runs: whose episodes to show.
        comparison: of these runs.
        limit: bytes that the dialogues may have.

    Returns:
        ``questions``, ``dialogues`` (those about a question stand together, and in it those of different models),
        ``texts`` that these refer to, ``models`` and ``protocols`` by name, and of all there are ``total``: the number
        of dialogues, and ``all_questions``: the number of questions.
    """
    by_question: dict[str, dict[str, _Places]] = defaultdict(lambda: defaultdict(list))
    for index, run in enumerate(runs):
        for key in run.episodes.places if run.episodes else ():
            by_question[key.benchmark][key.id].append((comparison.shown_names[index, key.model], index, key))
    evaluated = [model["name"] for model in comparison.evaluation["models"]] if comparison.evaluation else []
    models = list(dict.fromkeys([*evaluated, *comparison.shown_names.values()]))
    protocols = list(comparison.evaluation["protocols"]) if comparison.evaluation else []
    packed = _Packed()
    for benchmark, name in _in_turn(by_question):
        places = sorted(by_question[benchmark][name], key=lambda place: _order(place[2], place[0], models, protocols))
        episodes = [(model, file.read(key)) for model, index, key in places if (file := runs[index].episodes)]
        if not packed.add(benchmark, name, episodes, limit):
            break
    order = [_reading_order(question, comparison) for question in packed.questions]
    packed.dialogues.sort(key=lambda dialogue: order[dialogue["question"]])
    played = {dialogue["protocol"] for dialogue in packed.dialogues}
    return {
        "questions": packed.questions,
        "dialogues": packed.dialogues,
        "texts": packed.texts,
        "models": models,
        "protocols": sorted(played, key=lambda name: _position(name, protocols)),
        "total": sum(len(places) for questions in by_question.values() for places in questions.values()),
        "all_questions": sum(map(len, by_question.values())),
    }


def to_script(value: Any) -> str:
    """JSON for a script element of a page: no text in it can end that element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    # Half of a surrogate pair, which JSON can hold and UTF-8 cannot.
    return text.encode("utf-8", "replace").decode("utf-8")


def outcomes(episode: Mapping[str, Any]) -> list[str]:
    """How an episode went: ``failed``, ``solved-K`` or ``never``; and ``repeated`` and ``truncated`` if it was so."""
    attempts = episode["attempts"]
    if episode["error"] or episode["stop"] == "aborted":
        kinds = ["failed"]  # neither right nor wrong
    else:
        solved = _solved_at(episode)
        kinds = [f"solved-{solved}" if solved else "never"]
    if any(attempt["repeated"] for attempt in attempts):
        kinds.append("repeated")
    # A dialogue also ends where no room is left for another attempt.
    if episode["stop"] == "truncated" or any(attempt["truncated"] for attempt in attempts):
        kinds.append("truncated")
    return kinds


def _solved_at(episode: Mapping[str, Any]) -> int:
    """The number of the attempt that solved the question; 0 if none did."""
    correct = [attempt["correct"] for attempt in episode["attempts"]]
    if episode["protocol"] != "blind":
        return correct.index(True) + 1 if True in correct else 0
    # The last answer counts: solved by the attempt from which on all are right.
    trailing = len(list(itertools.takewhile(bool, reversed(correct))))
    return len(correct) - trailing + 1 if trailing else 0


def _verdicts(attempt: Mapping[str, Any]) -> list[str]:
    if "correct" not in attempt:
        return ["not graded"]
    return [
        "right" if attempt["correct"] else "wrong",
        *(name for name in ("repeated", "truncated") if attempt[name]),
        *([] if attempt["well_formed"] else ["not in the format"]),
    ]


def _in_turn(by_question: Mapping[str, Mapping[str, _Places]]) -> Iterable[tuple[str, str]]:
    """The questions, one of each benchmark in turn."""
    queues = [
        [
            (benchmark, name)
            for name in sorted(questions, key=lambda name: hashlib.sha256(name.encode("utf-8", "replace")).digest())
        ]
        for benchmark, questions in sorted(by_question.items())
    ]
    return (entry for entries in itertools.zip_longest(*queues) for entry in entries if entry)


def _reading_order(question: Mapping[str, Any], comparison: Comparison) -> tuple[Any, ...]:
    """The benchmarks in the evaluation's order, their questions by id, with numbers in it taken as such."""
    evaluation = comparison.evaluation
    benchmarks = [benchmark["name"] for benchmark in evaluation["benchmarks"]] if evaluation else []
    parts = re.split(r"([0-9]+)", question["id"])
    number = [part.zfill(20) if index % 2 else part for index, part in enumerate(parts)]
    return (_position(question["benchmark"], benchmarks), number, question["id"])


def _order(key: EpisodeKey, model: str, models: Sequence[str], protocols: Sequence[str]) -> tuple[Any, ...]:
    return (_position(key.protocol, protocols), key.budget, key.sample, models.index(model))


def _position(name: str, names: Sequence[str]) -> tuple[int, str]:
    return (names.index(name) if name in names else len(names), name)
