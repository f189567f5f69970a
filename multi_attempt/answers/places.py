"""Finding the answer in the text of one attempt."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from multi_attempt.answers.statements import final_statement, hash_line, last_number
from multi_attempt.answers.words import are_bounds, is_denied

_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)\s*\{")
_BARE_BOX = re.compile(r"\\{1,2}(?:boxed|fbox)(?![a-zA-Z])(?!\s*\{)[ \t]*")
# A box, an escaped character (as in \{1, 2\}, which opens and closes nothing), or a brace.
_BRACES = re.compile(rf"{_BOX.pattern}|{_BARE_BOX.pattern}|\\.|[{{}}]", re.DOTALL)

# What a box without braces holds: all that is written together, with the arguments of its commands. TeX would take the
# 4 of "\boxed 42" and fail on "\boxed\frac12", but whoever writes them means 42 and a half.
_GROUP = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
_ARGUMENT = re.compile(
    rf"(?:\\[dtc]?(?:frac|binom)(?:\s*(?:{_GROUP}|\\[a-zA-Z]+|\w)){{2}}"
    rf"|\\sqrt\s*(?:\[\w+\]\s*)?(?:{_GROUP}|\w)"
    rf"|\\(?!(?:boxed|fbox|begin|end|q?quad)(?![a-zA-Z]))[a-zA-Z]+(?:{_GROUP})*"
    rf"|\\[{{}}%$]|{_GROUP}|[^\s\\{{}}$&<`])+"
)
_LONGEST_ARGUMENT = 100
_IN_COMMANDS = re.compile(rf"\\[a-zA-Z]+|{_GROUP}")
_WORD = re.compile(r"(?<![a-zA-Z\d])[a-zA-Z]{2,}")

# What may stand between the boxes of one answer: \boxed{1} \text{ and } \boxed{2}, but not "\boxed{1}. No, \boxed{2}".
_CONNECTIVE = re.compile(
    r"(?:[ ]?[a-z]+(?= and ))?"  # \boxed{1} apple and
    r"(?:\s|\$|[,;&~]|\\[,;:!()\[\]]|\\q?quad"
    r"|\\(?:text|mbox|mathrm)\s*\{[^{}]*\b(?:and|or)[\s,]*\}|\b(?:and|or)\b)*"
    r"(?:[a-zA-Z](?:_\{?\w{1,2}\}?)?\s*=\s*)?"  # y = \boxed{2}
)
_CONNECTING = re.compile(r"[;,](?<!\\.)|\b(?:and|or)\b")
_LONGEST_CONNECTIVE = 80


class _Box(NamedTuple):
    """Where a complete box stands: from its command to its end, and in it from where to where its content."""

    begin: int
    start: int
    stop: int
    end: int


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, nested braces and all; None if there is none.

    A box that is never closed is no answer: the attempt was cut, or the model never committed to one. Nor is an empty
    one. Without braces, as in ``\boxed 42``, a box holds what is written together after it, unless that is a word. A
    run of boxes with nothing but commas, "and" or "or" between them is one answer with several parts: ``1, 2``. One
    pass, so linear in the length of the text, whatever it holds.
    """
    begin = _last_mention(text, len(text))
    if begin < 0:
        return None
    box = _BOX.match(text, begin)
    if box is None or _may_follow_a_box(text, begin):
        return _boxed_in_one_pass(text)
    depth = 1  # the short way, for most texts: from the last box on
    for match in _BRACES.finditer(text, box.end()):
        token = match.group()
        depth += (token.endswith("{") and token != r"\{") - (token == "}")
        if not depth:
            return text[box.end() : match.start()].strip() or _boxed_in_one_pass(text)
    return _boxed_in_one_pass(text)


def _last_mention(text: str, end: int) -> int:
    return max(text.rfind(r"\boxed", 0, end), text.rfind(r"\fbox", 0, end))


def _may_follow_a_box(text: str, begin: int) -> bool:
    """Whether the text before a box may be the end of another one, and a connective."""
    earlier = _last_mention(text, begin)
    if earlier < 0:
        return False
    before = text[max(0, begin - _LONGEST_CONNECTIVE - 1) : begin]
    ends = (number + 1 for number, character in enumerate(before) if character == "}")
    is_bare = _BOX.match(text, earlier) is None
    return is_bare or before.endswith("\\") or any(_connects(before[end:]) for end in ends)


