"""Finding the answer in the text of one attempt."""

from __future__ import annotations

import re
from collections.abc import Callable

_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
# A box, an escaped character (as in \{1, 2\}, which opens and closes nothing), or a brace.
_BRACES = re.compile(rf"{_BOX.pattern}|\\.|[{{}}]", re.DOTALL)


def boxed(text: str) -> str | None:
    r"""The content of the last complete ``\boxed{...}``, nested braces and all; None if there is none or it is empty.

    A box that is never closed is no answer: the attempt was cut, or the model never committed to one. One pass, so
    linear in the length of the text, whatever it holds.
    """
    open_braces: list[tuple[bool, int]] = []  # is it a box, and where does its content start
    last = (-1, -1)
    for match in _BRACES.finditer(text):
        token = match.group()
        if token == "}":
            if open_braces:
                is_box, start = open_braces.pop()
                if is_box and start > last[0]:
                    last = (start, match.start())
        elif token.endswith("{") and token != "\\{":
            open_braces.append((token != "{", match.end()))
    return text[last[0] : last[1]].strip() or None


def answer_tag(text: str) -> str | None:
    r"""The content of the last complete ``<answer>...</answer>``; if that holds a box, the content of the box."""
    opening = text.rfind("<answer>", 0, max(text.rfind("</answer>"), 0))
    if opening < 0:
        return None
    content = text[opening + len("<answer>") : text.find("</answer>", opening)].strip()
    return boxed(content) if _BOX.search(content) else content or None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {"boxed": boxed, "answer_tag": answer_tag}
"""Where an answer may stand, by the name that prompt sets use."""
