"""Whether a gold answer is one that an answer can be graded against."""

from __future__ import annotations

import re

from multi_attempt.answers import boxed
from multi_attempt.grading import Grader, equals_itself

# The gold answers of six benchmarks have three words at most, but for one of 9,000.
_MOST_WORDS = 6
_LATEX_NAMES = re.compile(r"\\(?:begin|end)\{[^}]*\}|\\[A-Za-z]+")
_WORDS = re.compile(r"[^\W\d_]{2,}")
_REASONING = re.compile(r"\b(?:answer|because|hence|since|so|therefore|thus)\b", re.IGNORECASE)
_SENTENCES = re.compile(r"[.!?]\s+\S|[^\W\d_]{2,}[.!?]$")


def is_prose(gold: str) -> bool:
    """Whether a gold answer is a sentence or a solution, which no answer is ever equal to."""
    text = _LATEX_NAMES.sub(" ", gold).strip()
    words = len(_WORDS.findall(text))
    return words > _MOST_WORDS or bool(_REASONING.search(text)) or bool(_SENTENCES.search(text))


def refusal(gold: str, grader: Grader) -> str:
    """Why a gold answer is of no use; empty if it is sound."""
    if not gold.strip():
        return "gold answer is empty"
    if boxed(f"\\boxed{{{gold}}}") != gold.strip():
        return f"gold answer {gold!r} cannot stand in a box"
    equal = equals_itself(gold)
    if equal is None:
        # What only math-verify may read: in braces of its own, since it takes the same spelling for equal unread.
        verdict = grader.grade(f"{{{gold}}}", gold)
        return "" if verdict.correct else f"gold answer {gold!r} cannot be parsed"
    return "" if equal else f"gold answer {gold!r} does not grade as equal to itself"
