r"""Answers that stand in no box: what a sentence states, GSM8K's line of hashes, the last number of a text.

For models that were not trained to box. A statement is handed on as it was written, but for what is plainly no part of
the answer: marks of emphasis, the sentence's end, words of introduction, reasons. Words after a number are put into
``\text{}``, where the grader takes them for its unit. All rules are linear in the length of a text: they pass over it
once, and read a bounded part after each of a bounded number of places.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator

_LONGEST_STATEMENT = 300  # characters after "the answer is"
_MOST_STATEMENTS = 20  # that are read, from the last one back
_LONGEST_LEAD = 40  # characters before one that may make it a condition

# "the answer (to the question) is", "**Final answer:**"; or a heading, with the answer in the line below.
_CUE = re.compile(
    r"""
    \b(?:answers?|final\ (?:result|value|solution))\b[*_]*
    (?: (?:\ (?:to|of|for|in|here|then)\b[^\n.:;?!=<>]{0,60}?)?
        \ (?:is|are|equals|becomes|(?:would|will|must|should|has\ to)\ be|comes\ (?:out\ )?to(?:\ be)?)\b[*_]*:?
      | \ ?[:=] )
    | ^[#*_>\ ]*(?:(?:the|my|our)\ )?(?:(?:final|correct)\ )?answer[*_:\ ]*$
    """,
    re.VERBOSE | re.IGNORECASE | re.MULTILINE,
)
_CONDITION = re.compile(
    r"\b(?:if|whether|suppose|assum\w+|unless|until|not)(?: (?:that|the|my|your|our|this|final|correct))*\s*$",
    re.IGNORECASE,
)

_MARKUP = re.compile(r"[\s*_`\"'“”>]*")
_BULLET = re.compile(r"^[-•] +")
_NUMBERED = re.compile(r"\d{1,2}[.)] +\S")
_FORMULA = re.compile(r"\$\$(.+?)\$\$|\\\((.+?)\\\)|\\\[(.+?)\\\]|\$([^$\n]*[^$\s])\$(?!\d)", re.DOTALL)
# The dot of "3.5" ends nothing, nor does the mark of "5! = 120".
_END = re.compile(r"([.!?]+)[*_`\"'”)\]]*(?=\s|$)(?! ?[=+*/^)])|\n|</|<\||<br")
_EMPHASIS = re.compile(r"(?<!\w)\*\*(?=\S)|(?<=\S)\*\*(?!\w)")
_REMARK = re.compile(
    r",? (?:because|since|as|which|so|after|given|but|based on|according to)\b.*$"
    r"|,? and (?:the|he|she|it|they|we|so|that|this|there|I|you|his|her|its|their)\b.*$"
    r"|,\s+(?!and\b|or\b|pi\b)[a-z]{2,}(?=[ ,]|$).*$| [-\u2013\u2014]+ [a-z]{2,}.*$| \([a-zA-Z]{2,}[^()]*\)$",
    re.DOTALL,
)
_LEAD_IN = re.compile(
    r"(?:(?:therefore|thus|then|so|now|also|still|indeed|actually|simply|just|only|exactly|about|approximately|roughly"
    r"|around|nearly|equal to|given by|going to be|(?:the )?(?:number|value|option|choice|letter))\b[,:]? *)+",
    re.IGNORECASE,
)
_INNER = re.compile(r"(?:\b(?:is|are|be|equals)\b|:|(?<![<>!=])=) *(?=\S)")

# What a value begins with.
_VALUE = re.compile(
    r"[-+\u2212±]? ?(?:\\?[$€£¥])? ?[-+\u2212]?\.?\d"  # -3, $5, .5
    r"|\\[a-zA-Z]{2}|\\[({\[]|[$(\[{|√π∞]"  # \frac, \(x\), (1, 2)
    r"|[a-zA-Z]{1,2}(?![a-zA-Z'])\s*(?:\(\w+\)\s*)?[=<>≤≥≠∈^+*/_²³\d-]"  # x = 5, f(x) = 3, ab + 1
    r"|(?:sqrt|pi|log|ln|sin|cos|tan|infinity)\b"
    r"|[b-zB-HJ-Z](?![\w'])|[AIa]$|A[).:]"  # a letter that is no word
)
_OPTION = re.compile(r"\(?([A-J])[).:]+(?= |$)(?! (?:and|or)\b)")
_BOXED = re.compile(r"\\(?:boxed|fbox)\s*\{((?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*)\}")
_FEW_WORDS = re.compile(r"(?:the )?[a-zA-Z][a-zA-Z'\u2019-]*(?: [a-zA-Z][a-zA-Z'\u2019-]*){0,2}", re.IGNORECASE)
_NO_ANSWER = re.compile(
    r"(?:not|never|neither|(?:in)?correct|wrong|right|clear|simple|obvious|below|above|unknown|found|obtained|given"
    r"|calculated|determined|based|as|in|to|by|from|that|this|what|when|where|if|because"
    r"|the (?:same|sum|product|difference))\b",
    re.IGNORECASE,
)

_TIMES = re.compile(r"(?<=\d) x (?=\$?\d)")
_IN_TEXT = re.compile(r"\\(?:text|mathrm|mbox)")
# The words after a number: 55 dollars per week, 5 m^2.
_COUNTED = re.compile(
    r"(?<=[\d%}$])("
    r" (?!(?:and|or|to|out|(?:more|less|fewer) than|plus|minus|times|divided|squared|sin|cos|tan|log|ln|sqrt|pi|mod)\b)"
    r"[a-zA-Z][a-zA-Z.'\u2019/-]+(?: (?!(?:and|or)\b)[a-zA-Z][a-zA-Z.'\u2019/-]*)*"
    r"| [mgshLlNJW])(?=$|,|\^|²|³| and | or )"
)

# GSM8K's line, but not a heading: "#### Step 1", "#### 2. Add them".
_HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*([^\n]*)")
_HEADING = re.compile(r"\d[.):]\s|[A-Z][a-z]")

_NUMBER = re.compile(
    r"""
    ^[ \t]*\d{1,2}[.)][ \t]+(?=\S)                                        # the number of a list's item is none
    | (?<![\w^.]) (?<![\^_]\{)
      (?P<sign>(?<![)\]}])[-\u2212])? (?:\\?[$€£¥](?P<inner_sign>[-\u2212])?)?
      (?P<size>
          \\[dtc]?frac\s?(?:\{-?\d+\}\s?\{-?\d+\}|\d\d)
        | \d+\ \d+/\d+                                                    # 1 1/2
        | (?: \d{1,3}(?:(?:,|\{,\}|,\\!)\d{3})+(?!\d)(?:\.\d+)? | \d+(?!\d)(?:\.\d+)? | \.\d+ )(?!\d)
          (?: [/:]\d+ | \^\{?-?\d+\}? | e[-+]?\d+ | \ ?(?:\\times|\\cdot|\u00d7|x|\*)\ ?10\^\{?[-\u2212]?\d+\}? )?
      )
      (?!\d|(?:st|nd|rd|th)\b)
      (?P<percent>\ ?\\?%)?
    """,
    re.VERBOSE | re.MULTILINE | re.ASCII,
)


def final_statement(text: str) -> str | None:
    """What the last sentence like "The answer is 55." states, or the line below a heading "Answer"; None without one.

    A sentence that asks, that says what the answer is not, or that begins with "if", states nothing.
    """
    for cue in _from_the_last_back(_CUE, text):
        if _CONDITION.search(text, max(0, cue.start() - _LONGEST_LEAD), cue.start()):
            continue
        value = _stated_value(text[cue.end() : cue.end() + _LONGEST_STATEMENT])
        if value is not None:
            return value
    return None


def hash_line(text: str) -> str | None:
    """The value after the last ``####`` that one follows, as in GSM8K; None if there is none."""
    for hashes in _from_the_last_back(_HASHES, text):
        line = hashes[1][:_LONGEST_STATEMENT]
        cue = _CUE.search(line)
        value = _stated_value(line[cue.end() :] if cue else "" if _HEADING.search(line) else line, words=bool(cue))
        if value is not None:
            return value
    return None


