"""Reasoning paths as RFT tells them apart: their equations, and whether these are right."""

from __future__ import annotations

import itertools
import re

MARKED = re.compile(r"<<([^<>]*)>>")
OPERAND = r"[($]{0,9}[-\u2212]?\$?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,30})(?:\.\d{1,30})?%?\){0,9}(?!(?!x\d)[\w.]*\w)"
OPERATOR = r"[ \t]{0,3}[-+*/\xd7x÷\u2212][ \t]{0,3}"
SIDE = rf"{OPERAND}(?:{OPERATOR}{OPERAND}){{0,12}}"
CHAIN = re.compile(rf"(?<![\w.]){SIDE}(?:[ \t]{{0,3}}=[ \t]{{0,3}}{SIDE}){{1,6}}")
"""Equations in plain text, `3 + 4 = 7` or `2 * 3 + 1 = 6 + 1 = 7`; never across lines."""
TOKEN = re.compile(r"(\d+\.?\d*|\.\d+)|(.)")


def equations(text: str) -> list[str] | None:
    """The equations of a path in order, without spaces; `None` if one is wrong or cannot be read.

    Calculator marks `<<a+b=c>>` count if there are any (each must hold to 1e-3); else every `a + b = c` in plain text.
    In plain text, what is not arithmetic on numbers (`x = 5`, `2y + 3 * 1 = 7`) is no equation, and in the loose chain
    `2 + 3 = 5 + 4 = 9` each side need only equal the next side or its first number.
    """
    marked = MARKED.findall(text)
    if not marked:
        return plain_equations(text)
    for equation in marked:
        left, _, right = equation.partition("=")
        value, meant = arithmetic(left), number(right)
        if value is None or meant is None or not abs(value - meant) < 1e-3:
            return None
    return [equation.replace(" ", "") for equation in marked]


def plain_equations(text: str) -> list[str] | None:
    """`equations` of a text without calculator marks."""
    found = []
    for chain in CHAIN.finditer(text):
        if text[: chain.start()].rstrip(" \t$(")[-1:] in set(
            "+-*/\xd7÷\u2212"
        ):  # the tail of something with a variable
            continue
        sides = chain[0].split("=")
        for left, right in itertools.pairwise(sides):
            if number(left.strip().strip("()").rstrip("%")) is not None:
                continue
            value, meant, first = arithmetic(left), arithmetic(right), re.search(OPERAND, right)
            if value is None or meant is None:
                continue
            if not any(
                abs(value - m) < 1e-3 for m in (meant, arithmetic(first[0]) if first else None) if m is not None
            ):
                return None
            found.append(f"{tidy(left)}={tidy(right)}")
    return found


def tidy(text: str) -> str:
    """Arithmetic in one spelling: no spaces, currency or thousands commas; `*`, `/` and `-` as on a keyboard."""
    text = re.sub(r"[\s$]|,(?=\d{3})", "", text)
    return text.translate(str.maketrans("\xd7x÷\u2212", "**/-"))


def number(text: str) -> float | None:
    """A plain signed number, or `None`."""
    clean = tidy(text)
    return float(clean) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", clean) else None


def arithmetic(text: str) -> float | None:
    """The value of an expression of numbers, + - * / % (percent) and parentheses; `None` if it is anything else.

    Nothing is ever evaluated as code; expressions beyond 150 characters are refused.
    """
    text = tidy(text)
    if not 0 < len(text) <= 150:
        return None
    tokens = [m[1] or m[2] for m in TOKEN.finditer(text)]
    try:
        value, rest = add(tokens)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if not rest else None


def add(tokens: list[str]) -> tuple[float, list[str]]:
    """A sum at the head of `tokens`, and what follows it."""
    value, tokens = multiply(tokens)
    while tokens and tokens[0] in "+-":
        other, rest = multiply(tokens[1:])
        value, tokens = (value + other if tokens[0] == "+" else value - other), rest
    return value, tokens


def multiply(tokens: list[str]) -> tuple[float, list[str]]:
    """A product at the head of `tokens`."""
    value, tokens = atom(tokens)
    while tokens and tokens[0] in "*/":
        other, rest = atom(tokens[1:])
        value, tokens = (value * other if tokens[0] == "*" else value / other), rest
    return value, tokens


def atom(tokens: list[str]) -> tuple[float, list[str]]:
    """A signed number, percentage or parenthesis at the head of `tokens`."""
    if not tokens:
        raise ValueError("an operand is missing")
    head, rest = tokens[0], tokens[1:]
    if head in "+-":
        value, rest = atom(rest)
        return (-value if head == "-" else value), rest
    if head == "(":
        value, rest = add(rest)
        if not rest or rest[0] != ")":
            raise ValueError("a parenthesis is open")
        rest = rest[1:]
    else:
        value = float(head)
    return (value / 100, rest[1:]) if rest and rest[0] == "%" else (value, rest)
