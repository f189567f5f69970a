"""The message between two attempts: made of parts, in an order that the config or the prompt set chooses.

Each part has its wording in the prompt set, and says something only where there is something to say: nothing is ruled
out before an answer was found wrong, and nothing that tells whether an attempt was right is said where nobody judges.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import Template

from multi_attempt.prompts import ALWAYS, PARTS, Message, PromptSet, attempts_in_words

_JUDGED = ("ruled_out", "score", "note")
"""Parts that give away whether an attempt was right."""

_WORD = "something "


@dataclass(frozen=True)
class Situation:
    """What a message after an attempt can speak of.

    Attributes:
        question: the question's text.
        attempts_left: how many more attempts the model has, at least 1.
        answered: whether an answer was found in the attempt.
        ruled_out: the distinct wrong answers so far.
        score: of the attempt, in [0, 1].
        note: the verdict's.
        blind: nobody says whether the attempt was right.
    """

    question: str
    attempts_left: int
    answered: bool = True
    ruled_out: tuple[str, ...] = ()
    score: float = 0.0
    note: str = ""
    blind: bool = False


def feedback_message(prompts: PromptSet, situation: Situation, parts: Sequence[str] = ()) -> Message:
    """The message, in the set's words.

    Parts are separated by a space; one whose wording begins a new line stands as it is.

    Args:
        prompts: the wording, and who says it.
        situation: what there is to say.
        parts: of :data:`multi_attempt.prompts.PARTS`, in order; empty for the set's own.

    Raises:
        ValueError: the situation is blind, and the set has no wording for that.
    """
    if situation.blind and not prompts.neutral:
        raise ValueError(
            f"prompt set {prompts.name!r}: neutral is empty; word what follows an attempt on which nothing is said"
        )
    chosen, values, content = parts or prompts.parts, _values(situation), ""
    for part in chosen:
        text = Template(_wording(part, prompts, situation, chosen)).substitute(values)
        separator = " " if content and text and not text.startswith("\n") else ""
        content += separator + text
    return {"role": prompts.feedback_role, "content": content.lstrip("\n")}


def words_of_length(length: int) -> str:
    """Plain words of so many characters, which stand for a text that may be as long, before a run."""
    return (_WORD * length)[:length]


def parts_problem(prompts: PromptSet, parts: Sequence[str]) -> str:
    """Why a message cannot be made of these parts in this set's words; empty if it can."""
    if unknown := [part for part in parts if part not in PARTS]:
        return f"there is no part {', '.join(map(repr, unknown))}; the parts are {', '.join(PARTS)}"
    if double := sorted({part for part in parts if list(parts).count(part) > 1}):
        return f"{', '.join(double)} stands there twice"
    if not {*ALWAYS} & {*parts}:
        return f"none of these parts always says something, and a message needs words; add one of {', '.join(ALWAYS)}"
    if unworded := [part for part in parts if not getattr(prompts, part)]:
        return (
            f"prompt set {prompts.name!r} has no words for {', '.join(unworded)}; give it the field"
            f"{'s' * (len(unworded) > 1)} {', '.join(unworded)}, or leave the part out"
        )
    return ""


def _wording(part: str, prompts: PromptSet, situation: Situation, chosen: Sequence[str]) -> str:
    """The template of a part; empty where it has nothing to say."""
    last = situation.attempts_left == 1
    silent = {
        "attempts_left": last and "last_attempt" in chosen,
        "last_attempt": not last,
        "ruled_out": not situation.ruled_out,
        "note": not situation.note,
    }
    if silent.get(part, False) or (situation.blind and part in _JUDGED):
        return ""
    if part != "verdict":
        return str(getattr(prompts, part))
    if situation.blind:
        return prompts.neutral
    return prompts.verdict if situation.answered else prompts.no_answer or prompts.verdict


def _values(situation: Situation) -> dict[str, str]:
    return {
        **attempts_in_words(situation.attempts_left),
        "question": situation.question,
        "answers": ", ".join(situation.ruled_out),
        "score": str(round(100 * situation.score)),
        "note": situation.note,
    }
