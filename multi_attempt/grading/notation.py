r"""From an answer's text to tokens: spelling that never changes a meaning is evened out here.

Everything in this module is one pass, or a few, over a text of at most :data:`LONGEST` characters.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from multi_attempt.grading.characters import spelt_out
from multi_attempt.grading.units import SCALES, unit_of

LONGEST = 1_500
"""Characters of an answer beyond which it is not read (an exact match still counts)."""


class Unreadable(Exception):
    """This notation is beyond the reader: another layer must decide."""


class Token(NamedTuple):
    """A word of the notation.

    Attributes:
        kind: ``number``, ``letter``, ``word`` (letters that are no known name), ``function``, ``unit``, ``command``
            (with its backslash), ``text`` (what stood in ``\\text{}``), ``sign`` or ``end``.
        text: its spelling; for a number with commas between thousands, without them.
        spaced: whether a space stood before it.
    """

    kind: str
    text: str
    spaced: bool = False


_UNICODE = str.maketrans(
    {
        "×": r"\times ", "÷": "/", "∗": "*",
        "√": r"\sqrt ", "∞": r"\infty ", "≤": r"\leq ", "⩽": r"\leq ", "≥": r"\geq ", "⩾": r"\geq ",
        "≠": r"\neq ", "≈": r"\approx ", "≡": r"\equiv ", "∈": r"\in ", "∪": r"\cup ", "∩": r"\cap ",
        "∖": r"\setminus ", "∅": r"\emptyset ", "±": r"\pm ", "∓": r"\mp ",
        "°": r"^{\circ}",
        "′": "'", "’": "'", "″": "''", "∠": r"\angle ", "△": r"\triangle ", "。": ".",
        "，": ",", "；": ";", "€": r"\euro ", "£": r"\pounds ", "¥": r"\yen ",
        "¢": r"\text{ cents}",
    }
)  # fmt: skip

# Commands that only change how the rest looks.
_LOOKS = re.compile(
    r"\\(?:left|right)(?![a-zA-Z])\s*\.?|\\[bB]igg?[lrm]?(?![a-zA-Z])|\\middle(?![a-zA-Z])"
    r"|\\(?:displaystyle|textstyle|scriptstyle|limits|nolimits|mathstrut|strut|rm|bf|it|boldmath|left|right)(?![a-zA-Z])"
    r"|\\(?:large|Large|LARGE|huge|Huge|small|normalsize|bfseries|itshape|underline|checkmark)(?![a-zA-Z])"
    r"|\\(?:textcolor|color|colorbox|tag|label)(?![a-zA-Z])\*?\s*(?:\[[^\]]*\]\s*)?\{[^{}]*\}"
    r"|(?<=\S)\s*\\(?:blacksquare|square|Box|qed)(?=[\s$.]*$)"
    r"|\\[hv]?phantom(?![a-zA-Z])\s*(?:\{[^{}]*\}|-)?"  # the room that a sign would take
)
_SPACES = re.compile(r"(?<!\\)\\(?:[,;:>!\s]|q?quad|(?:enspace|thinspace|space|hfill|newline)(?![a-zA-Z]))|~|\s")
_MATH_MARKS = re.compile(r"\\[()\[\]]|(?<!\\)\$")
_SYNONYMS = {
    r"\dfrac": r"\frac", r"\tfrac": r"\frac", r"\cfrac": r"\frac", r"\dbinom": r"\binom", r"\tbinom": r"\binom",
    r"\le": r"\leq", r"\leqslant": r"\leq", r"\leqq": r"\leq", r"\ge": r"\geq", r"\geqslant": r"\geq",
    r"\geqq": r"\geq", r"\ne": r"\neq", r"\lt": "<", r"\gt": ">", r"\lbrace": r"\{", r"\rbrace": r"\}",
    r"\lvert": "|", r"\rvert": "|", r"\vert": "|", r"\lbrack": "[", r"\rbrack": "]", r"\times": "*", r"\cdot": "*",
    r"\ast": "*", r"\div": "/", r"\colon": ":", r"\land": r"\wedge", r"\degree": r"\circ", r"\varnothing": r"\emptyset",
    r"\backslash": r"\setminus", r"\bigcup": r"\cup", r"\simeq": r"\approx", r"\doteq": r"\approx", r"\iota": "i",
    r"\thickapprox": r"\approx", r"\varphi": r"\phi", r"\varepsilon": r"\epsilon", r"\varrho": r"\rho",
    r"\vartheta": r"\theta", r"\arg": r"\arg", r"\lor": r"\vee",
    r"\langle": "(", r"\rangle": ")",
    r"\tg": r"\tan", r"\ctg": r"\cot", r"\arctg": r"\arctan", r"\lg": r"\lg", r"\infin": r"\infty",
}  # fmt: skip
_BRACED_SIGN = re.compile(r"\{([:=<>;])\}")
_COMMAND = re.compile(r"\\[a-zA-Z]+")
_THOUSANDS_MARK = re.compile(r"(?<=\d)(?:\{,\}|,\s*\\!|\\,)\s*(?=\d{3}(?!\d))")
# "1 000 000", but not the "1 100" of "1 100/3", nor a digit that belongs to a longer number.
_SPACED_THOUSANDS = re.compile(r"(?<![\d.,/^_])(\d{1,3}(?: \d{3})+)(?![\d/])")
_LEAD_IN = re.compile(
    r"^(?:(?:so|thus|hence|therefore|finally),? +)?(?:(?:the|our) +)?(?:final +)?"
    r"(?:answer|result|solution|value)s?(?: +(?:is|are|equals))?(?: *:)? +(?![a-z]+n't)(?=\S)",
    re.IGNORECASE,
)
_LEADING_SIGN = re.compile(r"^(?:=|\\approx(?![a-zA-Z])) *")
_GOES_ON = re.compile(r"(\.\d+) ?\.{2,}")
BASE_NAMES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
              "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"}  # fmt: skip
"""The names of bases, with their numbers."""

# A base in words: 52_{\text{base }8}, 52 (base 8), 52 \text{ in base eight}.
_BASE = re.compile(
    r"(?<=[0-9A-Z)}])( ?_?[ {(]*(?:\\[a-z]+ ?\{)?[ (]*(?:in )?base[ \-}{]*)"
    rf"([1-9]\d?(?!\d)|{'|'.join(BASE_NAMES)})(?![a-z])([ )}}]*)"
)
_O = r"\\(?:text|mathrm|rm) ?\{ ?o ?\}"
_U = r"(?:U|\\(?:text|mathrm) ?\{ ?U ?\})"
# Intervals whose brackets turn outward where an end does not belong to them.
_OUTWARD = re.compile(r"(?:^|\\cup ?|\\in ?|=)\](?=[^\[\]]*[,;])|[,;][^\[\]]*\[(?= ?(?:$|\\cup))")
_INTERVAL = re.compile(r"([\[\]])([^\[\]]*)([\[\]])")
_WRAPPED = r"^(?:\\(?:text|mathrm|mbox) ?\{{ ?(?:{0}) ?\}} ?|(?:{0}) )(?=\S)"
_MINUS = re.compile(_WRAPPED.format("minus|negative"), re.IGNORECASE)
_APPROXIMATE = re.compile(_WRAPPED.format(r"about|approx\.?|approximately|roughly"), re.IGNORECASE)
_IN_TEXT = r"^(?:\\(?:text|mathrm|mbox) ?\{{ ?)?(?:{})[ .]*\}}?$"
_NO_SOLUTION = re.compile(
    _IN_TEXT.format(
        "(?:there (?:is|are) no (?:real )?|no real )(?:solutions?|roots?|values?(?: of [a-z])?)(?: exists?)?"
        "|no (?:solutions?|roots?) exists?|(?:the )?empty set"
    ),
    re.IGNORECASE,
)
_ALL_REALS = re.compile(
    _IN_TEXT.format("(?:the set of )?(?:all|any|every) (?:real numbers?|reals|real values?(?: of [a-z])?)"),
    re.IGNORECASE,
)
_IDLE_SPACE = re.compile(r"(?<![0-9a-zA-Z]) | (?![0-9a-zA-Z])|(?<=[a-zA-Z]) (?=\d)|(?<=\d) (?=[a-zA-Z])")


def tidy(answer: str) -> str:
    r"""An answer without what never changes its meaning: ``$``, ``\left``, spacing, a last dot, unicode spellings.

    Spaces stay where they part two words or two numbers: ``1 1/2`` is not ``11/2``.
    """
    # Most answers are short and plain: each step is taken only where there is something for it to do.
    text = answer
    if text.isascii() and text.isalnum():
        return text
    escaped = "\\" in text or not text.isascii()
    if not text.isascii():
        text = spelt_out(text).translate(_UNICODE)
    if "\\\\" in text and ("\\begin" not in text or "\\\\begin" in text):
        text = re.sub(r"\\\\(?=[a-zA-Z{}\\])", r"\\", text)  # an answer that was escaped twice
    if escaped or "$" in text:
        text = _MATH_MARKS.sub(" ", text)
    if escaped or "," in text:
        text = _THOUSANDS_MARK.sub(lambda mark: "," if "," in mark.group() else " ", text)
    if escaped:
        text = _LOOKS.sub(" ", text)
        text = _COMMAND.sub(lambda command: _SYNONYMS.get(command.group(), command.group()), text)
    if "{" in text:
        text = _BRACED_SIGN.sub(r"\1", text)
    if escaped or "~" in text or not text.isprintable():
        text = _SPACES.sub(" ", text)
    while "  " in text:
        text = text.replace("  ", " ")
    if ".." in text:
        text = _GOES_ON.sub(r"\1\\ldots ", text)
    text = text.strip(" ")
    # A sentence's end; a last backslash is half a space.
    text = text.rstrip(" .,;:\\") if not text.endswith(r"\}") else text
    for sign, pattern, replacement in _REWRITTEN:
        if sign in text:
            text = pattern.sub(replacement, text)
    if ("[" in text or "]" in text) and _OUTWARD.search(text):
        text = _INTERVAL.sub(_as_half_open, text)
    if text[:1] in ("=", "\\"):
        text = _LEADING_SIGN.sub("", text)
    if " " not in text:
        return text
    if text[0].isalpha() or text[0] == "\\":
        text = _LEAD_IN.sub("", text)
        text = _APPROXIMATE.sub("", _MINUS.sub("-", text))
        text = _ALL_REALS.sub(r"\\mathbb{R}", _NO_SOLUTION.sub(r"\\emptyset", text))
    return _SPACED_THOUSANDS.sub(lambda number: number.group().replace(" ", ""), text)


def _as_subscript(base: re.Match[str]) -> str:
    """A base as LaTeX has it, with the brackets behind it that its words did not open."""
    words, name, closing = base.groups()
    opened = sum((character in "{(") - (character in "})") for character in words)
    return f"_{{{BASE_NAMES.get(name, name)}}}{closing.replace(' ', '')[max(opened, 0) :]}"


# What is rewritten where a sign stands in a text.
_REWRITTEN: tuple[tuple[str, re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    ("*", re.compile(r"^(\*{1,3})([^*]+)\1$"), r"\2"),  # emphasis
    ("'", re.compile(r"(?<=\d)'(?=\d{3}(?!\d))"), ""),  # 1'234
    ("`", re.compile(r"^`([^`]+)`$"), r"\1"),
    ("base", _BASE, _as_subscript),
    # 90^o, and a sign of degrees in words
    ("o", re.compile(rf"(?<=[\d)]) ?\^ ?(?:o(?![a-zA-Z])|\{{ ?(?:o|{_O}) ?\}}|{_O})"), r"^{\\circ}"),
    (r"\text", re.compile(r"\\text ?\{ ?\^\{\\circ\} ?\}"), r"^{\\circ}"),
    ("x", re.compile(r"(?<=\d) ?x ?(?=10 ?\^)|(?<=\d) x (?=\d)"), "*"),
    ("X", re.compile(r"(?<=\d) ?X ?(?=10 ?\^)|(?<=\d) X (?=\d)"), "*"),
    # A union typed as a letter, between intervals, sets, or names of sets
    # dy/dx
    ("/d", re.compile(r"(?<![a-zA-Z\\])d([a-z])/d([a-z])(?![a-zA-Z])"), r"\\frac{d\1}{d\2}"),
    ("U", re.compile(rf"(,[^()\[\]]*[)\]]|\\\}}) ?{_U} ?(?=[(\[][^()\[\]]*,|\\\{{)"), r"\1\\cup "),
    ("U", re.compile(r"(?<=\b[A-Z]) U (?=[A-Z]\b)"), r" \\cup "),
    (r"\mathbf", re.compile(r"(^|\\in ?)\\mathbf ?\{ ?([RZNQC]) ?\}$"), r"\1\\mathbb{\2}"),
)


def _as_half_open(interval: re.Match[str]) -> str:
    """An interval as it is written elsewhere: ``[2,5[`` is ``[2,5)``."""
    low, ends, high = interval.groups()
    return f"{'(' if low == ']' else '['}{ends}{')' if high == '[' else ']'}"


def spelling(normal: str) -> str:
    r"""A normalised answer without the spaces that part nothing: equal spellings are equal answers."""
    if " " not in normal:
        return normal
    return re.sub(r"(\\[a-zA-Z]+) (?![a-zA-Z])", r"\1", _IDLE_SPACE.sub("", normal))


def normalize(answer: str) -> str:
    """An answer as it is compared by spelling: the same for answers that differ in nothing but looks."""
    return spelling(tidy(answer))


_TEXT = r"text|textbf|textit|textrm|textnormal|textup|textsf|mathrm|mbox|hbox|operatorname"
_STYLE = r"mathbf|mathit|mathsf|mathtt|mathnormal|bm|boldsymbol|pmb|boxed|fbox|ensuremath|displaylines"
_WRAPPER = re.compile(rf"\\({_TEXT}|{_STYLE})\*?\s*(?=\{{)")
_NUMBER = re.compile(r"(?:\d+(?:\.\d*)?|\.\d+|\.(?=\\(?:overline|bar|dot)(?![a-z])))(?:[eE][+-]?\d+(?![\d.]))?")
GROUPED = re.compile(r"[1-9]\d{0,2}(?:,\d{3})+(?![\d,]*\d)(?:\.\d+)?")
_LETTERS = re.compile(r"[a-zA-Z]+")
_SIGN = re.compile(r"\*\*|<=|>=|!=|==|\S")
_AND = re.compile(r"[,;]?\s*(and|or)\s*[,;]?", re.IGNORECASE)

_ALTERNATIVE = re.compile(r"(and|or) (-?[\d.,/]*\d%?)", re.IGNORECASE)  # the "or 13" behind a number
_BEFORE_MORE = re.compile(r"([a-zA-Z]+\.?),? (and|or)", re.IGNORECASE)  # 5 \text{ dollars and } 20

FUNCTIONS = frozenset(
    "sin cos tan cot sec csc arcsin arccos arctan arccot asin acos atan sinh cosh tanh ln log lg exp sqrt max min gcd "
    "lcm cbrt abs".split()
)
"""Names that are applied to an argument."""

_PLAIN_NAMES = {"pi": r"\pi", "infinity": r"\infty", "infty": r"\infty", "inf": r"\infty", "oo": r"\infty"}
PERCENT = frozenset({"percent", "percentage", "pct", "per cent"})
_PREFIX = re.compile(r"(?:np|math|numpy|sp|sympy)\.(?=[a-z])")

# Plain words that are a unit behind a number.
_UNIT_NAMES = frozenset(
    "dollar usd buck cent cm centimeter centimetre meter metre km kilometer kilometre mm millimeter millimetre inch "
    "inche inches ft foot feet yd yard mi mile sec second min minute hr hour day week month year yr gram kg kilogram "
    "mg milligram lb pound oz ounce liter litre ml milliliter millilitre gallon mph unit radian degree deg way "
    "people person student child children boy girl man men woman women apple orange book page point time times "
    "solution value number digit integer triangle square circle coin marble ball card game side edge face "
    "vertex vertices root factor divisor pair case term row column step move cup box boxes bag item piece "
    "dog cat car house tree rupee yuan euro pizza slice ticket player team vote mark question problem "
    "arrangement permutation combination possibility possibilities outcome path subset element zero".split()
)
_NEEDS_SPACE = frozenset({"cm", "km", "mm", "ft", "yd", "mi", "hr", "yr", "kg", "mg", "lb", "oz", "ml", "sec", "min"})
_SHORTEST_NAME = 3  # of a unit that no letters side by side are: yen, tons, joules
_UNIT_MODIFIERS = frozenset({"square", "sq", "cubic", "cu"})
_SCALES_AND_TIMES = frozenset({*SCALES, "am", "pm", "north", "south", "east", "west", "squared", "cubed"})


def _is_unit_word(word: str, spaced: bool) -> bool:
    word = word.lower()
    if word in _UNIT_MODIFIERS:
        return True
    if word in _NEEDS_SPACE and not spaced:
        return False
    if word in _UNIT_NAMES or (word.endswith("s") and len(word) > 3 and word[:-1] in _UNIT_NAMES):
        return True
    return len(word) >= _SHORTEST_NAME and unit_of(word) is not None


def is_name(word: str) -> bool:
    """Whether a word belongs to mathematical notation: a function, a unit, a constant, "and", "or", "percent"."""
    low = word.lower()
    return (
        word in FUNCTIONS or word in _PLAIN_NAMES or low in PERCENT or low in ("and", "or") or _is_unit_word(word, True)
    )


def tokens(normal: str, *, grouped: bool = True) -> list[Token]:
    """The tokens of a normalised answer, with a last one of kind ``end``.

    Args:
        normal: what :func:`tidy` returned.
        grouped: whether ``1,234`` outside of brackets is one number; otherwise two.
    """
    found: list[Token] = []
    _tokenize(normal, found, grouped, 0)
    found.append(Token("end", ""))
    return found


def _tokenize(text: str, found: list[Token], grouped: bool, level: int) -> None:
    position, brackets, spaced = 0, 0, False
    while position < len(text):
        character = text[position]
        if character == " ":
            position, spaced = position + 1, True
            continue
        if (character.isdigit() and character.isascii()) or character == ".":
            match = None if brackets or not grouped else GROUPED.match(text, position)
            match = match or _NUMBER.match(text, position)
            if match is None or len(match.group()) > 1_000:
                raise Unreadable("number")
            found.append(Token("number", match.group().replace(",", ""), spaced))
            position = match.end()
        elif character == "\\":
            position = _tokenize_command(text, position, found, grouped, level, spaced)
            if found and found[-1].text in (r"\{", r"\}"):
                brackets += 1 if found[-1].text == r"\{" else -1
        elif character.isalpha() and character.isascii():
            prefix = _PREFIX.match(text, position)
            position = prefix.end() if prefix else position
            letters = _LETTERS.match(text, position)
            assert letters is not None
            _tokenize_letters(letters.group(), found, spaced)
            position = letters.end()
        else:
            sign = _SIGN.match(text, position)
            assert sign is not None
            brackets += (sign.group() in "([") - (sign.group() in ")]")
            found.append(Token("sign", sign.group().replace("**", "^").replace("==", "="), spaced))
            position = sign.end()
        spaced = False


def _tokenize_command(text: str, position: int, found: list[Token], grouped: bool, level: int, spaced: bool) -> int:
    wrapper = _WRAPPER.match(text, position)
    if wrapper is None:
        command = _COMMAND.match(text, position)
        if command is not None:
            name = command.group()[1:]
            found.append(
                Token("function", name, spaced) if name in FUNCTIONS else Token("command", f"\\{name}", spaced)
            )
            return command.end()
        if position + 1 == len(text):
            raise Unreadable("backslash")
        found.append(Token("command", text[position : position + 2], spaced))
        return position + 2
    end = closing_brace(text, wrapper.end())
    content = text[wrapper.end() + 1 : end]
    if level > 8:
        raise Unreadable("depth")
    if re.fullmatch(_STYLE, wrapper[1]):
        _tokenize(content, found, grouped, level + 1)
    else:
        _tokenize_text(content, found, grouped, level, wrapper[1])
    return end + 1


def _tokenize_text(content: str, found: list[Token], grouped: bool, level: int, wrapper: str) -> None:
    stripped = content.strip()
    connective = _AND.fullmatch(stripped)
    after_number = bool(found) and (found[-1].kind == "number" or found[-1].text in (")", "}"))
    if not stripped:
        return
    if connective:
        found.append(Token("sign", connective[1].lower()))
    elif stripped in FUNCTIONS and not after_number:
        found.append(Token("function", stripped))
    elif after_number and (
        re.fullmatch(r"[A-Zabcdfghj-z](?:\^\{?\d\}?)?", stripped) and wrapper in ("text", "mathrm", "mbox")
    ):
        found.append(Token("text", stripped))  # a unit of one letter: 5 \mathrm{~m}
    elif re.fullmatch(r"[^a-zA-Z]*[a-zA-Z]?[^a-zA-Z]*|[a-zA-Z](?: ?, ?[a-zA-Z])+", stripped):
        # No words: 340, (C), E, or a list of letters. 10:30 keeps its place in a line of text.
        _tokenize(stripped, found, grouped, level + 1)
    elif choice := re.fullmatch(r"(?:option|choice) \(?([A-Z])\)?", stripped, re.IGNORECASE):
        found.append(Token("letter", choice[1].upper()))
    elif after_number and (leading := _BEFORE_MORE.fullmatch(stripped)):
        found.extend((Token("text", leading[1]), Token("sign", leading[2].lower())))
    elif after_number and (choice := _ALTERNATIVE.fullmatch(stripped)):
        found.append(Token("sign", choice[1].lower()))
        _tokenize(choice[2], found, grouped, level + 1)
    elif quantity := re.fullmatch(r"([-+]?\$?[\d.,]*\d)\s*([a-zA-Z][a-zA-Z ]*\.?)", stripped):
        _tokenize(quantity[1], found, grouped, level + 1)
        found.append(Token("text", quantity[2]))
    else:
        found.append(Token("text", stripped))


def _tokenize_letters(letters: str, found: list[Token], spaced: bool) -> None:
    after_number = bool(found) and (found[-1].kind in ("number", "unit") or found[-1].text in (")", "}"))
    if letters in FUNCTIONS:
        found.append(Token("function", letters, spaced))
    elif letters in _PLAIN_NAMES:
        found.append(Token("command", _PLAIN_NAMES[letters], spaced))
    elif letters.lower() in ("and", "or"):
        found.append(Token("sign", letters.lower(), spaced))
    elif letters.lower() in PERCENT:
        found.append(Token("sign", "%", spaced))
    elif after_number and _is_unit_word(letters, spaced):
        found.append(Token("unit", letters, spaced))
    elif after_number and letters.lower() in _SCALES_AND_TIMES:
        found.append(Token("text", letters, spaced))
    elif len(letters) > 2:
        found.append(Token("word", letters, spaced))
    else:
        found.extend(Token("letter", letter, spaced and not index) for index, letter in enumerate(letters))


def is_balanced(text: str) -> bool:
    """Whether every brace closes, so that the text stays within braces put around it."""
    try:
        return closing_brace(f"{{{text}}}", 0) == len(text) + 1
    except Unreadable:
        return False


def closing_brace(text: str, opening: int) -> int:
    """Where the brace that opens at ``opening`` closes; raises :class:`Unreadable` if it never does."""
    depth, position = 0, opening
    while position < len(text):
        character = text[position]
        if character == "\\":
            position += 1
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return position
        position += 1
    raise Unreadable("brace")