def _connects(between: str) -> bool:
    return bool(_CONNECTIVE.fullmatch(between) and _CONNECTING.search(between))


def _boxed_in_one_pass(text: str) -> str | None:
    boxes = _boxes(text)
    if not boxes:
        return None
    contents = [text[boxes[-1].start : boxes[-1].stop].strip()]
    for box, following in zip(boxes[-2::-1], boxes[:0:-1], strict=True):
        between = text[box.end : following.begin]
        if len(between) > _LONGEST_CONNECTIVE or not _connects(between):
            break
        contents.append(text[box.start : box.stop].strip())
    return ", ".join(reversed(contents))


def _boxes(text: str) -> list[_Box]:
    """The complete boxes that hold something, of nested ones the innermost."""
    open_braces: list[tuple[int, int]] = []  # where a box begins (-1: no box), and where the content starts
    boxes: list[_Box] = []
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if not open_braces:
                continue
            begin, start = open_braces.pop()
            box = _Box(begin, start, match.start(), match.end())
        elif token.endswith("{") and token != r"\{":
            open_braces.append((match.start() if token != "{" else -1, match.end()))
            continue
        else:
            box = _bare_box(text, match)
        if box.begin >= 0 and (not boxes or box.start > boxes[-1].start):
            boxes.append(box)
    return [box for box in boxes if text[box.start : box.stop].strip()]


_NO_BOX = _Box(-1, -1, -1, -1)


def _bare_box(text: str, token: re.Match[str]) -> _Box:
    """The box without braces that a token of the pass begins, if it is one."""
    if not _BARE_BOX.fullmatch(token.group()):
        return _NO_BOX
    found = _ARGUMENT.match(text, token.end(), token.end() + _LONGEST_ARGUMENT)
    argument = found.group().rstrip(".,;:!?*'\"") if found else ""
    if argument.endswith(")") and argument.count("(") < argument.count(")"):  # a remark that ends with the box
        argument = argument[:-1].rstrip(".,;:!?")
    outside = _IN_COMMANDS.sub(" ", argument)
    says_something = argument[:1] == "\\" or any(character.isalnum() for character in argument)
    if not says_something or _WORD.search(outside) or outside.count("(") != outside.count(")"):
        return _NO_BOX
    stop = token.end() + len(argument)
    return _Box(token.start(), token.end(), stop, stop)


# Where a sentence comes to its value, and where it goes on to say why.
_COPULA = re.compile(r"(?:\b(?:is|are|be|by|equals|it's)\b|:|(?<![<>!=])=)[ \t]*(?=\S)")
_AFTERTHOUGHT = re.compile(r",? (?:because|since|where|as)\b")
_CHATTER = re.compile(r"<\||\bI hope\b")
_SENTENCE_END = re.compile(r"[.!?](?:\s+|$)|\n+")
_COUNTED = re.compile(r"(?=\S*\d)(\S+)((?: +[^\W\d]+)+)")  # 12 distinct sequences
_OF_A_NUMBER = 3  # words behind it that are about it
_PROSE = re.compile(r"[a-zA-Z]{3,} [a-zA-Z]{2,}")
_FORMULAS = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|\\\(.*?\\\)|\\\[.*?\\\]", re.DOTALL)
_FENCE = "```"
_MATH = (("$$", "$$"), ("$", "$"), (r"\(", r"\)"), (r"\[", r"\]"))


