"""Short texts: right if they equal the row's text, or match the row's regular expression whole."""

from __future__ import annotations

import asyncio
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import regex

from multi_attempt.prompts import Message
from multi_attempt.tasks.task import Task
from multi_attempt.tasks.verdict import Verdict


@dataclass(frozen=True)
class Text:
    """A row.

    Attributes:
        question: the question's text.
        ground_truth: a right answer.
        pattern: a regular expression that right answers match whole; empty if they equal the ground truth.
    """

    question: str
    ground_truth: str
    pattern: str = ""


@dataclass
class MatchSettings:
    """What counts as equal.

    Attributes:
        prompts: the prompt set, by name or path; empty for that of all tasks.
        ignore_case: whether capitals are small letters.
        ignore_spaces: whether all white space is one space, and none at the ends.
        ignore_punctuation: whether punctuation is left out.
        seconds: what a regular expression may take; then the answer is wrong.
    """

    prompts: str = "match"
    ignore_case: bool = True
    ignore_spaces: bool = True
    ignore_punctuation: bool = False
    seconds: float = 1.0

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"multi_attempt.tasks.match.seconds = {self.seconds} must be positive")


class Match(Task[Text]):
    """Answers that equal a text, but for what the settings ignore, or match a regular expression."""

    Row = Text
    Settings = MatchSettings
    settings: MatchSettings
    cannot_tell: ClassVar[Mapping[str, str]] = {
        "score": "its answers are right or wrong",
        "note": "its verdicts have none",
    }

    def opening(self, row: Text, attempts: int) -> list[Message]:
        """See :class:`Task`."""
        return self.words.prompts.opening(row.question, attempts)

    async def verdict(self, row: Text, response: str) -> Verdict:
        """See :class:`Task`."""
        answer = self.words.prompts.extract(response)
        if answer is None:
            return Verdict(False, well_formed=False, method="none")
        well_formed = self.words.prompts.is_well_formed(response)
        if not row.pattern:
            equal = self.normalize(answer) == self.normalize(row.ground_truth)
            return Verdict(equal, answer, well_formed, method="exact")
        try:
            matches = await asyncio.to_thread(self._matches, row.pattern, answer)
        except TimeoutError:
            return Verdict(False, answer, well_formed, method="pattern", reason="timeout")
        return Verdict(matches, answer, well_formed, method="pattern")

    def _matches(self, pattern: str, answer: str) -> bool:
        # Of the regex package, not of Python, whose own cannot be stopped.
        seconds, flags = self.settings.seconds, regex.IGNORECASE if self.settings.ignore_case else 0
        return regex.fullmatch(pattern, answer, flags, timeout=seconds, concurrent=True) is not None

    def gold_response(self, row: Text) -> str:
        """See :class:`Task`."""
        return self.words.prompts.response(row.ground_truth)

    def gold(self, row: Text) -> str:
        """See :class:`Task`."""
        return row.ground_truth

    def repeats(self, earlier: str, later: str) -> bool:
        """See :class:`Task`."""
        return self.normalize(earlier) == self.normalize(later)

    def problem(self, row: Text) -> str:
        """See :class:`Task`."""
        try:
            regex.compile(row.pattern)
        except regex.error as error:
            return f"pattern = {row.pattern!r} is no regular expression: {error}"
        return ""

    def normalize(self, text: str) -> str:
        """A text without what does not count."""
        text = unicodedata.normalize("NFC", text)
        if self.settings.ignore_case:
            text = text.casefold()
        if self.settings.ignore_punctuation:
            text = "".join(character for character in text if not unicodedata.category(character).startswith("P"))
        return " ".join(text.split()) if self.settings.ignore_spaces else text