def last_number(text: str) -> str | None:
    """The last number of a text, without currency: ``-3``, ``1,234.50``, ``1/2``, ``55%``; None if there is none.

    Neither ordinals (3rd), numbers of a list's items, nor digits in names and exponents (x1, m^2) are numbers.
    """
    last = deque((match for match in _NUMBER.finditer(text) if match["size"]), maxlen=1)
    if not last:
        return None
    sign = "-" if last[0]["sign"] or last[0]["inner_sign"] else ""
    return sign + last[0]["size"] + (last[0]["percent"] or "").strip()


def _from_the_last_back(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    return reversed(deque(pattern.finditer(text), maxlen=_MOST_STATEMENTS))


def _stated_value(after: str, *, words: bool = True) -> str | None:
    """The value that a text begins with, up to the end of the sentence or line."""
    markup = _MARKUP.match(after)
    assert markup is not None
    after = after[markup.end() :]
    if "\n" in markup.group():  # in a line of its own
        if _NUMBERED.match(after):
            return None
        after, words = _BULLET.sub("", after), False
    formula = _FORMULA.match(after)
    end = _END.search(after, formula.end() if formula else 0)
    if end and "?" in (end[1] or ""):
        return None
    return _value(after[: end.start()] if end else after, words=words)


def _value(sentence: str, *, words: bool) -> str | None:
    """The value in a sentence: what it begins with, or what follows its last "is" or colon; or its few words."""
    sentence = _stripped(_REMARK.sub("", _EMPHASIS.sub("", sentence)))
    inner = (copula.end() for copula in reversed([*_INNER.finditer(sentence)]))
    for begin in (0, *inner):
        lead_in = _LEAD_IN.match(sentence, begin)
        begin = lead_in.end() if lead_in else begin
        if _VALUE.match(sentence, begin):
            return _as_answer(sentence[begin:])
    return sentence if words and _FEW_WORDS.fullmatch(sentence) and not _NO_ANSWER.match(sentence) else None


def _as_answer(value: str) -> str | None:
    r"""A value as it would stand in a box: without math marks and box, a letter of a choice alone, units in \text."""
    formula = _FORMULA.match(value)
    if formula and formula.end() == len(value):
        value = next(content for content in formula.groups() if content is not None).strip()
    box = _BOXED.fullmatch(value)
    if box:
        value = box[1].strip()
    option = _OPTION.match(value)
    if option:
        return option[1]
    value = _TIMES.sub(r" \\times ", value)
    return (value if _IN_TEXT.search(value) else _COUNTED.sub(r"\\text{\1}", value)) or None


def _stripped(sentence: str) -> str:
    return sentence.strip(" \t\n.,;:!*_`\"'“”")
