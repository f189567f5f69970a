"""Whether a gold answer is an answer at all."""

from __future__ import annotations

import re

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
