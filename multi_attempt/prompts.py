"""What the model is told: prompt sets, chosen by name or read from a user's YAML file.

A prompt set holds the wording of a dialogue and the two rules that depend on it: where in an attempt the answer
stands, and what a well-formed attempt looks like. The built-in sets are the YAML files in ``prompt_sets/``; a user's
file has the same fields.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import yaml

from multi_attempt.answers import extractor, place

Message = dict[str, str]
"""One chat message, as chat templates take it: ``role`` and ``content``."""


_DIRECTORY = files("multi_attempt").joinpath("prompt_sets")
BUILT_IN = tuple(sorted(Path(file.name).stem for file in _DIRECTORY.iterdir() if file.name.endswith(".yaml")))
"""The names of the built-in prompt sets."""

_TASKS = files("multi_attempt").joinpath("tasks")
OF_TASKS = tuple(sorted(Path(file.name).stem for file in _TASKS.iterdir() if file.name.endswith(".yaml")))
"""The names of those that are written for a built-in task."""

FEEDBACK_ROLES = ("user", "system")
"""Who may give feedback."""

PARTS = ("verdict", "attempts_left", "last_attempt", "ruled_out", "score", "note", "question")
"""What a message between two attempts may be made of (:mod:`multi_attempt.feedback`)."""

ALWAYS = ("verdict", "attempts_left", "question")
"""Those that always say something."""

# What a template may refer to: the question, the attempts left in words ("2 attempts"), and as a number. A part has to
# refer to what it is there for.
_PLACEHOLDERS = {"question", "attempts", "n"}
_OWN = {"ruled_out": "answers", "score": "score", "note": "note", "question": "question"}

_CLOSING_TAG = re.compile(r"</(\w+)>")

_TEMPLATES = ("system", "user", "no_answer", "neutral", "reflect", "retry", *PARTS)


@dataclass(frozen=True)
class PromptSet:
    r"""The wording of a dialogue.

    Templates are :class:`string.Template` texts with ``$question``, ``$attempts`` ("1 attempt", "2 attempts") and
    ``$n`` (the bare number); a literal dollar sign is ``$$``.

    Attributes:
        name: how the set is called in logs and reports.
        system: the system message; empty for none.
        user: the first user message.
        verdict: what is said of a wrong attempt.
        feedback: the parts of the message between two attempts, of :data:`PARTS`, separated by spaces, in order. Those
            that follow are worded by the fields of these names.
        attempts_left: how many attempts the model still has.
        last_attempt: that it is the last one; in its place ``attempts_left`` is not said.
        ruled_out: the wrong answers so far, ``$answers``.
        score: how good the attempt was, ``$score`` from 0 to 100.
        note: what the task's verdict says, ``$note``.
        question: the question once more, ``$question``.
        no_answer: what is said instead of ``verdict`` where no answer was found; empty for the same.
        neutral: what is said instead of ``verdict`` when nobody says whether the attempt was right (evaluation protocol
            ``blind``, ``multi_attempt.tell=blind``); empty if the set has no wording for that.
        reflect: what asks the model, behind the feedback, what went wrong (``multi_attempt.reflect=self``).
        retry: what follows its reflection.
        feedback_role: the role that gives feedback, ``user`` or ``system``.
        answer: where the answer stands: keys of :data:`multi_attempt.answers.EXTRACTORS`, separated by spaces. The
            first that finds an answer decides, as in ``boxed final_statement last_number``.
        format: what a well-formed attempt holds in this order, beside an answer, separated by spaces, as in
            ``</think> <answer> </answer>``; the last one ends it, and where that closes a tag, the answer stands in it.
            Empty when an answer is all it takes.
    """

    name: str
    system: str
    user: str
    verdict: str
    feedback: str = "verdict attempts_left note"
    attempts_left: str = ""
    last_attempt: str = ""
    ruled_out: str = ""
    score: str = ""
    note: str = "\n$note"
    question: str = ""
    no_answer: str = ""
    neutral: str = ""
    reflect: str = ""
    retry: str = ""
    feedback_role: str = "user"
    answer: str = "boxed"
    format: str = ""

    def __post_init__(self) -> None:
        for name in _TEMPLATES:
            self._check_template(name, getattr(self, name))
        unknown = [part for part in self.parts if part not in PARTS]
        if unknown or not self.parts:
            raise ValueError(
                f"prompt set {self.name!r}: feedback = {self.feedback!r}: {', '.join(map(repr, unknown)) or 'nothing'} "
                f"is no part of a message; use some of {', '.join(PARTS)}, and word them in the fields of these names"
            )
        if "question" not in (placeholders(self.user) or ()):
            raise ValueError(f"prompt set {self.name!r}: user = {self.user!r} never shows the question; add $question")
        if self.feedback_role not in FEEDBACK_ROLES:
            raise ValueError(
                f"prompt set {self.name!r}: feedback_role = {self.feedback_role!r}; use {' or '.join(FEEDBACK_ROLES)}"
            )
        try:
            extractor(self.answer)
        except ValueError as error:
            raise ValueError(f"prompt set {self.name!r}: answer = {self.answer!r}: {error}") from error

    def _check_template(self, name: str, template: str) -> None:
        own = _OWN.get(name)
        known = _PLACEHOLDERS | ({own} if own else set())
        names = placeholders(template)
        if names is None or not names <= known:
            raise ValueError(
                f"prompt set {self.name!r}: {name} = {template!r} is not a valid template; "
                f"use only ${', $'.join(sorted(known))}, and $$ for a dollar sign"
            )
        if own and template and own not in names:
            raise ValueError(f"prompt set {self.name!r}: {name} = {template!r} never shows what it is for; add ${own}")

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts of the message between two attempts, where nothing else is chosen."""
        return tuple(self.feedback.split())

    def opening(self, question: str, attempts: int) -> list[Message]:
        """The messages before the first attempt, for a question that allows ``attempts`` attempts."""
        values = {"question": question, **attempts_in_words(attempts)}
        messages = [_message("system", self.system, values)] if self.system else []
        return [*messages, _message("user", self.user, values)]

    def extract(self, attempt: str) -> str | None:
        """The answer in the text of one attempt, or None."""
        return extractor(self.answer)(attempt)

    def response(self, answer: str) -> str:
        """An attempt that has this answer where it is looked for."""
        return place(answer, self.answer)

    def is_well_formed(self, attempt: str) -> bool:
        """Whether an attempt holds an answer and has the shape that the prompt asks for."""
        if self.extract(attempt) is None:
            return False
        position, marks = 0, self.format.split()
        for mark in marks:
            found = attempt.find(mark, position)
            if found < 0:
                return False
            position = found + len(mark)
        if not marks:
            return True
        return attempt.rstrip().endswith(marks[-1]) and self.extract(_last_part(attempt, marks[-1])) is not None


