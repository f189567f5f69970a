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


def _raised(kind: str, sign: str) -> tuple[re.Pattern[str], str]:
    """Runs of the characters that Unicode has in a position, and how LaTeX writes the position."""
    found = [
        chr(code) for code in range(0x00AA, 0x2C7E) if unicodedata.decomposition(chr(code)).startswith(f"<{kind}>")
    ]
    return re.compile(f"[{''.join(found)}]+"), sign


_POSITIONS = (_raised("super", "^"), _raised("sub", "_"))
# Its capital says nothing; that of a letter by itself does.
_FIRST_WORD = re.compile(r"^\s*[A-Z](?=[a-z]{2})")
# x^{2} is x^2.
_ONE_IN_BRACES = re.compile(r"([\^_])\{([^{}\\])\}")


def _placed(text: str) -> str:
    """Characters in a position of their own, as x², in LaTeX: NFKC would make x2 of it."""
    for run, sign in _POSITIONS:
        text = run.sub(lambda match, sign=sign: f"{sign}{{{match.group()}}}", text)  # type: ignore[misc]
    return text


def same_text(question: str) -> str:
    """A question without what changes nothing: spacing, ``$``, the size of brackets and fractions, punctuation.

    What could tell two questions apart stays: signs, brackets, the space between two numbers, what is raised or
    lowered, and case but for the first word's, since a and A may be two numbers.
    """
    text = unicodedata.normalize("NFKC", _placed(question)).translate(_DASHES | _QUOTES)
    text = _DELIMITERS.sub(" ", _SPACING.sub(" ", text))
    text = _PUNCTUATION.sub(" ", _FRACTIONS.sub(r"\\frac", text))
    text = _ONE_IN_BRACES.sub(r"\1\2", text)
    text = _FIRST_WORD.sub(lambda match: match.group().lower(), text)
    return _SPACE.sub("", " ".join(text.split())) or question


def normalise(question: str) -> str:
    """The same without case: a training question that stands in an evaluation set but for case is one too many."""
    return same_text(question.casefold()) or question


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