def stated(text: str) -> str | None:
    r"""What sentences, put where an answer should stand alone, state as their answer; None if that is not plain.

    A box in them, or what the last sentence ends in: "..., so the largest is 34.", "there are 12 distinct ones", or its
    last formula. A sentence that denies its value, or gives it a bound ("is less than $42$"), states none.
    """
    box = boxed(text)
    if box is not None or _BOX.search(text):
        return box
    text = _CHATTER.split(text, maxsplit=1)[0]
    sentence = next((part for part in reversed(_SENTENCE_END.split(text)) if part.strip()), "").strip()
    for copula in reversed(list(_COPULA.finditer(sentence))):
        value = _AFTERTHOUGHT.split(sentence[copula.end() :], maxsplit=1)[0]
        if is_denied(sentence[: copula.end()]):
            return None
        if formula := _last_formula(value):
            return formula
        if counted := _COUNTED.fullmatch(value):
            return f"{counted[1]}\\text{{ {' '.join(counted[2].split()[:_OF_A_NUMBER])}}}"
        if not _PROSE.search(value):
            return value
    sentence = _AFTERTHOUGHT.split(sentence, maxsplit=1)[0]
    return _last_formula(sentence) or (sentence if not _PROSE.search(sentence) else None)


def _last_formula(text: str) -> str | None:
    end, opening = max((text.rfind(closing), opening) for opening, closing in _MATH)
    start = text.rfind(opening, 0, max(end, 0))
    if not 0 <= start < end or are_bounds(_FORMULAS.sub(" ", text[:start]), text[end + len(opening) :]):
        return None
    return text[start + len(opening) : end].strip() or None


def answer_tag(text: str) -> str | None:
    r"""The content of the last complete ``<answer>...</answer>``; if that holds a box, the content of the box."""
    opening = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if opening < 0:
        return None
    content = text[opening + len("<answer>") : text.find("</answer>", opening)].strip()
    box = boxed(content)
    return box if box is not None or _BOX.search(content) else content or None


def code_block(text: str) -> str | None:
    """The content of the last fenced block (Markdown's three backticks) that ends; None if there is none."""
    block: list[str] | None = None
    last: list[str] = []
    for line in text.split("\n"):  # of a program's text, other characters that end lines for Python are content
        mark = line.strip()
        if block is None:
            block = [] if mark.startswith(_FENCE) and _FENCE not in mark[len(_FENCE) :] else None
        elif mark == _FENCE:
            last, block = block, None
        else:
            block.append(line)
    return "\n".join(last) if "".join(last).strip() else None


def whole(text: str) -> str | None:
    """All of the text; None if it is empty."""
    return text.strip() or None


Extractor = Callable[[str], "str | None"]
"""Finds the answer in the text of an attempt; None if there is none."""

EXTRACTORS: dict[str, Extractor] = {
    "boxed": boxed,
    "answer_tag": answer_tag,
    "final_statement": final_statement,
    "hash_line": hash_line,
    "last_number": last_number,
    "code_block": code_block,
    "whole": whole,
}
"""Where an answer may stand, by the name that prompt sets use. Each takes any text, in linear time."""


_PLACES = {
    "boxed": r"\boxed{%s}",
    "answer_tag": "<answer>%s</answer>",
    "final_statement": "The answer is %s.",
    "hash_line": "#### %s",
    "last_number": "%s",
    "code_block": f"{_FENCE}python\n%s\n{_FENCE}",
    "whole": "%s",
}


def place(answer: str, names: str) -> str:
    """A text with an answer in one of several places, by their names as for :func:`extractor`.

    It is the first in which the answer is found as it is; the first of all, if it is found so in none.
    """
    texts = [_PLACES[name] % answer for name in names.split()]
    found = (text for text in texts if extractor(names)(text) == answer.strip())
    return next(found, texts[0])


@cache
def extractor(names: str) -> Extractor:
    """The first answer that one of several places holds, by the names of the places, separated by spaces.

    Raises:
        ValueError: no name, or one that is not in :data:`EXTRACTORS`.
    """
    unknown = [name for name in names.split() if name not in EXTRACTORS]
    if unknown or not names.split():
        problem = f"unknown {', '.join(map(repr, unknown))}" if unknown else "no name"
        raise ValueError(f"{problem}; use one or several of {', '.join(EXTRACTORS)}, separated by spaces")
    places = [EXTRACTORS[name] for name in names.split()]
    if len(places) == 1:
        return places[0]

    def extract(text: str) -> str | None:
        found = (place(text) for place in places)
        return next((answer for answer in found if answer is not None), None)

    return extract