def _last_part(attempt: str, mark: str) -> str:
    """What the last mark of an attempt's format closes, tags and all; the whole attempt, if it closes nothing.

    An answer elsewhere earns no format: ``\\boxed{7}</think><answer></answer>`` is what a policy finds that is paid for
    both.
    """
    tag = _CLOSING_TAG.fullmatch(mark)
    return attempt[max(attempt.rfind(f"<{tag[1]}>"), 0) :] if tag else attempt


def placeholders(template: str) -> set[str] | None:
    """The names that a template refers to, or None if it is none (Template.get_identifiers is new in Python 3.11)."""
    matches = list(Template.pattern.finditer(template))
    if any(match["invalid"] is not None for match in matches):
        return None
    return {match["named"] or match["braced"] for match in matches} - {None}


def _message(role: str, template: str, values: dict[str, str]) -> Message:
    return {"role": role, "content": Template(template).substitute(values)}


def attempts_in_words(attempts: int) -> dict[str, str]:
    """A number of attempts, as templates refer to it."""
    return {"attempts": f"{attempts} attempt{'' if attempts == 1 else 's'}", "n": str(attempts)}


@cache
def load_prompt_set(name: str) -> PromptSet:
    """A built-in prompt set by name, or a user's by the path of its YAML file.

    Raises:
        ValueError: no such set, or a file with missing, unknown or invalid fields.
    """
    for names, folder in ((BUILT_IN, _DIRECTORY), (OF_TASKS, _TASKS)):
        if name in names:
            return _parse(name, folder.joinpath(f"{name}.yaml").read_text("utf-8"))
    path = Path(os.path.expanduser(name))
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        raise ValueError(
            f"prompts = {name!r} is neither a built-in prompt set ({', '.join(BUILT_IN + OF_TASKS)}) nor a YAML file"
        )
    return _parse(path.stem, path.read_text("utf-8"))


def _parse(name: str, text: str) -> PromptSet:
    try:
        content: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"prompt set {name!r} is no valid YAML: {error}") from error
    known = {field.name for field in fields(PromptSet)} - {"name"}
    if not isinstance(content, dict) or not set(content) <= known:
        unknown = sorted(map(str, set(content) - known)) if isinstance(content, dict) else content
        raise ValueError(f"prompt set {name!r}: unknown {unknown!r}; the fields are {sorted(known)}")
    if not all(isinstance(value, str) for value in content.values()):
        raise ValueError(f"prompt set {name!r}: every field is a text, got {content!r}")
    try:
        return PromptSet(name=name, **content)
    except TypeError as error:
        raise ValueError(f"prompt set {name!r}: {error}") from error
