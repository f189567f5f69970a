"""What a task is: what is asked, what is right, and what the model is told.

One class, which training, validation, evaluation, the checks before a run and the data command share. docs/tasks.md has
an example whole, ``examples/reverse.py``: ``multi_attempt.task=reverse:Reverse`` trains on it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from string import Template
from typing import Any, ClassVar, Generic

from multi_attempt.feedback import Situation, feedback_message, parts_problem, words_of_length
from multi_attempt.prompts import Message, PromptSet, attempts_in_words, load_prompt_set
from multi_attempt.tasks.rows import RowT, read_row
from multi_attempt.tasks.verdict import Attempt, Verdict

_SHOWN = 200  # characters of a response in a message

# Of which answers in the longest feedback are made, before a run: a digit is a token to many tokenizers.
_ANSWER = "8"

_MOST_RULED_OUT = 200  # answers in the longest feedback: with more no response would have room for them

_CUT = "..."  # stands for what was left out

DEFAULT_PROMPTS = "paper"
"""The prompt set where none is chosen."""


def user(content: str) -> Message:
    """A message of the user's."""
    return {"role": "user", "content": content}


@dataclass(frozen=True)
class Words:
    """The wording that the config chooses for all tasks.

    Attributes:
        prompts: the prompt set (``multi_attempt.prompts``), with the feedback by ``feedback_role`` if that is set.
        parts: what the message between two attempts is made of, in order (``multi_attempt.feedback``); empty for what
            the prompt set says.
        ruled_out_length: characters of an answer in the part ``ruled_out``; longer ones are cut.
        feedback_role: who gives feedback, ``user`` or ``system``; None for whom the prompt set says.
    """

    prompts: PromptSet = field(default_factory=lambda: load_prompt_set(DEFAULT_PROMPTS))
    parts: tuple[str, ...] = ()
    ruled_out_length: int = 80
    feedback_role: str | None = None

    def with_prompts(self, name: str) -> Words:
        """The same with another prompt set: a built-in name, or the path of a YAML file.

        Raises:
            ValueError: there is none.
        """
        prompts = load_prompt_set(name)
        role = self.feedback_role or prompts.feedback_role
        return replace(self, prompts=replace(prompts, feedback_role=role))


@dataclass(frozen=True)
class NoSettings:
    """Of a task that has none."""


