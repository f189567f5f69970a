"""Finding the answer in the text of one attempt."""

from __future__ import annotations

import re
from collections.abc import Callable

_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{")
# A box, an escaped character (as in \{1, 2\}, which opens and closes nothing), or a brace.
_BRACES = re.compile(rf"{_BOX.pattern}|\\.|[{{}}]", re.DOTALL)

# What may stand between the boxes of one answer: \boxed{1} \text{ and } \boxed{2}, but not "\boxed{1}. No, \boxed{2}".
_CONNECTIVE = re.compile(
    r"(?:[ ]?[a-z]+(?= and ))?"  # \boxed{1} apple and
    r"(?:\s|\$|[,;&~]|\\[,;:!()\[\]]|\\q?quad|\\(?:text|mbox|mathrm)\s*\{[^{}]*\band[\s,]*\}|\band\b)*"
    r"(?:[a-zA-Z](?:_\{?\w{1,2}\}?)?\s*=\s*)?"  # y = \boxed{2}
)
_CONNECTING = re.compile(r"[;,](?<!\\.)|and")
_LONGEST_CONNECTIVE = 80


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, nested braces and all; None if there is none or it is empty.

    A box that is never closed is no answer: the attempt was cut, or the model never committed to one. A run of boxes
    with nothing but commas or "and" between them is one answer with several parts: ``1, 2``. One pass, so linear in the
    length of the text, whatever it holds.
    """
    begin = max(text.rfind(r"\boxed"), text.rfind(r"\fbox"))
    box = _BOX.match(text, begin) if begin >= 0 else None
    if box is None or _may_follow_a_box(text[max(0, begin - _LONGEST_CONNECTIVE - 1) : begin]):
        return _boxed_in_one_pass(text)
    depth = 1  # the short way, for most texts: from the last box on
    for match in _BRACES.finditer(text, box.end()):
        token = match.group()
        depth += (token.endswith("{") and token != r"\{") - (token == "}")
        if not depth:
            return text[box.end() : match.start()].strip() or None
    return _boxed_in_one_pass(text)


def _may_follow_a_box(before: str) -> bool:
    """Whether the text before a box may be the end of another one, and a connective."""
    ends = (number + 1 for number, character in enumerate(before) if character == "}")
    return before.endswith("\\") or any(_connects(before[end:]) for end in ends)


def _connects(between: str) -> bool:
    return bool(_CONNECTIVE.fullmatch(between) and _CONNECTING.search(between))


def _boxed_in_one_pass(text: str) -> str | None:
    open_braces: list[tuple[int, int]] = []  # where a box begins (-1: no box), and where the content starts
    boxes: list[tuple[int, int, int]] = []  # complete boxes: where they begin, and where their content starts and ends
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if open_braces:
                begin, start = open_braces.pop()
                if begin >= 0 and (not boxes or start > boxes[-1][1]):
                    boxes.append((begin, start, match.start()))
        elif token.endswith("{") and token != "\\{":
            open_braces.append((match.start() if token != "{" else -1, match.end()))
    if not boxes:
        return None
    contents = [text[boxes[-1][1] : boxes[-1][2]].strip()]
    for (_, start, end), (following, _, _) in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[end + 1 : following]
        if len(between) > _LONGEST_CONNECTIVE or not _connects(between):
            break
        contents.append(text[start:end].strip())
    return ", ".join(reversed(contents)) if all(contents) else None


# Where a sentence comes to its value, and where it goes on to say why.
_COPULA = re.compile(r"(?:\b(?:is|are|be|by|equals|it's)\b|:|(?<![<>!=])=)[ \t]*(?=\S)")
_AFTERTHOUGHT = re.compile(r",? (?:because|since|where|as)\b")
_CHATTER = re.compile(r"<\||\bI hope\b")
_SENTENCE_END = re.compile(r"[.!?](?:\s+|$)|\n+")
_COUNTED = re.compile(r"(?=\S*\d)(\S+)(?: +[^\W\d]+)+")  # 12 distinct sequences
_PROSE = re.compile(r"[a-zA-Z]{3,} [a-zA-Z]{2,}")
_MATH = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def stated(text: str) -> str | None:
    r"""What sentences, put where an answer should stand alone, state as their answer; None if that is not plain.

    A box in them, or what the last sentence ends in: "..., so the largest is 34.", "there are 12 distinct ones", or its
    last formula.
    """
    if _BOX.search(text):
        return boxed(text)
    text = _CHATTER.split(text, maxsplit=1)[0]
    sentence = next((part for part in reversed(_SENTENCE_END.split(text)) if part.strip()), "").strip()
    for copula in reversed(list(_COPULA.finditer(sentence))):
        value = _AFTERTHOUGHT.split(sentence[copula.end() :], maxsplit=1)[0]
        if formula := _last_formula(value):
            return formula
        if counted := _COUNTED.fullmatch(value):
            return counted[1]
        if not _PROSE.search(value):
            return value
    sentence = _AFTERTHOUGHT.split(sentence, maxsplit=1)[0]
    return _last_formula(sentence) or (sentence if not _PROSE.search(sentence) else None)


def _last_formula(text: str) -> str | None:
    end, opening = max((text.rfind(closing), opening) for opening, closing in _MATH)
    start = text.rfind(opening, 0, max(end, 0))
    return text[start + len(opening) : end].strip() or None if 0 <= start < end else None


def answer_tag(text: str) -> str | None:
    r"""The content of the last complete ``<answer>...</answer>``; if that holds a box, the content of the box."""
    opening = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if opening < 0:
        return None
    content = text[opening + len("<answer>") : text.find("</answer>", opening)].strip()
    return boxed(content) if _BOX.search(content) else content or None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {"boxed": boxed, "answer_tag": answer_tag}
"""Where an answer may stand, by the name that prompt sets use."""
