"""Words beside a value that make another of it, deny it, or leave it open."""

from __future__ import annotations

import re
from functools import lru_cache

_WORDS = re.compile(r"[^\W\d_]+(?:\.[a-z]\.)?(?:['\u2019][a-z]+)?", re.IGNORECASE)
_CHANGING = frozenset(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety half halves third thirds quarter quarters "
    "fourth fourths fifth fifths sixth sixths tenth tenths hundredth hundredths thousandth thousandths "
    "twice thrice doubled tripled halved bound "
    "hundred thousand million billion trillion dozen squared cubed factorial "
    "or plus minus versus but except without divided multiplied modulo mod remainder "
    "not no never none neither nor cannot wrong incorrect false isn't aren't wasn't can't doesn't don't "
    "above below under over exceeds least most beyond "
    "maybe perhaps possibly probably could might may if unless when where whether is are was were be too "
    "north south east west northeast northwest southeast southwest up down upward upwards downward downwards clockwise "
    "counterclockwise anticlockwise forward forwards backward backwards "
    "am pm noon midnight morning afternoon evening night today tomorrow yesterday bc bce "
    "before after past ago until till".split()
)
_CHANGING_ALONE = frozenset(
    "even odd prime composite positive negative left right up ad ce to bn mil x recurring repeating minimum "
    "maximum".split()
)
_CHANGING_AT_FIRST = frozenset("and to by through".split())  # but "ways to choose boys and girls"
_COMPARING = frozenset("less more fewer greater larger smaller bigger than".split())  # but "25 more stickers than Ann"
_TIMES = re.compile(r"\btimes \w")


@lru_cache(maxsize=4096)
def changes_value(text: str) -> bool:
    """Whether words behind a number, or around one, make it another, or say that it is not what is meant."""
    words = [word.lower().replace(".", "") for word in _WORDS.findall(text)]
    if any(character.isdigit() for character in re.sub(r"\^\{?-?\d", "", text)):
        return True
    if any(word in _CHANGING for word in words) or _TIMES.search(text.lower()):
        return True
    if words and (words[0] in _CHANGING_AT_FIRST or words[1:2] == ["than"] or text.strip() == "k"):
        return True
    return bool(words) and (_COMPARING.issuperset(words) or (len(words) == 1 and words[0] in _CHANGING_ALONE))


# What stands beside a value in a sentence and changes nothing: "is equal to", "given by".
_IN_SENTENCES = frozenset("is are was were be and to by through before after past when where if up down versus".split())
_BOUNDING = (_CHANGING - _IN_SENTENCES) | _COMPARING
_NEAR = 4  # words beside a value that may be about it


def are_bounds(before: str, after: str) -> bool:
    """Whether the words beside a value in a sentence bound it, deny it, scale it, or name another with it."""
    beside = [*_WORDS.findall(before)[-_NEAR:], *_WORDS.findall(after)[:_NEAR]]
    return not _BOUNDING.isdisjoint(word.lower().replace(".", "").replace("\u2019", "'") for word in beside)


_DENIED = re.compile(
    r"(?:\b(?:not|never|no|cannot|hardly|unlikely|could|might|may|less|more|greater|fewer)\b|n['\u2019]t\b)"
    r"(?: +(?:to|always|really|actually|necessarily|likely))*(?: +(?:think|believe|say)(?: +that)? +\S+)? +\S+[ \t]*$",
    re.IGNORECASE,
)
_LONGEST_CLAUSE = 60  # characters before a value that are read


def is_denied(clause: str) -> bool:
    """Whether a clause that ends with its verb denies what follows, or leaves it open: ``cannot be``, ``might be``."""
    return _DENIED.search(clause[-_LONGEST_CLAUSE:]) is not None