class Task(ABC, Generic[RowT]):
    """What is asked, what is right, and what the model is told.

    A subclass says which fields its rows have (``Row``, a dataclass: :func:`multi_attempt.tasks.rows.read_row` says
    where they stand), and which settings it has (``Settings``, a dataclass of which every field has a default: the
    config's ``multi_attempt.tasks.NAME``). If these have a field ``prompts`` that is not empty, that is the task's own
    prompt set; :attr:`words` has it.

    One object serves all episodes of a process, and many of them at the same time. It is made before it is known
    whether it will be used: what takes time or a machine begins in :meth:`warm_up`, or when it is first needed.

    Args:
        settings: of the class ``Settings``; None for the defaults.
        words: what the config says of the wording.

    Attributes:
        cannot_tell: parts of feedback for which the task has nothing to say, with the reason.
        note_length: the most characters of a note that the feedback shows, by which lengths are checked before a run; 0
            for all of it, and no check.
        name: as the config has it: a built-in task's, or ``module:Class``.
        settings: as given.
        words: as given, with the task's own prompt set if it has one.
    """

    Row: ClassVar[type[Any]]
    Settings: ClassVar[type[Any]] = NoSettings
    cannot_tell: ClassVar[Mapping[str, str]] = {}
    note_length: int = 0
    name: str = ""

    def __init__(self, settings: Any = None, words: Words | None = None) -> None:
        self.settings = self.Settings() if settings is None else settings
        own = getattr(self.settings, "prompts", "")
        words = words or Words()
        self.words = words.with_prompts(own) if own else words
        self.name = self.name or f"{type(self).__module__}:{type(self).__qualname__}"

    # ---- What every task says ----

    @abstractmethod
    def opening(self, row: RowT, attempts: int) -> list[Message]:
        """The messages before the first attempt, when ``attempts`` are allowed."""

    @abstractmethod
    async def verdict(self, row: RowT, response: str) -> Verdict:
        """The verdict on a response; it may ask a server or run code, while other episodes go on.

        An exception is an episode that failed: logged, counted, without reward or gradient. What the model may be
        blamed for is a verdict; what it may not, as a server that is gone, is an exception.
        """

    @abstractmethod
    def gold_response(self, row: RowT) -> str | None:
        """A response that has to be right by the task's own verdict, or the row is refused before a run.

        None where nobody knows one, so that nothing can be held against it.
        """

    def feedback(self, row: RowT, attempts: Sequence[Attempt], left: int) -> Message:
        """What follows a wrong attempt.

        By default of the parts that the config or the prompt set names, in the prompt set's words.

        Args:
            row: the row.
            attempts: those made, at least one; the last is the one that was wrong.
            left: how many the model still has, at least 1.
        """
        last = attempts[-1]
        situation = Situation(
            self.question(row),
            left,
            answered=last.answer is not None,
            ruled_out=self._ruled_out(attempts) if "ruled_out" in self._parts else (),
            score=last.score,
            note=last.note[: self.note_length or None],
        )
        return feedback_message(self.words.prompts, situation, self.words.parts)

    # ---- What has a default ----

    def neutral(self, row: RowT, left: int) -> Message:
        """What follows an attempt when nobody says whether it was right (protocol ``blind``, ``tell=blind``).

        Raises:
            ValueError: there are no words for that.
        """
        return feedback_message(self.words.prompts, Situation(self.question(row), left, blind=True), self.words.parts)

    def asking_to_reflect(self, feedback: Message, row: RowT, left: int) -> Message:
        """The feedback, which also asks the model what went wrong (``multi_attempt.reflect=self``)."""
        asking = self._said(self.words.prompts.reflect, row, left)
        return {**feedback, "content": f"{feedback['content']} {asking}"}

    def retry(self, row: RowT, left: int) -> Message:
        """What follows the model's reflection, before its next attempt."""
        prompts = self.words.prompts
        return {"role": prompts.feedback_role, "content": self._said(prompts.retry, row, left)}

    def _said(self, template: str, row: RowT, left: int) -> str:
        return Template(template).substitute(question=self.question(row), **attempts_in_words(left))

    @property
    def is_neutral_worded(self) -> bool:
        """Whether there are words for :meth:`neutral`."""
        return type(self).neutral is not Task.neutral or bool(self.words.prompts.neutral)

    def feedback_problem(self, *, blind: bool = False, reflects: bool = False) -> str:
        """Why the model cannot be told what the config says, in this task's words; empty if it can.

        Args:
            blind: whether it is told nothing of how right its attempts are.
            reflects: whether it is asked what went wrong.
        """
        if reflects and not (self.words.prompts.reflect and self.words.prompts.retry):
            return (
                f"{self.wording} has no fields 'reflect' and 'retry', which ask the model what went wrong, and for the "
                "next attempt; give it both"
            )
        if blind and not self.is_neutral_worded:
            return (
                f"{self.wording} has no field 'neutral', which words what follows an attempt on which nothing is said; "
                "give it one"
            )
        if not self.words.parts:
            return ""
        if type(self).feedback is not Task.feedback:
            return f"the task {self.name!r} words its feedback itself; leave multi_attempt.feedback null"
        for part in self.words.parts:
            if part in self.cannot_tell:
                return f"{part}: the task {self.name!r} cannot say that: {self.cannot_tell[part]}; leave the part out"
        return parts_problem(self.words.prompts, self.words.parts)

    def feedbacks(self, row: RowT, budget: int) -> list[Message]:
        """All that may follow an attempt, at its longest: what a run checks template and lengths by before it starts.

        Args:
            row: the row.
            budget: the attempts allowed; with 1 there is no feedback.
        """
        if budget < 2:
            return []
        judged = [
            self.feedback(row, self._tried(budget, answered=answered), left)
            for left in sorted({1, budget - 1})
            for answered in (True, False)
        ]
        return [*judged, self.neutral(row, budget - 1)] if self.is_neutral_worded else judged

    def _tried(self, budget: int, *, answered: bool) -> list[Attempt]:
        """Attempts before the last, of which there is most to say."""
        if type(self).feedback is not Task.feedback:  # and may not take every text for an answer
            return [Attempt.of(Verdict(False, "?" if answered else None))]
        note = words_of_length(self.note_length)
        made = min(budget - 1, _MOST_RULED_OUT) if "ruled_out" in self._parts else 1
        answers = [f"{number}{_ANSWER * self.words.ruled_out_length}" for number in range(made)]
        attempts = [Attempt.of(Verdict(False, answer, note=note)) for answer in answers]
        return attempts if answered else [*attempts[:-1], Attempt.of(Verdict(False, None, note=note))]

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.words.parts or self.words.prompts.parts

    def _ruled_out(self, attempts: Sequence[Attempt]) -> tuple[str, ...]:
        """The distinct wrong answers, as they are shown."""
        distinct: list[str] = []
        for attempt in attempts:
            answer = attempt.answer
            if answer is not None and not attempt.correct and not any(self.repeats(each, answer) for each in distinct):
                distinct.append(answer)
        return tuple(_shortened(answer, self.words.ruled_out_length) for answer in distinct)

    def restated(self, answer: str) -> str:
        """A response with this answer alone (``multi_attempt.history: answers``): by default as the prompt set says."""
        return self.words.prompts.response(answer)

    def question(self, row: RowT) -> str:
        """What is asked, for reports and for feedback that repeats it: the row's field of this name, if it has one."""
        question = getattr(row, "question", None)
        return question if isinstance(question, str) else self.opening(row, 1)[-1]["content"]

    def gold(self, row: RowT) -> str:
        """What reports show as right: by default the gold response."""
        return self.gold_response(row) or ""

    @property
    def wording(self) -> str:
        """Whose words the model is told, for messages."""
        return f"task {self.name!r} with prompt set {self.words.prompts.name!r}"

    def repeats(self, earlier: str, later: str) -> bool:
        """Whether an answer repeats that of an earlier wrong attempt: by default, but for white space."""
        return earlier.split() == later.split()

    def same(self, one: str, other: str) -> bool:
        """Whether two answers are the same where samples vote (protocol ``majority``): by default as repeats are."""
        return self.repeats(one, other)

    def read(self, row: Mapping[str, Any], place: str = "row") -> RowT:
        """A dataset's row as this task's.

        Args:
            row: in verl's schema.
            place: what messages call it.

        Raises:
            ValueError: a field is missing or wrong; the message names place and field.
        """
        return read_row(self.Row, row, place)

    def problem(self, row: RowT) -> str:
        """Why a row cannot be used, as far as that shows without a verdict; empty if it can."""
        return ""

    async def gold_problem(self, row: RowT) -> str:
        """Why the row's gold response is of no use: the task's own verdict calls it wrong; empty if it does not."""
        response = self.gold_response(row)
        if response is None:
            return ""
        verdict = await self.verdict(row, response)
        if verdict.correct:
            return ""
        why = ", ".join(filter(None, (verdict.method, verdict.reason, verdict.note)))
        return (
            f"the task {self.name!r} calls the row's own gold response {response!r:.{_SHOWN}} wrong"
            f"{f' ({why})' if why else ''}; correct or remove the row"
        )

    def check(self) -> None:
        """Before a run: whether what the task needs (a sandbox, a server) is there.

        Raises:
            ValueError: it is not; the message says what to install or to set.
        """

    def warm_up(self) -> None:
        """Start what takes long to start, so that the first verdicts do not wait for it."""

    async def close(self) -> None:
        """End the task's processes and connections; they start again where they are needed."""


def _shortened(text: str, length: int) -> str:
    """A text on one line, cut to so many characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: max(length - len(_CUT), 0)]}{_CUT}"
