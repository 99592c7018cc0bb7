"""Reasoning paths as RFT tells them apart: their equations, and whether these are right."""

from __future__ import annotations

import itertools
import re

CALCULATOR_MARK = re.compile(r"<<([^<>]*)>>")
OPERAND = r"[($]{0,9}[-\u2212]?\$?(?:\d{1,3}(?:,\d{3}){1,9}|\d{1,30})(?:\.\d{1,30})?%?\){0,9}(?!(?!x\d)[\w.]*\w)"
OPERATOR = r"[ \t]{0,3}[-+*/\xd7x÷\u2212][ \t]{0,3}"
SIDE = rf"{OPERAND}(?:{OPERATOR}{OPERAND}){{0,12}}"
CHAIN = re.compile(rf"(?<![\w.]){SIDE}(?:[ \t]{{0,3}}=[ \t]{{0,3}}{SIDE}){{1,6}}")
"""Equations in plain text, `3 + 4 = 7` or `2 * 3 + 1 = 6 + 1 = 7`; never across lines."""
TOKEN = re.compile(r"(\d+\.?\d*|\.\d+)|(.)")


def parse_equations(text: str) -> list[str] | None:
    """The equations of a path in order, without spaces; `None` if one is wrong or cannot be read.

    Calculator marks `<<a+b=c>>` count if there are any (each must hold to 1e-3); else every `a + b = c` in plain text.
    In plain text, what is not arithmetic on numbers (`x = 5`, `2y + 3 * 1 = 7`) is no equation, and in the loose chain
    `2 + 3 = 5 + 4 = 9` each side need only equal the next side or its first number.
    """
    marks = CALCULATOR_MARK.findall(text)
    if not marks:
        return parse_plain_equations(text)
    for equation in marks:
        lhs, _, rhs = equation.partition("=")
        value, result = evaluate_arithmetic(lhs), parse_number(rhs)
        if value is None or result is None or not abs(value - result) < 1e-3:
            return None
    return [equation.replace(" ", "") for equation in marks]


def parse_plain_equations(text: str) -> list[str] | None:
    """`parse_equations` of a text without calculator marks."""
    out = []
    for chain in CHAIN.finditer(text):
        if text[: chain.start()].rstrip(" \t$(")[-1:] in set(
            "+-*/\xd7÷\u2212"
        ):  # the tail of something with a variable
            continue
        sides = chain[0].split("=")
        for lhs, rhs in itertools.pairwise(sides):
            if parse_number(lhs.strip().strip("()").rstrip("%")) is not None:
                continue
            value, result, first = evaluate_arithmetic(lhs), evaluate_arithmetic(rhs), re.search(OPERAND, rhs)
            if value is None or result is None:
                continue
            if not any(
                abs(value - m) < 1e-3
                for m in (result, evaluate_arithmetic(first[0]) if first else None)
                if m is not None
            ):
                return None
            out.append(f"{normalise_arithmetic(lhs)}={normalise_arithmetic(rhs)}")
    return out


def normalise_arithmetic(text: str) -> str:
    """Arithmetic in one spelling: no spaces, currency or thousands commas; `*`, `/` and `-` as on a keyboard."""
    text = re.sub(r"[\s$]|,(?=\d{3})", "", text)
    return text.translate(str.maketrans("\xd7x÷\u2212", "**/-"))


def parse_number(text: str) -> float | None:
    """A plain signed number, or `None`."""
    clean = normalise_arithmetic(text)
    return float(clean) if re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)", clean) else None


def evaluate_arithmetic(text: str) -> float | None:
    """The value of an expression of numbers, + - * / % (percent) and parentheses; `None` if it is anything else.

    Nothing is ever evaluated as code; expressions beyond 150 characters are refused.
    """
    text = normalise_arithmetic(text)
    if not 0 < len(text) <= 150:
        return None
    tokens = [m[1] or m[2] for m in TOKEN.finditer(text)]
    try:
        value, rest = parse_sum(tokens)
    except (ValueError, ZeroDivisionError, OverflowError):
        return None
    return value if not rest else None


def parse_sum(tokens: list[str]) -> tuple[float, list[str]]:
    """A sum at the head of `tokens`, and what follows it."""
    value, tokens = parse_product(tokens)
    while tokens and tokens[0] in "+-":
        other, rest = parse_product(tokens[1:])
        value, tokens = (value + other if tokens[0] == "+" else value - other), rest
    return value, tokens


def parse_product(tokens: list[str]) -> tuple[float, list[str]]:
    """A product at the head of `tokens`."""
    value, tokens = parse_operand(tokens)
    while tokens and tokens[0] in "*/":
        other, rest = parse_operand(tokens[1:])
        value, tokens = (value * other if tokens[0] == "*" else value / other), rest
    return value, tokens


def parse_operand(tokens: list[str]) -> tuple[float, list[str]]:
    """A signed number, percentage or parenthesis at the head of `tokens`."""
    if not tokens:
        raise ValueError("an operand is missing")
    head, rest = tokens[0], tokens[1:]
    if head in "+-":
        value, rest = parse_operand(rest)
        return (-value if head == "-" else value), rest
    if head == "(":
        value, rest = parse_sum(rest)
        if not rest or rest[0] != ")":
            raise ValueError("a parenthesis is open")
        rest = rest[1:]
    else:
        value = float(head)
    return (value / 100, rest[1:]) if rest and rest[0] == "%" else (value, rest)
