r"""Words behind a number: units with their size, what is counted, words that scale a value, and words that change it.

``3 \text{ km}`` is ``3000 \text{ m}``, ``3 \text{ million}`` a number, ``12 \text{ or 13}`` not 12. Sizes are those of
the SI brochure, and the exact ones of the international yard and pound (1959).
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

SCALES: dict[str, int] = {
    "dozen": 12, "hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9, "trillion": 10**12,
}  # fmt: skip
"""Words that multiply the number before them."""

CURRENCIES: dict[str, str] = {
    r"\$": "$", r"\euro": "€", r"\pounds": "£", r"\yen": "¥", "USD": "$", "EUR": "€", "GBP": "£", "JPY": "¥",
}  # fmt: skip
"""Signs and codes of money, which stand before a number or behind it."""


class Unit(NamedTuple):
    """A unit of measurement.

    Attributes:
        size: in the base units of its dimension.
        dimension: base units and their powers, sorted by name.
    """

    size: Fraction
    dimension: tuple[tuple[str, int], ...]


# A unit's names, then what it is: a number, and other units with their powers. Without them it is a base unit.
_DEFINITIONS = """
m meter metre
kilogram =
s sec second
A amp ampere = 1 ampere_
K kelvin = 1 kelvin_
celsius = 1 celsius_
fahrenheit = 1 fahrenheit_
mol mole = 1 mole_
g gram = 1/1000 kilogram
N newton = 1 kilogram m s^-2
J joule = 1 N m
W watt = 1 J s^-1
Pa pascal = 1 N m^-2
Hz hertz = 1 s^-1
C coulomb = 1 A s
V volt = 1 W A^-1
F farad = 1 C V^-1
ohm Ω = 1 V A^-1
T tesla = 1 V s m^-2
Wb weber = 1 V s
H henry = 1 V s A^-1
L l liter litre = 1/1000 m^3
eV electronvolt = 1602176634/10000000000000000000000000000 J
cal calorie = 4184/1000 J
bar = 100000 Pa
B byte = 1 byte_
bit = 1/8 byte_
in inch inche = 254/10000 m
ft foot feet = 3048/10000 m
yd yard = 9144/10000 m
mi mile = 1609344/1000 m
acre = 4840 yd^2
hectare = 10000 m^2
min minute = 60 s
h hr hour = 3600 s
day = 86400 s
week = 604800 s
month = 1 month_
yr year = 12 month_
lb pound = 45359237/100000 g
oz ounce = 1/16 lb
ton = 2000 lb
tonne = 1000 kilogram
gal gallon = 231 in^3
quart qt = 1/4 gal
pint = 1/8 gal
cup = 1/16 gal
tablespoon tbsp = 1/16 cup
teaspoon tsp = 1/48 cup
mph = 1 mi h^-1
kph kmph = 1000 m h^-1
fps = 1 ft s^-1
revolution rev = 1 revolution_
rpm = 1 revolution min^-1
atm atmosphere = 101325 Pa
$ dollar usd buck = 1 dollar_
cent ¢ = 1/100 dollar_
€ euro eur = 1 euro_
£ gbp = 1 sterling_
pence = 1/100 sterling_
¥ yen jpy = 1 yen_
yuan rmb = 1 yuan_
rupee = 1 rupee_
unit = 1 unit_
rad radian = 1 radian_
"""
_PREFIXES = {
    "k": "kilo", "M": "mega", "G": "giga", "T": "tera", "P": "peta", "h": "hecto", "c": "centi", "d": "deci",
    "m": "milli", "µ": "micro", "μ": "micro", "u": "micro", "n": "nano", "p": "pico", "f": "femto",
}  # fmt: skip
_POWERS = {
    "kilo": 3, "mega": 6, "giga": 9, "tera": 12, "peta": 15, "hecto": 2, "deci": -1, "centi": -2, "milli": -3,
    "micro": -6, "nano": -9, "pico": -12, "femto": -15,
}  # fmt: skip
# Units that take prefixes: in symbols, and in words.
_SYMBOLS = frozenset("m s g A K mol N J W Pa Hz C V F T Wb H L l eV cal bar B bit ohm Ω".split())
_NAMES = frozenset(
    "meter metre gram second amp ampere mole newton joule watt pascal hertz volt coulomb farad ohm tesla liter litre "
    "electronvolt calorie byte bit".split()
)
_UNITS: dict[str, Unit] = {}

_MODIFIERS = {"square": 2, "sq": 2, "cubic": 3, "cu": 3}
_BEHIND = {"squared": 2, "cubed": 3}
_PART = re.compile(r"[a-zA-Z$€£¥¢µμΩ_]+|\^?-?\d+(?:/\d+)?|/")


def _named(word: str) -> Unit | None:
    if word in _UNITS:
        return _UNITS[word]
    low = word.lower()
    for name in (low, low[:-1] if low.endswith("s") else low):
        if len(name) > 1 and name in _UNITS:
            return _UNITS[name]
        prefix = next((prefix for prefix in _POWERS if name.startswith(prefix) and name[len(prefix) :] in _NAMES), "")
        if prefix:
            return _scaled(_UNITS[name[len(prefix) :]], prefix)
    for symbol in (word, word[:1].lower() + word[1:]):
        if symbol[:1] in _PREFIXES and symbol[1:] in _SYMBOLS:
            return _scaled(_UNITS[symbol[1:]], _PREFIXES[symbol[0]])
    return None


def _scaled(unit: Unit, prefix: str) -> Unit:
    return Unit(unit.size * Fraction(10) ** _POWERS[prefix], unit.dimension)


def _product(text: str) -> Unit | None:
    """The unit that a text is from its first word to its last; None if a word is none."""
    size, powers = Fraction(1), dict[str, int]()
    factors: list[tuple[Unit, int]] = []
    sign, power = 1, 1
    for part in _PART.findall(text):
        if part in ("/", "per"):
            sign = -1
        elif part in _MODIFIERS:
            power = _MODIFIERS[part]
        elif part in _BEHIND or part.lstrip("^-").isdigit():
            if not factors:
                return None
            unit, before = factors[-1]
            factors[-1] = unit, before * _BEHIND.get(part, int(part.lstrip("^")) if part not in _BEHIND else 1)
        else:
            named = _named(part)
            if named is None:
                return None
            factors.append((named, sign * power))
            power = 1
    if not factors or any(abs(power) > 9 for _, power in factors):
        return None
    for unit, power in factors:
        size *= unit.size**power
        for base, exponent in unit.dimension:
            powers[base] = powers.get(base, 0) + exponent * power
    return Unit(size, tuple(sorted((base, exponent) for base, exponent in powers.items() if exponent)))


def _define() -> None:
    for line in _DEFINITIONS.strip().splitlines():
        names, _, definition = line.partition("=")
        number, _, rest = definition.strip().partition(" ")
        bases = {base: Unit(Fraction(1), ((base, 1),)) for base in rest.split() if base.endswith("_")}
        _UNITS.update(bases)
        defined = _product(rest) if rest else Unit(Fraction(1), ((names.split()[0], 1),))
        assert defined is not None, line
        _UNITS.update(dict.fromkeys(names.split(), Unit(defined.size * Fraction(number or 1), defined.dimension)))
    for name in [name for name in _UNITS if name.endswith("_")]:
        del _UNITS[name]


_define()

_WORDS = re.compile(r"[^\W\d_]+(?:\.[a-z]\.)?(?:'[a-z]+)?", re.IGNORECASE)
_TEMPERATURE = re.compile(r"\bdeg(?:ree)?s? ?([CF])(?:elsius|ahrenheit)?\b", re.IGNORECASE)
_SPEED = re.compile(r"\bms ?\^?-")  # m s^{-1}; nobody divides by milliseconds that way
_SHORT = 2  # letters of a symbol; among other words it is a unit only before "of"
_MONEY = frozenset("$€£¥")
_POUNDS = frozenset({"pound", "pounds"})


@lru_cache(maxsize=4096)
def unit_of(text: str) -> Unit | None:
    r"""The unit that words behind a number begin or end with: ``square feet of paper``, ``US dollars``.

    None if they name none that is known.
    """
    text = text.replace("{", "").replace("}", "").replace("*", " ").replace(r"\cdot", " ").strip(" .,()")
    text = _TEMPERATURE.sub(lambda scale: "celsius" if scale[1] in "Cc" else "fahrenheit", _SPEED.sub("m s^-", text))
    whole = _product(text.replace("sq.", "sq").replace("cu.", "cu"))
    if whole is not None:
        return whole
    words = text.split()
    for count in range(len(words) - 1, 0, -1):
        begins, ends = words[:count], words[-count:]
        if (len(begins[-1].strip(".")) > _SHORT or words[count] == "of" or begins[-1] in _MONEY) and (
            unit := _product(" ".join(begins))
        ):
            return unit
        if len(ends[0].strip(".")) > _SHORT and (unit := _product(" ".join(ends))):
            return unit
    return None


def conversion(one: str, other: str) -> Fraction | None:
    """How many of the other unit one of them is; None if they are not of the same kind."""
    units = unit_of(one), unit_of(other)
    if units[0] is not None and units[1] is not None:
        if units[0].dimension == units[1].dimension:
            return units[0].size / units[1].size
        return Fraction(1) if "£" in (one, other) and {one, other} & _POUNDS else None
    if units[0] is not None or units[1] is not None:
        return None
    return Fraction(1) if _count_the_same(one, other) else None


def is_part_of(smaller: str, larger: str) -> bool:
    """Whether a unit follows a larger one in a quantity such as 7 ft 3 in."""
    units = unit_of(smaller), unit_of(larger)
    return (
        units[0] is not None
        and units[1] is not None
        and units[0].dimension == units[1].dimension
        and units[0].size < units[1].size
    )


# What says no more than that something is counted.
_ANYTHING = frozenset(
    "way arrangement permutation combination possibility outcome solution value number case total root answer choice "
    "selection method time pair item piece object thing people person element digit integer different distinct "
    "possible total exactly of the a an in such".split()
)
_IRREGULAR = {"children": "child", "men": "man", "women": "woman", "vertices": "vertex", "persons": "people",
              "person": "people", "axes": "axis", "mice": "mouse", "geese": "goose"}  # fmt: skip


def _count_the_same(one: str, other: str) -> bool:
    """Whether words behind numbers may be about the same: all of one's words are the other's, or say nothing."""
    words = [{_singular(word.lower()) for word in _WORDS.findall(text)} for text in (one, other)]
    first, second = (found - _ANYTHING for found in words)
    return first <= second or second <= first


def _singular(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    if word.endswith(("xes", "ches", "shes", "sses")):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith("ss") else word
