r"""Characters beyond ASCII as LaTeX: their position (``x⁴``, ``a₁₀``, ``⅛``) is kept, what is unseen is not."""

from __future__ import annotations

import re
import unicodedata
from functools import cache

_GREEK = (  # in the order of their codes; "final" is a form of sigma
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho final sigma tau upsilon "
    "phi chi psi omega"
).split()
_LATIN = {"alpha": "A", "beta": "B", "epsilon": "E", "zeta": "Z", "eta": "H", "iota": "I", "kappa": "K", "mu": "M",
          "nu": "N", "omicron": "O", "rho": "P", "tau": "T", "upsilon": r"\Upsilon ", "chi": "X"}  # fmt: skip
_FIRST_SMALL, _FIRST_CAPITAL, _FINAL_SIGMA = 0x3B1, 0x391, 0x3C2


def _greek() -> dict[int, str]:
    """The Greek letters; LaTeX has no command for omicron, nor for capitals that look like Latin ones."""
    letters = {_FINAL_SIGMA: r"\sigma "}
    for offset, name in enumerate(_GREEK):
        if name == "final":
            continue
        letters[_FIRST_SMALL + offset] = "o" if name == "omicron" else "i" if name == "iota" else f"\\{name} "
        letters[_FIRST_CAPITAL + offset] = _LATIN.get(name, f"\\{name.capitalize()} ")
    return letters


_SYMBOLS = _greek() | str.maketrans(
    {
        **dict.fromkeys("‐‑‒–−﹣－", "-"), **dict.fromkeys("•∙·⋅・‧", r"\cdot "), **dict.fromkeys("∕⁄", "/"),
        "∛": r"\sqrt[3]", "∜": r"\sqrt[4]", "…": r"\ldots ", "⋯": r"\cdots ", "٫": ".", "٬": ",", "、": ",", "∶": ":",
        "≦": r"\leq ", "≧": r"\geq ", "∣": "|", "‖": r"\|", "⌊": r"\lfloor ", "⌋": r"\rfloor ", "⌈": r"\lceil ",
        "⌉": r"\rceil ", "⟨": r"\langle ", "⟩": r"\rangle ", "→": r"\to ", "∧": r"\wedge ", "∨": r"\vee ",
        "∑": r"\sum ", "∏": r"\prod ", "∫": r"\int ", "∂": r"\partial ", "∇": r"\nabla ", "ℓ": r"\ell ", "ℏ": r"\hbar ",
        "⊂": r"\subset ", "⊆": r"\subseteq ", "∉": r"\notin ", "∃": r"\exists ", "∀": r"\forall ", "∘": r"^{\circ}",
        "ℝ": r"\mathbb{R}", "ℤ": r"\mathbb{Z}", "ℕ": r"\mathbb{N}", "ℚ": r"\mathbb{Q}", "ℂ": r"\mathbb{C}",
        "✓": r"\checkmark ", "✔": r"\checkmark ", "✅": r"\checkmark ", "☑": r"\checkmark ",
        # Signs that are not seen, and say something: times, a comma, plus.
        "\u2062": "*", "\u2063": ",", "\u2064": "+",
    }
)  # fmt: skip

_BARS = re.compile("((?:\\d\u0305|\\d\u0304)+)")
_DOT = re.compile("(\\d)\u0307")
_MARKS = re.compile("[\u0304\u0305]")
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)
_SCRIPT_FRACTION = re.compile(r"\^\{(\d+)\}/_\{(\d+)\}")
_SCRIPTS = {"<super>": "^", "<sub>": "_"}
_FRACTION, _SQUARE = "<fraction>", "<square>"


@cache
def _decomposed(character: str) -> tuple[str, str]:
    """How a character stands for others, such as ``<super>``, and for which."""
    kind, *codes = unicodedata.decomposition(character).split() or [""]
    return (kind, "".join(chr(int(code, 16)) for code in codes)) if kind.startswith("<") else ("", character)


def spelt_out(text: str) -> str:
    r"""A text with runs of superscripts as ``^{...}``, subscripts as ``_{...}``, vulgar fractions as ``\frac``.

    Digits of other scripts become ASCII's, Greek letters and mathematical signs become commands, characters without a
    width are left out.
    """
    positioned = "".join(_in_position(text.replace("º", "°")))
    plain = unicodedata.normalize("NFKC", positioned.translate(_SYMBOLS)).translate(_SYMBOLS)
    plain = _BARS.sub(lambda digits: rf"\overline{{{_MARKS.sub('', digits[1])}}}", _DOT.sub(r"\\dot{\1}", plain))
    plain = _SCRIPT_FRACTION.sub(r"\\frac{\1}{\2}", plain)
    return "".join(map(_ascii_digit, filter(_is_seen, plain)))


def _in_position(text: str) -> list[str]:
    found: list[str] = []
    run = ""  # the kind of script that the text is in
    for character in "".join(map(_unsquared, text)):
        kind, meaning = _decomposed(character)
        if kind != run and run in _SCRIPTS:
            found.append("}")
        if kind in _SCRIPTS and kind != run:
            found.append(_SCRIPTS[kind] + "{")
        run = kind
        if kind == _FRACTION:
            above, _, below = meaning.partition("⁄")
            found.append(rf"\frac{{{above}}}{{{below}}}")
        else:
            found.append(meaning if kind in _SCRIPTS else character)
    return [*found, "}"] if run in _SCRIPTS else found


def _unsquared(character: str) -> str:
    """The parts of a unit in one character, as in U+33A1 for square metres."""
    kind, parts = _decomposed(character)
    return parts if kind == _SQUARE else character


def _is_seen(character: str) -> bool:
    return unicodedata.category(character) != "Cf" and ord(character) not in _VARIATION_SELECTORS


def _ascii_digit(character: str) -> str:
    return str(unicodedata.decimal(character)) if not character.isascii() and character.isdecimal() else character
