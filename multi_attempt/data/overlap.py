"""Questions that stand in two sets: as they are, or after what changes nothing in them is evened out."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping

_DASHES = str.maketrans("\N{EN DASH}\N{MINUS SIGN}", "--")
_QUOTES = dict.fromkeys(map(ord, '"\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}'))
_SPACING = re.compile(r"(?<!\\)\\(?:[,;:!> ]|q?quad(?![a-z]))|~")
_DELIMITERS = re.compile(r"\$|(?<!\\)\\(?:[()\[\]]|(?:left|right)(?![a-z]))")
_FRACTIONS = re.compile(r"\\[dt]frac(?![a-z])")
# Punctuation of the sentence, not the point of 1.5; no "!", which is a factorial, and no "'", which is a derivative.
_PUNCTUATION = re.compile(r"[.,;:?](?=\s|$)")
_SPACE = re.compile(r"(?<!\d) | (?!\d)")  # not between numbers: "1, 2" is not "12"


def normalise(question: str) -> str:
    """A question without what changes nothing: case, spacing, ``$``, the size of brackets and fractions, punctuation.

    What could tell two questions apart stays: signs, brackets, and the space between two numbers.
    """
    text = unicodedata.normalize("NFKC", question).casefold().translate(_DASHES | _QUOTES)
    text = _DELIMITERS.sub(" ", _SPACING.sub(" ", text))
    text = _PUNCTUATION.sub(" ", _FRACTIONS.sub(r"\\frac", text))
    return _SPACE.sub("", " ".join(text.split())) or question


class Overlap:
    """Evaluation sets, to look questions up in.

    Args:
        sets: the questions of each set, by its name.
    """

    def __init__(self, sets: Mapping[str, Iterable[str]]) -> None:
        self._exact = {name: set(questions) for name, questions in sets.items()}
        self._normalised = {name: set(map(normalise, questions)) for name, questions in self._exact.items()}

    def find(self, question: str) -> dict[str, str]:
        """The sets that a question stands in, and how: ``exact`` or ``normalised``."""
        normal = normalise(question)
        return {
            name: "exact" if question in self._exact[name] else "normalised"
            for name, questions in self._normalised.items()
            if normal in questions
        }
