r"""From tokens to a tree: a recursive-descent reader of the mathematics that answers are written in.

It knows LaTeX and what people type instead of it (``sqrt(3)/2``, ``2**10``), evaluates nothing, and is bounded: in
characters (:data:`multi_attempt.grading.notation.LONGEST`) and in depth (:data:`DEEPEST`). What it does not know, it
refuses with :class:`Unreadable`, for math-verify to try.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from functools import partial
from typing import NamedTuple

from multi_attempt.answers.words import changes_value
from multi_attempt.grading.notation import BASE_NAMES, PERCENT, Token, Unreadable, tokens
from multi_attempt.grading.units import CURRENCIES, SCALES, conversion, is_part_of, unit_of

DEEPEST = 30
"""Levels of nesting."""

_LARGEST_EXPONENT = 5_000  # of ten, in 1e5000


class Node(NamedTuple):
    """A part of an answer.

    Attributes:
        op: what it is: ``number``, ``symbol``, ``text``; an operation (``+ * / ^ neg pm mp root ! abs ...``, or a
            function's name); a mark on a value (``unit percent degree base``); or a structure: ``group`` (in brackets),
            ``set``, ``several`` (answers side by side), ``matrix`` of ``row``, ``relation``, ``ratio``, ``union``.
        args: its parts.
        name: of a symbol, text, unit or unknown function; a group's two brackets; a relation's signs; a base.
        value: of a number.
        places: digits after the point of a number that was written as a decimal, else -1.
    """

    op: str
    args: tuple[Node, ...] = ()
    name: str = ""
    value: Fraction = Fraction(0)
    places: int = -1


def outline(node: Node) -> str:
    """A tree in one line, for a person: ``+(2, *(3, x))``."""
    if node.op == "number":
        return _shown(node.value)
    if not node.args:
        return node.name or node.op
    name = {"group": node.name, "relation": node.name}.get(node.op, node.op + (f" {node.name}" if node.name else ""))
    return f"{name}({', '.join(map(outline, node.args))})"


_LONGEST_SHOWN = 1_000  # bits of a number that is shown in full; Python refuses to write some 14,000


def _shown(value: Fraction) -> str:
    if max(value.numerator.bit_length(), value.denominator.bit_length()) <= _LONGEST_SHOWN:
        return str(value)
    power = math.log10(abs(value.numerator)) - math.log10(value.denominator)
    return f"{'-' if value < 0 else ''}about 10^{power:.1f}"


_UNSAID = Node("symbol", name="")  # the left side of "> 5"


def number(value: int | Fraction) -> Node:
    """A number that was not written as a decimal."""
    return Node("number", value=Fraction(value))


def read(normal: str, *, grouped: bool = True) -> Node:
    """The tree of a normalised answer; raises :class:`Unreadable`.

    Args:
        normal: what :func:`multi_attempt.grading.notation.tidy` returned.
        grouped: whether ``1,234`` outside of brackets is one number; otherwise two.
    """
    reader = _Reader(tokens(normal, grouped=grouped))
    tree = reader.several()
    if reader.token.kind != "end":
        raise Unreadable(reader.token.text)
    return tree


_RELATIONS = {
    "=": "=", "<": "<", ">": ">", "<=": "<=", ">=": ">=", "!=": "!=", r"\leq": "<=", r"\geq": ">=", r"\neq": "!=",
    r"\approx": "~", r"\in": "in", r"\equiv": "=", r"\sim": "~", r"\ll": "<", r"\gg": ">", ":=": "=",
}  # fmt: skip
_OPENING = {"(": ")", "[": "]"}
_CLOSING = frozenset({")", "]", "}", r"\}", "|", r"\rfloor", r"\rceil", r"\|"})
_GREEK_AND_LIKE = frozenset(
    r"\alpha \beta \gamma \delta \epsilon \zeta \eta \theta \kappa \lambda \mu \nu \xi \pi \rho \sigma \tau \upsilon "
    r"\phi \chi \psi \omega \Gamma \Delta \Theta \Lambda \Xi \Pi \Sigma \Upsilon \Phi \Psi \Omega \hbar \ell \infty "
    r"\emptyset \odot \oplus \aleph \nabla \partial \mho \Re \Im \star \bot \perp \parallel \prime "
    r"\heartsuit \spadesuit \top".split()
)
_ACCENTS = frozenset(
    r"\dot \ddot \hat \bar \tilde \vec \widehat \widetilde \overline \underline \overrightarrow \mathbb "
    r"\mathcal \mathscr \mathfrak \overleftrightarrow \overset \arc".split()
)
_FENCES = {r"\lfloor": ("floor", r"\rfloor"), r"\lceil": ("ceil", r"\rceil")}
_INVERSES = {"sin": "arcsin", "cos": "arccos", "tan": "arctan", "cot": "arccot", "sinh": "arcsinh", "cosh": "arccosh",
             "tanh": "arctanh"}  # fmt: skip
_SAME_FUNCTION = {"asin": "arcsin", "acos": "arccos", "atan": "arctan"}
_SEVERAL_ARGUMENTS = frozenset({"max", "min", "gcd", "lcm"})
_UNKNOWN_FUNCTIONS = frozenset("fgFG")
_UNSUPPORTED = frozenset(r"\sum \prod \int \iint \oint \lim \cdots \ldots \dots \dotsc \dotsb \vdots \ddots".split())
ASKED_COMMANDS = (
    frozenset(
        r"\sum \prod \int \iint \iiint \oint \lim \det \to \rightarrow \partial \mathbb \frac \binom \sqrt \pm \mp "
        r"\circ \leq \geq \neq \in \lfloor \rfloor \lceil \rceil \{ \} \\ \ldots \cdots \dots".split()
    )
    | _GREEK_AND_LIKE
)
"""Commands that may stand in what math-verify is asked, besides functions."""
_MATRICES = frozenset({"pmatrix", "bmatrix", "matrix", "Bmatrix", "smallmatrix", "array"})


_INEQUALITIES = frozenset({"<", "<=", ">", ">=", "!="})
_CONNECTIVES = {"and": "and", r"\wedge": "and", "or": "or", r"\vee": "or"}
_ALIGNED = frozenset({"aligned", "align", "align*", "gathered", "split", "alignedat"})
_IF = frozenset({"if", "for", "when", "where"})
_OTHERWISE = "otherwise"
_INFINITY = Node("symbol", name=r"\infty")
_POSITIVE = Node("group", (number(0), _INFINITY), "()")
_NATURAL = Node("symbol", name=r"\mathbb N")
_NUMBER_SETS = {
    **dict.fromkeys(("R+", "R>0"), _POSITIVE),
    **dict.fromkeys(("R-", "R<0"), Node("group", (Node("neg", (_INFINITY,)), number(0)), "()")),
    **dict.fromkeys(("R\\geq0", "R>=0"), _POSITIVE._replace(name="[)")),
    **dict.fromkeys(("N", "N+", "N*", "Z+", "Z>0", "Z\\geq1"), _NATURAL),
}
_DIFFERENTIALS = frozenset({"d", r"\partial"})


class _Reader:
    def __init__(self, found: list[Token]) -> None:
        self._tokens = found
        self._position = 0
        self._depth = 0
        self._bars = 0  # open absolute values: in them a bar closes
        self._in_builder = False  # whether a colon says what the elements of a set are
        self._has_words = any(token.kind == "word" or token.kind == "text" for token in found)

    @property
    def token(self) -> Token:
        return self._tokens[self._position]

    def _next(self) -> Token:
        token = self._tokens[self._position]
        if token.kind != "end":
            self._position += 1
        return token

    def _at(self, *texts: str) -> bool:
        kind, text, _ = self._tokens[self._position]
        return text in texts and (kind == "sign" or kind == "command")

    def _take(self, *texts: str) -> bool:
        kind, text, _ = self._tokens[self._position]
        if text in texts and (kind == "sign" or kind == "command"):
            self._position += 1
            return True
        return False

    def _expect(self, text: str) -> None:
        if not self._take(text):
            raise Unreadable(f"{self.token.text!r} where {text!r} should be")

    # ---- Answers side by side, relations, sets ----

    def several(self) -> Node:
        """Answers parted by commas, semicolons, "and" and "or"; what is parted more strongly is grouped."""
        if self._has_words and (words := self._words()):
            return Node("text", name=words)
        clusters: list[list[Node]] = [[self._item()]]
        connectives: list[str] = []
        while True:
            comma = self._take(",")
            semicolon = self._take(";")
            connective = "" if semicolon or not self._at(*_CONNECTIVES) else _CONNECTIVES[self._next().text]
            strong = semicolon or bool(connective)
            if not comma and not strong:
                break
            if self.token.kind == "end":
                break
            connectives.append(connective)
            if comma or (strong and len(clusters) == 1 and not self._labelled(clusters[0])):
                clusters[-1].append(self._item())
            else:
                clusters.append([self._item()])
        if len(clusters) > 1 and all(len(cluster) > 1 and self._labelled(cluster) for cluster in clusters):
            return Node("several", tuple(Node("several", tuple(cluster)) for cluster in clusters))
        items = [item for cluster in clusters for item in cluster]
        if len(items) == 1:
            return items[0]
        if all(item.op == "relation" for item in items) and any(
            set(item.name.split()) & _INEQUALITIES for item in items
        ):
            return _conditions(items, connectives)
        return Node("several", tuple(items), "or" if set(connectives) == {"or"} else "")

    @staticmethod
    def _labelled(items: list[Node]) -> bool:
        return all(item.op == "relation" for item in items)

    def _words(self) -> str:
        """All that is left, if it is words and no mathematics."""
        rest = self._tokens[self._position : -1]
        for token in rest:
            if token.kind not in ("word", "text", "unit", "letter") and token.text not in ("and", "or", ",", ".", "-"):
                return ""
        if not rest or (rest[0].kind != "text" and not any(token.kind == "word" for token in rest)):
            return ""
        self._position = len(self._tokens) - 1
        return " ".join(token.text for token in rest)

    def _item(self) -> Node:
        parts, signs = [self._named() or (_UNSAID if self._is_relation() else self._quantity())], []
        while self._is_relation():
            sign = _RELATIONS[self._next().text]
            if sign in ("<", ">") and self._take("="):
                sign += "="
            signs.append(sign)
            parts.append(self._quantity())
        if self._take(r"\pmod") or self._take(r"\bmod"):
            modulus = self._atom() if self._at("{", "(") else self._sum()
            parts[-1] = Node("modulo", (parts[-1], modulus))
        return parts[0] if not signs else Node("relation", tuple(parts), " ".join(signs))

    def _is_relation(self) -> bool:
        return self.token.text in _RELATIONS and self.token.kind in ("sign", "command")

    def _named(self) -> Node | None:
        """A name in words before a relation, ``\\text{Area} = 5``; words that lead to a value are skipped."""
        if self.token.kind == "text" and re.search(r"(?::|\b(?:is|are))$", self.token.text):
            self._next()
        if self.token.kind in ("text", "word") and self._tokens[self._position + 1].text in _RELATIONS:
            return Node("text", name=self._next().text)
        return None

    def _quantity(self) -> Node:
        """A value, and its unit if it has one."""
        if self.token.kind in ("number", "letter") and self._tokens[self._position + 1].text in _AFTER_A_VALUE:
            return self._atom()  # the short way for the most frequent values
        currency = self._currency()
        if self._at("-") and self._tokens[self._position + 1].text in CURRENCIES:
            self._next()
            currency = self._currency()
            value = _negative(self._union())
        else:
            value = self._union()
        if self.token.kind in ("text", "unit"):
            value = _measured(value, self._unit())
            if value.op == "unit":
                value = self._with_smaller_units(value)
        currency = self._currency() or currency
        return _of_money(value, currency) if currency else value

    def _currency(self) -> str:
        is_money = self.token.text in CURRENCIES and self.token.kind in ("command", "word")
        return CURRENCIES[self._next().text] if is_money else ""

    def _with_smaller_units(self, first: Node) -> Node:
        """A quantity in several units, 7 ft 3 in, or the one that stands here."""
        parts = [first]
        while True:
            start = self._position
            is_apart = self._take("and", ",")
            value = self._product() if self.token.kind == "number" else None
            if value is None or self.token.kind not in ("text", "unit"):
                break
            unit = self._unit()
            if not is_part_of(unit, parts[-1].name):
                if is_apart:
                    break
                return Node("remark", first.args, f"{first.name} {outline(value)} {unit}")  # equal to itself alone
            parts.append(Node("unit", (value,), unit))
        self._position = start
        return first if len(parts) == 1 else Node("compound", tuple(parts))

    def _unit(self) -> str:
        words: list[str] = []
        while self.token.kind in ("text", "unit"):
            words.append(self._next().text)
            if self._take("^"):
                words.append("^" + self._flat())
            if self._at("/", "*") and self._tokens[self._position + 1].kind in ("text", "unit", "letter", "word"):
                words.append(self._next().text)
                if self.token.kind in ("letter", "word"):
                    words.append(self._next().text)
        return " ".join(words)

    def _union(self) -> Node:
        parts = [self._intersection()]
        if self.token.kind == "end":
            return parts[0]
        while self._take(r"\cup"):
            parts.append(self._intersection())
        tree = parts[0] if len(parts) == 1 else Node("union", tuple(parts))
        if self._take(r"\setminus"):
            return Node("minus", (tree, self._ratio()))
        if self._at("-") and self._tokens[self._position + 1].text == r"\{":
            self._next()
            return Node("minus", (tree, self._ratio()))
        return tree

    def _intersection(self) -> Node:
        parts = [self._ratio()]
        while self._take(r"\cap"):
            parts.append(self._ratio())
        return parts[0] if len(parts) == 1 else Node("both", tuple(parts), "and")

    def _ratio(self) -> Node:
        start = self._position
        parts = [self._sum()]
        while not self._in_builder and self._take(":"):
            parts.append(self._sum())
        if len(parts) == 1:
            return parts[0]
        written = "".join(token.text for token in self._tokens[start : self._position])
        return Node("ratio", tuple(parts), "time" if _TIME.fullmatch(written) else "")

    # ---- Arithmetic ----

    def _sum(self) -> Node:
        terms: list[Node] = []
        while True:
            if self.token.text not in _TERM_SIGNS:
                if terms:
                    break
                terms.append(self._product())
            elif self._take("+"):
                if self._take("-"):
                    terms.append(Node("neg", (self._product(),)))
                else:
                    terms.append(self._product())
            elif self._at("-") and self._tokens[self._position + 1].text != r"\{":
                self._next()
                terms.append(_negative(self._signed_product()))
            elif self._take(r"\pm"):
                terms.append(Node("pm", (self._product(),)))
            elif self._take(r"\mp"):
                terms.append(Node("mp", (self._product(),)))
            elif not terms:
                terms.append(self._product())
            else:
                break
        return terms[0] if len(terms) == 1 else Node("+", tuple(terms))

    def _signed_product(self) -> Node:
        if not self._take("-"):
            return self._product()
        self._enter()
        tree = _negative(self._signed_product())
        self._depth -= 1
        return tree

    def _product(self) -> Node:
        """Factors from left to right, so that ``1/2\\pi`` is half of pi; a whole number before a fraction is mixed."""
        mixed = self._mixed()
        tree = self._power() if mixed is None else self._postfix(mixed)
        last = tree
        divisions = 0
        while self.token.kind != "end":
            if self._take("*"):
                last = self._signed_power()
                tree = _times(tree, last)
            elif self._at("/", r"\bmod"):
                operation = "/" if self._next().text == "/" else "mod"
                last = self._signed_power()
                tree = Node(operation, (tree, last))
                divisions += 1
                if divisions > DEEPEST:
                    raise Unreadable("depth")
            elif self._starts_factor():
                if last.op == "number" and self.token.kind == "number":
                    raise Unreadable("two numbers side by side")
                last = self._power()
                tree = _times(tree, last)
            else:
                break
        return tree

    def _mixed(self) -> Node | None:
        r"""``1\frac{1}{2}`` and ``1 1/2``."""
        start, whole = self._position, self.token
        if whole.kind != "number" or not whole.text.isdigit():
            return None
        self._next()
        if self._take(r"\frac"):
            parts = self._script(single_digit=True), self._script(single_digit=True)
        elif self.token.kind == "number" and self.token.spaced and self._tokens[self._position + 1].text == "/":
            above = self._atom()
            self._next()
            parts = above, self._atom() if self.token.kind == "number" else number(0)
        else:
            self._position = start
            return None
        above, below = parts
        if not (above.op == below.op == "number" and 0 < above.value < below.value and _is_whole(above, below)):
            self._position = start
            return None
        return Node("number", value=int(whole.text) + above.value / below.value)

    def _signed_power(self) -> Node:
        if not self._at("-", "+"):
            return self._power()
        negative = self._next().text == "-"
        self._enter()
        tree = self._signed_power()
        self._depth -= 1
        return Node("neg", (tree,)) if negative else tree

    def _starts_factor(self) -> bool:
        token = self.token
        if token.kind in ("number", "letter", "word", "function"):
            return True
        if token.kind == "sign":
            return token.text in ("(", "[", "{") or (token.text == "|" and not self._bars)
        if token.kind == "command":
            return token.text not in _CLOSING and token.text not in _RELATIONS and token.text not in _NO_FACTOR
        return False

    def _power(self) -> Node:
        return self._postfix(self._atom())

    def _postfix(self, tree: Node) -> Node:
        for _ in range(DEEPEST):
            if self.token.text not in _POSTFIXES:
                return self._call(tree.name) if tree.op == "symbol" and self._is_call(tree.name) else tree
            if self._at("^"):
                self._next()
                if mark := self._prime_or_degree():
                    tree = _marked(tree, mark)
                    continue
                tree = Node("^", (tree, self._script()))
            elif self._at("_"):
                self._next()
                tree = _subscripted(tree, self._flat())
            elif self._at("!") and self._tokens[self._position + 1].text != "=":
                self._next()
                if self._at("!"):
                    raise Unreadable("!!")
                tree = Node("!", (tree,))
            elif self._take("%") or self._take(r"\%"):
                tree = Node("percent", (tree,))
            elif self._take("'"):
                tree = _marked(tree, r"\prime")
            elif self._take(r"\circ"):
                tree = Node("degree", (tree,))
            elif tree.op == "degree" and self.token.kind in ("letter", "text"):  # degrees Celsius
                return Node("unit", tree.args, "degree " + self._next().text)
            else:
                return tree
        raise Unreadable("depth")

    def _is_call(self, name: str) -> bool:
        """Whether a name before a bracket is a function's: ``f(x + 1)``, ``I(0)``, but not ``n(n + 1)``."""
        if not self._at("("):
            return False
        if name.rstrip("'") in _UNKNOWN_FUNCTIONS:
            return True
        inner, *closing = self._tokens[self._position + 1 : self._position + 3]
        return name[:1].isupper() and inner.kind in ("number", "letter") and bool(closing) and closing[0].text == ")"

    def _call(self, name: str) -> Node:
        argument = self._atom()
        return Node("call", argument.args if argument.op == "group" else (argument,), name)

    def _prime_or_degree(self) -> str:
        r"""Takes ``\circ``, ``\prime``, ``{\circ}`` or ``{\prime\prime}`` after ``^``; the mark, or nothing."""
        mark = self.token.text
        if self._take(r"\circ", r"\prime", "*"):
            return mark
        if not self._at("{") or self._tokens[self._position + 1].text not in (r"\circ", r"\prime"):
            return ""
        self._next()
        mark = self.token.text
        while self._take(r"\circ", r"\prime"):
            pass
        if not self._take("}"):
            raise Unreadable("mark")
        return mark

    def _script(self, *, single_digit: bool = False) -> Node:
        """What follows ``^``, or is an argument of a command: in braces, or one token (``single_digit``: one digit)."""
        self._enter()
        try:
            if self._take("-"):
                return Node("neg", (self._script(single_digit=single_digit),))
            if self._take("+"):
                return self._script(single_digit=single_digit)
            token = self.token
            if single_digit and token.kind == "number" and len(token.text) > 1:
                if not token.text.isdigit():
                    raise Unreadable("number")
                # Split for good, so that whoever goes back to read it otherwise finds both parts.
                digits = Token("number", token.text[0], token.spaced), Token("number", token.text[1:])
                self._tokens[self._position : self._position + 1] = digits
            return self._power() if token.kind == "function" and not single_digit else self._atom()
        finally:
            self._depth -= 1

    def _enter(self) -> None:
        self._depth += 1
        if self._depth > DEEPEST:
            raise Unreadable("depth")

    def _atom(self) -> Node:
        self._enter()
        try:
            token = self._next()
            if token.kind == "number":
                return self._number(token.text)
            if token.kind == "letter":
                return Node("symbol", name=token.text)
            if token.kind == "word":
                return Node("*", tuple(Node("symbol", name=letter) for letter in token.text))
            if token.kind == "function":
                return self._function(token.text)
            if token.kind == "sign":
                return self._bracket(token.text)
            if token.kind == "command":
                return self._command(token.text)
            raise Unreadable(token.text or "end")
        finally:
            self._depth -= 1

    def _number(self, text: str) -> Node:
        if text.isdigit():
            return Node("number", value=Fraction(int(text)))
        mantissa, _, exponent = text.replace("E", "e").partition("e")
        if exponent and abs(int(exponent)) > _LARGEST_EXPONENT:
            raise Unreadable("exponent")
        places = len(mantissa.partition(".")[2]) if "." in mantissa.rstrip(".") else -1
        value = Fraction(mantissa.rstrip(".") or "0")
        if "." in mantissa and not exponent and (repeated := self._repeated()):
            places = len(mantissa.partition(".")[2])
            return number(value + Fraction(int(repeated), (10 ** len(repeated) - 1) * 10**places))
        if places > 0 and not exponent and self._take(*_GOES_ON):
            return Node("number", value=_gone_on(mantissa), places=places)
        if not exponent:
            return Node("number", value=value, places=places)
        scale = Fraction(10) ** int(exponent)
        if places > 0:  # how many digits it was written with is kept, for rounding
            return Node("*", (Node("number", value=value, places=places), number(scale)))
        return number(value * scale)

    def _repeated(self) -> str:
        r"""The digits that a decimal repeats for ever: ``\overline{3}``, ``\dot{1}4\dot{2}``, ``(3)``; or none."""
        if self._take(r"\overline", r"\bar"):
            digits = self._flat()
        elif self._at(r"\dot"):
            digits = self._dotted()
        elif self._at("(") and not self.token.spaced:
            return self._digits_in_brackets()
        else:
            return ""
        if not digits.isdigit():
            raise Unreadable("repeated digits")
        return digits

    def _dotted(self) -> str:
        """The digits from the first dot to the last; each may have one."""
        digits = ""
        while self._take(r"\dot"):
            digits += self._flat()
            if self.token.kind == "number":
                following = self._next().text
                if not self._at(r"\dot"):
                    raise Unreadable("digits behind those that are repeated")
                digits += following
        return digits

    def _digits_in_brackets(self) -> str:
        """The digits of ``0.1(6)``, but not a factor's: one more may follow ``0.1(6)(3)``."""
        start = self._position
        self._next()
        digits = self._next()
        if digits.kind == "number" and digits.text.isdigit() and self._take(")") and not self._starts_factor():
            return digits.text
        self._position = start
        return ""

    def _bracket(self, opening: str) -> Node:
        if opening == "{":
            if self._take("}"):
                raise Unreadable("{}")
            bars, self._bars = self._bars, 0
            tree = self.several()
            if self._at(r"\choose", r"\over"):
                tree = Node("binom" if self._next().text == r"\choose" else "/", (tree, self._sum()))
            self._bars = bars
            self._expect("}")
            return tree
        if opening == "|":
            return self._absolute("|")
        if opening not in _OPENING:
            raise Unreadable(opening)
        bars, self._bars = self._bars, 0
        items, separator = self._items(")", "]")
        self._bars = bars
        closing = self._next().text
        if closing not in (")", "]"):
            raise Unreadable(f"unclosed {opening}")
        if len(items) == 1 and not separator and closing == _OPENING[opening]:
            return items[0]
        return Node("group", tuple(items), opening + closing)

    def _items(self, *closings: str) -> tuple[list[Node], bool]:
        items, separated = [], False
        while not self._at(*closings):
            items.append(self._item())
            if not (self._take(",") or self._take(";")):
                break
            separated = True
        return items, separated

    def _absolute(self, closing: str) -> Node:
        self._bars += 1
        inner = self._sum()
        self._expect(closing)
        self._bars -= 1
        return Node("abs", (inner,))

    def _set(self) -> Node:
        start, bars = self._position, self._bars
        self._bars = 1  # so that the bar of {x | x > 0} does not begin an absolute value
        self._in_builder = True
        items, _ = self._items(r"\}", "|", r"\mid", ":")
        self._in_builder = False
        if self._at(":") and (len(items) != 1 or not _names_something(items[0])):  # ratios
            self._position = start
            items, _ = self._items(r"\}", "|", r"\mid")
        self._bars = bars
        if len(items) == 1 and self._take("|", r"\mid", ":"):
            self._bars = 0
            condition = self.several()
            self._bars = bars
            self._expect(r"\}")
            return _built(items[0], condition)
        self._expect(r"\}")
        return Node("set", tuple(items))

    def _command(self, name: str) -> Node:
        if name in (r"\frac", r"\binom"):
            above = self._script(single_digit=True)
            below = self._script(single_digit=True)
            if name == r"\frac" and _is_differential(below) and (_is_operator(above) or _is_differential(above)):
                return _derivative(above, below)
            return Node("/" if name == r"\frac" else "binom", (above, below))
        if name == r"\{":
            return self._set()
        if name == r"\|":
            return self._absolute(r"\|")
        if name in _FENCES:
            operation, closing = _FENCES[name]
            bars, self._bars = self._bars, 0
            inner = self._sum()
            self._bars = bars
            self._expect(closing)
            return Node(operation, (inner,))
        if name == r"\begin":
            return self._environment()
        if name == r"\emptyset":
            return Node("set")
        is_figure = name in _FIGURES or (name == r"\Delta" and self.token.text.isupper())
        if is_figure and self.token.kind in ("letter", "word"):
            corners: list[str] = []
            while self.token.kind in ("letter", "word"):
                corners += self._next().text
                if self._take("_"):
                    corners[-1] += "_" + self._flat()
            return _figure(name, corners)
        if name == r"\mathbb":
            return self._number_set(self._flat())
        if name in _ACCENTS:
            return Node("symbol", name=f"{name} {self._flat()}")
        if name in (r"\nabla", r"\partial") and self._starts_factor():
            return Node("call", (self._power(),), name)
        if name in _GREEK_AND_LIKE:
            return Node("symbol", name=name)
        raise Unreadable(name)

    def _function(self, name: str) -> Node:
        name = _SAME_FUNCTION.get(name, name)
        if name in ("sqrt", "cbrt"):
            return self._root(name)
        power: Node | None = None
        base: Node | None = None
        while self._at("^", "_"):
            if self._next().text == "^":
                power = self._script()
            else:
                base = self._script()
        argument = self._atom() if self._at("(", "[", "{", "|") else self._juxtaposed()
        if name in _SEVERAL_ARGUMENTS:
            return Node(name, argument.args if argument.op in ("group", "several", "set") else (argument,))
        if name == "lg":
            name, base = "log", number(10)
        if power == number(-1) or power == Node("neg", (number(1),)):
            name, power = _INVERSES.get(name, ""), None
            if not name:
                raise Unreadable("inverse")
        tree = Node(name, (argument,) if base is None else (argument, base))
        return tree if power is None else Node("^", (tree, power))

    def _juxtaposed(self) -> Node:
        r"""A function's argument without brackets: the factors up to a sign, a slash or another function."""
        self._enter()
        negative = self._take("-")
        tree = self._power()
        while self._starts_factor() and self.token.kind not in ("function",) and not self._at("(", "["):
            tree = _times(tree, self._power())
        self._depth -= 1
        return Node("neg", (tree,)) if negative else tree

    def _root(self, name: str) -> Node:
        index = number(3 if name == "cbrt" else 2)
        if self._take("["):
            index = self._sum()
            self._expect("]")
        # TeX would put the 1 of \sqrt16 under the root, but whoever writes it means the 16.
        return Node("root", (self._script(), index))

    def _environment(self) -> Node:
        name = self._flat()
        if name == "cases":
            return self._cases()
        if name in _ALIGNED:
            return self._aligned(name)
        if name not in _MATRICES:
            raise Unreadable(name)
        if name == "array":
            self._flat()
        rows = self._rows(name)
        if len({len(row) for row in rows}) != 1:
            raise Unreadable("rows of unequal length")
        return Node("matrix", tuple(Node("row", tuple(row)) for row in rows))

    def _number_set(self, name: str) -> Node:
        r"""``\mathbb{R}``, ``\mathbb{R}^+``, ``\mathbb{Z}_{>0}``."""
        start = self._position
        if self._take("^", "_"):
            found = _NUMBER_SETS.get(name + self._flat())
            if found is not None:
                return found
            self._position = start
        return _NUMBER_SETS.get(name, Node("symbol", name=f"\\mathbb {name}"))

    def _lines(self) -> list[Token]:
        """What stands up to the end of an environment, without the ends of lines that go on with a relation."""
        lines: list[Token] = []
        while self.token.kind != "end" and not self._at(r"\end", r"\begin"):
            token = self._next()
            if token.text in _RELATIONS and token.kind != "text":
                while lines and lines[-1].text in ("&", "\\\\"):
                    lines.pop()
            if token.text != "&" or token.kind != "sign":
                lines.append(token)
        return lines

    def _aligned(self, name: str) -> Node:
        """Equations below each other."""
        start, lines = self._position, self._lines()
        if not self._at(r"\begin"):  # in a matrix the marks are its own
            self._tokens[start : self._position] = lines
        self._position = start
        items = [item for row in self._rows(name) for item in row]
        return items[0] if len(items) == 1 else Node("several", tuple(items))

    def _cases(self) -> Node:
        """A system of equations, or the pieces of a function, each with its condition."""
        start = self._position
        while self.token.kind != "end" and not self._at(r"\end"):
            self._next()
        self._tokens[start : self._position] = _with_conditions_apart(self._tokens[start : self._position])
        self._position = start
        rows = self._rows("cases")
        if not any(len(row) > 1 for row in rows):
            return Node("several", tuple(item for row in rows for item in row))
        if not all(len(row) > 1 and _is_condition(*row[1:]) for row in rows):
            raise Unreadable("cases")
        return Node("piecewise", tuple(Node("row", (row[0], _conditions(row[1:], []))) for row in rows))

    def _rows(self, name: str) -> list[list[Node]]:
        rows: list[list[Node]] = [[]]
        bars, self._bars = self._bars, 0
        while not self._at(r"\end"):
            if self._take(r"\\"):
                if rows[-1]:
                    rows.append([])
            elif self._take("&") or self._take(r"\hline") or self._take(","):
                continue
            else:
                rows[-1].append(self._item())
        self._next()
        self._bars = bars
        if self._flat() != name:
            raise Unreadable("environment")
        return [row for row in rows if row]

    def _flat(self) -> str:
        """What stands in braces (or one token) as a name, not as mathematics: ``k_{\\mathrm{B}}`` is ``k_B``."""
        if not self._take("{"):
            token = self._next()
            if token.kind == "end":
                raise Unreadable("end")
            return token.text
        depth = 1
        texts: list[str] = []
        while True:
            token = self._next()
            if token.kind == "end":
                raise Unreadable("unclosed brace")
            depth += (token.text == "{") - (token.text == "}")
            if not depth:
                return "".join(texts)
            if token.text not in ("{", "}"):
                texts.append(token.text)


def _multiplied(size: int | Fraction, value: Node) -> Node:
    return Node("*", (value, number(size)))


_PARTS = {"tenth": Fraction(1, 10), "hundredth": Fraction(1, 100), "thousandth": Fraction(1, 1_000)}
_SCALED: dict[str, Callable[[Node], Node]] = {
    **{name: partial(_multiplied, size) for name, size in SCALES.items()},
    "pi": lambda value: Node("*", (value, Node("symbol", name=r"\pi"))),
    "squared": lambda value: Node("^", (value, number(2))),
    "cubed": lambda value: Node("^", (value, number(3))),
    "factorial": lambda value: Node("!", (value,)),
    **{name: partial(_multiplied, size) for name, size in _PARTS.items()},
}
"""Words behind a value that make it another."""


def _measured(value: Node, words: str) -> Node:
    """A value with the words behind it: a scale, its unit, or a remark that makes it something else."""
    if half := _AND_A_HALF.match(words):
        value, words = Node("+", (value, number(Fraction(1, 2)))), words[half.end() :]
        if not words:
            return value
    first, _, rest = words.partition(" ")
    scaled = _SCALED.get(first.lower()) or _SCALED.get(first.lower().rstrip("s."))
    if scaled is not None:
        value = scaled(value)
        return _measured(value, rest) if rest else value
    if words.lower() in PERCENT:
        return Node("percent", (value,))
    if words.lower().rstrip("s.") in ("degree", "deg"):
        return Node("degree", (value,))
    if _RAISED.search(words) and unit_of(words) is not None:
        words = _RAISED.sub(lambda power: "^2" if power[1] == "squar" else "^3", words)
    return Node("remark" if changes_value(words) else "unit", (value,), words)


_AND_A_HALF = re.compile(r"and (?:a|one) half\b *", re.IGNORECASE)
_RAISED = re.compile(r" (squar|cub)ed\b")  # meters per second squared


def _of_money(value: Node, currency: str) -> Node:
    """A value with its currency, which the words behind it may name again, or add to: ``\\$5 \\text{ each}``."""
    if value.op != "unit":
        return Node("unit", (value,), currency)
    return value if conversion(value.name, currency) == 1 else Node("unit", value.args, f"{currency} {value.name}")


_FIGURES = (r"\angle", r"\triangle", r"\measuredangle")


def _figure(name: str, corners: list[str]) -> Node:
    """An angle or a triangle by its corners, which may be named from either end, or in any order."""
    if len(corners) == 3:
        is_angle = name in (r"\angle", r"\measuredangle")
        corners = min(corners, corners[::-1]) if is_angle else sorted(corners)
    return Node("symbol", name=f"{name} {''.join(corners)}")


def _conditions(items: Sequence[Node], connectives: Sequence[str]) -> Node:
    """Relations of which all hold (``both``), or of some groups of them one (``several``)."""
    groups: list[list[Node]] = [[items[0]]]
    strict = [False]
    for item, connective in zip(items[1:], [*connectives, *[""] * len(items)], strict=False):
        if connective == "or":
            groups.append([])
            strict.append(False)
        groups[-1].append(item)
        strict[-1] = strict[-1] or connective == "and"
    parts = tuple(
        group[0] if len(group) == 1 else Node("both", tuple(group), "and" if is_strict else "")
        for group, is_strict in zip(groups, strict, strict=True)
    )
    return parts[0] if len(parts) == 1 else Node("several", parts, "or")


def _is_condition(*items: Node) -> bool:
    if len(items) > 1:
        return all(item.op == "relation" for item in items)
    return items[0].op in ("relation", "both", "several", "unit") or items[0].name == _OTHERWISE


def _with_conditions_apart(found: list[Token]) -> list[Token]:
    r"""The lines of cases, with a mark instead of the ``\text{if}`` before a condition."""
    apart: list[Token] = []
    for token in found:
        word, _, rest = token.text.strip(" ,.;").partition(" ")
        is_last = word.lower() in (_OTHERWISE, "else")
        if token.kind not in ("text", "word") or not (word.lower() in _IF or is_last):
            apart.append(token)
            continue
        while apart and apart[-1].text in ("&", ","):
            apart.pop()
        apart.append(Token("sign", "&"))
        apart.extend([Token("letter", _OTHERWISE)] if is_last else tokens(rest.strip())[:-1])
    return apart


def _built(elements: Node, condition: Node) -> Node:
    r"""The set of what stands before the bar: what the condition says of it, if it is no more than a real number."""
    domain: tuple[Node, ...] = ()
    if elements.op == "relation" and elements.name == "in":
        elements, *domain_parts = elements.args
        domain = tuple(part for part in domain_parts if part.name != r"\mathbb R")
    if elements.op == "symbol" and not domain and _holds(condition, elements):
        return condition
    return Node("builder", (elements, condition, *domain))


def _holds(node: Node, part: Node) -> bool:
    return node == part or any(_holds(one, part) for one in node.args)


def _names_something(node: Node) -> bool:
    return node.op == "symbol" or any(map(_names_something, node.args))


def _is_operator(node: Node) -> bool:
    """Whether a tree is the d, or the power of it, of a derivative."""
    base = node.args[0] if node.op == "^" else node
    return base.op == "symbol" and base.name in _DIFFERENTIALS


def _is_differential(node: Node) -> bool:
    return (node.op == "*" and _is_operator(node.args[0])) or (node.op == "call" and node.name == r"\partial")


def _derivative(above: Node, below: Node) -> Node:
    r"""``\frac{dy}{dx}`` is a name; what ``\frac{d}{dx}`` is applied to, the reader cannot differentiate."""
    if _is_operator(above):
        raise Unreadable("derivative")
    return Node("symbol", name=f"{outline(above)}/{outline(below)}")


def _gone_on(decimal: str) -> Fraction:
    """The value of a decimal that goes on: with the digits repeated that are so at its end, else as it stands."""
    repeated = _REPEATED.search(decimal)
    if repeated is None:
        return Fraction(decimal)
    digits, places = repeated[1], len(decimal.partition(".")[2])
    return Fraction(decimal) + Fraction(int(digits), (10 ** len(digits) - 1) * 10**places)


_TIME = re.compile(r"(?:[01]?\d|2[0-4]):[0-5]\d(?::[0-5]\d)?")
_GOES_ON = (r"\ldots", r"\dots", r"\cdots", r"\dotsc", r"\dotsb")
_REPEATED = re.compile(r"(?<=[.\d])(\d{1,9}?)\1$")  # a block that stands twice at a decimal's end
_AFTER_A_VALUE = frozenset({"", "=", "<", ">", ",", ";", ")", "]", "}", r"\}", "&", "\\\\", "and", "or"})
_TERM_SIGNS = frozenset({"+", "-", r"\pm", r"\mp"})
_POSTFIXES = frozenset({"^", "_", "!", "%", r"\%", "'", r"\circ", "C", "F"})
# Commands that no factor begins with.
_NO_FACTOR = frozenset({r"\cup", r"\cap", r"\setminus", r"\pm", r"\mp", r"\mid", r"\wedge", r"\vee", r"\end", "\\\\",
                        r"\%", r"\$", r"\bmod", r"\pmod", r"\circ", r"\hline", r"\to", r"\rightarrow", r"\Rightarrow",
                        r"\implies", r"\iff", r"\choose", r"\over", r"\euro", r"\pounds",
                        r"\yen"}) | _UNSUPPORTED  # fmt: skip


def _negative(tree: Node) -> Node:
    """The tree with a minus sign, which stands inside of a mark: ``-(90°)`` is ``(-90)°``."""
    if tree.op in ("degree", "percent"):
        return Node(tree.op, (Node("neg", tree.args),))
    return Node("neg", (tree,))


def _times(left: Node, right: Node) -> Node:
    if right.op in ("degree", "percent"):
        return Node(right.op, (Node("*", (left, *right.args)),))
    # One product of many factors, not a nest of them.
    return Node("*", (*left.args, right) if left.op == "*" else (left, right))


def _is_whole(*nodes: Node) -> bool:
    return all(node.value.denominator == 1 and node.places < 0 for node in nodes)


def _marked(tree: Node, mark: str) -> Node:
    if mark == r"\circ":
        return Node("degree", (tree,))
    if tree.op != "symbol":
        raise Unreadable(mark)
    return Node("symbol", name=tree.name + ("*" if mark == "*" else "'"))


def _subscripted(tree: Node, subscript: str) -> Node:
    if tree.op == "number":
        base = BASE_NAMES.get(subscript, subscript)
        if not re.fullmatch(r"[1-9]\d?", base):
            raise Unreadable("subscript")
        return Node("base", (tree,), base)
    if tree.op == "symbol":
        return Node("symbol", name=f"{tree.name}_{subscript}")
    if tree.op == "^" and tree.args[0].op == "symbol":  # v^2_0
        return Node("^", (_subscripted(tree.args[0], subscript), tree.args[1]))
    raise Unreadable("subscript")
