"""Mathematics as it is written, in plain text and LaTeX, taken apart into tokens."""
# ruff: noqa: RUF001 - signs of other alphabets are what is meant

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from fractions import Fraction

MOST_DIGITS = 310
"""Digits of the largest numbers that are read; floating-point numbers end there too."""


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of an expression.

    Args:
        kind: "number", "word", "command" (of LaTeX, `text` without its backslash) or "sign".
        text: As written, after `normalise_math`.
        start, end: Where it stands.
        after_space: Whether white space stands before it.
        starts_line: Whether it is the first of its line.
        value: Of a number; `None` where it has too many digits.
    """

    kind: str
    text: str
    start: int
    end: int
    after_space: bool = False
    starts_line: bool = False
    value: Fraction | None = None


_GROUP = r"(?:[,'’_]|\{,\}|\\[,!;:]|[\u00a0\u2009\u202f\u2007])"
_TOKEN = re.compile(
    rf"""
    (?P<space> \s+ | \\[,;:!>\ ] | \\q?quad(?![A-Za-z]) | \\(?:left|right|[bB]igg?[lr]?|displaystyle|limits)(?![A-Za-z])
        | \\[()\[\]] | ~ )
  | (?P<repeating> \d{{0,20}} \. \d{{0,20}} \\(?:overline|bar|dot) \s? \{{ \d{{1,20}} \}} )
  | (?P<number> (?:
        \d{{1,3}} (?:{_GROUP}\d{{2,3}}){{0,100}}? {_GROUP}\d{{3}} (?!\d|{_GROUP}\d) (?:\.\d+)?
      | \d{{1,3}} (?:\.\d{{3}}){{1,100}} ,\d{{1,2}} (?!\d|,\d)
      | \d+ (?:\.\d+)? | \.\d+ ) (?:[eE][-+]?\d{{1,4}}(?!\w))? )
  | (?P<times> (?<=\d) [xX] (?=\s?\d) | (?<=[\d)]\s) [xX] (?=\s[\d(]) )
  | (?P<command> \\ (?: [A-Za-z]+ | . ) | (?:sqrt|pi|cos|sin|tan|log|ln|exp)(?![A-Za-z]) )
  | (?P<word> [^\W\d_] [^\W_]* (?:['’][^\W\d_]+)? (?:/[^\W\d_]+(?!\w))? (?: \^ \{{? -? \d{{1,3}} \}}? )? )
  | (?P<sign> <= | >= | != | \.\.\.+ | . )
    """,
    re.VERBOSE | re.DOTALL,
)
_FONT = re.compile(
    r"\\(?:text(?:bf|it|rm|sf|tt|normal|up)?|math(?:rm|bf|it|sf|tt|bb|cal|normal)|mbox|hbox|operatorname\*?|bm|boldsymbol)"
    r"\s?\{([^{}]*)\}"
)
_ENVIRONMENT = re.compile(
    r"\\(?:begin|end)\{(?:align(?:ed)?|equation|gather(?:ed)?|split|center)\*?\}|</?[a-z]{1,10}>|&(?==)"
)
_SAME = {
    **dict.fromkeys("−–‒﹣－", "-"), **dict.fromkeys("×⋅·∗∙", "*"), **dict.fromkeys("÷∕⁄", "/"),
    **dict.fromkeys("≈≃≅＝", "="), "≤": "<=", "≥": ">=", "≠": "!=", "√": "\\sqrt ", "∛": "\\sqrt[3]", "π": "\\pi ",
    "∞": "\\infty ", "±": "\\pm ", "°": "\\degree ", "％": "%", "，": ",", "…": "...", 
    "⇒": " → ", "⟹": " → ", "＄": "$", "￥": "¥",
}  # fmt: skip
_COMMANDS = {"times": "*", "cdot": "*", "ast": "*", "div": "/", "approx": "=", "simeq": "=", "le": "<", "leq": "<",
             "ge": ">", "geq": ">", "lt": "<", "gt": ">", "neq": "!=", "ne": "!=", "lbrace": "(", "rbrace": ")",
             "dfrac": "frac", "tfrac": "frac", "cfrac": "frac", "circ": "degree", "ldots": "...", "dots": "...",
             "cdots": "...", "colon": ":", "lbrack": "[", "rbrack": "]", "$": "$", "%": "%", "#": "#",
             "&": "&"}  # fmt: skip
_SUPERSCRIPTS = "⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺"
_SUPERSCRIPT_RUN = re.compile(f"[{_SUPERSCRIPTS}]+")
_VULGAR = re.compile("[¼-¾⅐-⅞↉]")
CURRENCY = {"$": "dollar", "€": "euro", "£": "pound sterling", "¥": "yen", "₹": "rupee", "₩": "won", "₽": "rouble",
            "¢": "cent", "₺": "lira", "₫": "dong", "฿": "baht"}  # fmt: skip


def normalise_math(text: str) -> str:
    """One spelling for what is written in several: minus signs, dots of multiplication, raised digits, fonts."""
    text = re.sub(r"(?<=\S)\s\s?\^", "^", _FONT.sub(r" \1 ", _ENVIRONMENT.sub(" ", text)))
    text = _SUPERSCRIPT_RUN.sub(
        lambda m: "^{" + m[0].translate(str.maketrans(_SUPERSCRIPTS, "0123456789-+")) + "}", text
    )
    text = _VULGAR.sub(lambda m: f" {unicodedata.normalize('NFKC', m[0])} ", text)
    text = re.sub(r"(?<=[\d)])\*\*(?=[\d(-])", "^", "".join(_SAME.get(c, c) for c in text))
    return re.sub(r"=>|->", " → ", text).replace("**", " ").replace("__", " ")


def tokenize_math(text: str) -> list[Token]:
    """The tokens of a normalised text."""
    tokens: list[Token] = []
    after_space, starts_line = True, True
    for match in _TOKEN.finditer(text):
        kind, piece = str(match.lastgroup), match[0]
        if kind == "space":
            after_space, starts_line = True, starts_line or "\n" in piece
            continue
        value = None
        if kind == "times":
            kind, piece = "sign", "*"
        elif kind == "command":
            piece = piece.removeprefix("\\")
            kind = "command" if piece.isalpha() else "sign"
            if piece in _COMMANDS:
                piece = _COMMANDS[piece]
                kind = "command" if piece.isalpha() else "sign"
        elif kind in ("number", "repeating"):
            value = parse_decimal(piece) if kind == "number" else parse_repeating_decimal(piece)
            kind = "number"
        tokens.append(Token(kind, piece, match.start(), match.end(), after_space, starts_line, value))
        after_space = starts_line = False
    return tokens


def parse_decimal(text: str) -> Fraction | None:
    """The value of a number with or without marks between its groups of digits; `None` where it is too long."""
    if re.fullmatch(r"\d{1,3}(?:\.\d{3})+,\d+", text):  # 1.250,50
        text = text.replace(".", "").replace(",", ".")
    digits = re.sub(r"\\.|[^\d.eE+-]", "", text)
    exponent = re.search(r"[eE]([-+]?\d+)$", digits)
    if len(digits) > MOST_DIGITS or (exponent and abs(int(exponent[1])) >= MOST_DIGITS - 2):
        return None
    return Fraction(digits)


def parse_repeating_decimal(text: str) -> Fraction:
    r"""The value of `0.1\overline{6}`."""
    head, period = re.split(r"\\[a-z]+\s?", text)
    whole, _, tail = head.partition(".")
    cycle = period.strip("{} ")
    start = Fraction(int(whole + tail or "0"), 10 ** len(tail))
    return start + Fraction(int(cycle), (10 ** len(cycle) - 1) * 10 ** len(tail))
