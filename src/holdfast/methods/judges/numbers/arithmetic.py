r"""Read a piece of mathematics as one exact number, or say why it is none. Nothing is guessed, nothing run as code.

What is read: decimals and thousands (`1,234.5`, `8{,}000`, `70\,000`, `1 234`), signs, fractions (`\frac34`, `3/4`,
`¾`), mixed numbers (`1\frac12`, `1 1/2`), sums, products, quotients and whole powers (`3\times10^5`, `2^{10}`), roots
that come out even (`\sqrt{16}`), repeating decimals (`0.\overline{3}`), percent, currency and units. Everything else
(other roots, variables, functions, tuples, intervals, ratios, inequalities) is `Unreadable` and named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from holdfast.methods.judges.numbers.math_tokens import CURRENCY, MOST_DIGITS, Token
from holdfast.methods.judges.numbers.units import ALTERING, COMPARING, SCALES, TAKEN_OF, UNITS

MOST_TOKENS = 300
MOST_DEPTH = 40
NAMES = frozenset(
    [
        "alpha",
        "beta",
        "gamma",
        "delta",
        "epsilon",
        "theta",
        "lambda",
        "mu",
        "nu",
        "rho",
        "sigma",
        "tau",
        "phi",
        "varphi",
        "omega",
        "Delta",
        "Sigma",
        "angle",
        "triangle",
    ]
)
"""Commands that may stand as a name before an equals sign."""
CLOSING = {"(": ")", "[": "]", "{": "}"}
WHY = {
    ",": "several values", ";": "several values", ":": "a ratio or a time", "<": "an inequality", ">": "an inequality",
    "<=": "an inequality", ">=": "an inequality", "!=": "an inequality", "_": "a subscript", "|": "an absolute value",
    "!": "a factorial", "&": "a matrix", "...": "an ellipsis", "pm": "two values", "mp": "two values",
    "pi": "a multiple of pi", "infty": "infinity", "begin": "a matrix", "in": "a set", "cup": "a set", "cap": "a set",
    "sqrt": "a root", "range": "a range or a subtraction",
}  # fmt: skip


class Unreadable(ValueError):
    """A piece of mathematics that is no number to this reader; the text says what it is."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number with what is written beside it.

    Args:
        value: The number itself.
        unit: Its unit where that is known, else "".
        percent: Whether a percent sign follows.
        scale: Of "million" and the like; 1 where there is none.
    """

    value: Fraction
    unit: str = ""
    percent: bool = False
    scale: int = 1


def evaluate_expression(tokens: Sequence[Token]) -> Quantity:
    """The number that an expression, or the last side of an equation, stands for.

    Raises:
        Unreadable: If it is none.
    """
    if len(tokens) > MOST_TOKENS:
        raise Unreadable("a long expression")
    is_latex = sum(t.text == "$" for t in tokens) > 1  # then they are LaTeX's, and no dollars
    sides = split_sides([t for t in tokens if t.text != "\\" and not (is_latex and t.text == "$")])
    if len(sides) == 1:
        return evaluate_side(sides[0])
    *others, last = [side for side in sides if side] or [[]]
    if is_name(last):  # "5 = x"
        *others, last = last, *reversed(others)
    value = evaluate_side(last)
    for side in others:
        if not is_name(side) and any(t.kind == "word" and len(t.text.partition("^")[0]) == 1 for t in side):
            raise Unreadable("an equation")
    return value


def split_sides(tokens: Sequence[Token]) -> list[list[Token]]:
    """The sides of an equation, cut at the equals signs outside brackets."""
    sides: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += (token.text in CLOSING) - (token.text in CLOSING.values())
        if token.text == "=" and depth == 0:
            sides.append([])
        else:
            sides[-1].append(token)
    return sides


def is_name(side: Sequence[Token]) -> bool:
    """Whether a side of an equation is only a name: "x", "f(2)", "a_1", "the area"."""
    if not side or not (side[0].kind == "word" or (side[0].kind == "command" and side[0].text in NAMES)):
        return False
    depth = 0
    for token in side:
        depth += (token.text in CLOSING) - (token.text in CLOSING.values())
        if depth == 0 and (token.text in ("+", "-", "*", "/", "^", ",") or "^" in token.text):
            return False
    return True


def evaluate_side(tokens: Sequence[Token]) -> Quantity:
    """The number of an expression without equals signs, its unit behind it, perhaps words before it."""
    start, negative = 0, False
    while start < len(tokens) and tokens[start].kind == "word" and len(tokens[start].text) > 1:
        word = tokens[start].text.lower()
        if word in COMPARING or word in TAKEN_OF or word == "not":
            raise Unreadable(f"the word {word}")
        negative = word in ("negative", "minus")
        start += 1
    if start < len(tokens) and tokens[start].text == ":" and start:
        start += 1
    reader = ExpressionParser(tokens, start)
    if reader.at >= len(tokens):
        raise Unreadable("no number")
    sign = tokens[start].text in CURRENCY or (tokens[start].text in "+-" and reader.peek_text(1) in CURRENCY)
    unit = next((CURRENCY[t.text] for t in tokens[start : start + 2] if t.text in CURRENCY), "") if sign else ""
    value = reader.parse_sum()
    return reader.parse_suffix(Quantity(-value if negative else value, unit))


class ExpressionParser:
    """Reads tokens from left to right.

    Args:
        tokens: An expression.
        at: Where to begin.
    """

    def __init__(self, tokens: Sequence[Token], at: int = 0) -> None:
        self.tokens, self.at, self.depth = tokens, at, 0

    def peek_text(self, ahead: int = 0) -> str:
        """The text of a token to come, "" at the end."""
        return self.tokens[self.at + ahead].text if self.at + ahead < len(self.tokens) else ""

    def peek_kind(self, ahead: int = 0) -> str:
        return self.tokens[self.at + ahead].kind if self.at + ahead < len(self.tokens) else ""

    def parse_sum(self) -> Fraction:
        """A sum of products."""
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Unreadable("a deep expression")
        value = self.parse_product()
        while self.peek_text() in ("+", "-"):
            minus = self.peek_text() == "-"
            self.at += 1
            other = self.parse_product()
            value = value - other if minus else value + other
        self.depth -= 1
        return value

    def parse_product(self) -> Fraction:
        """A product of powers, also one written without a sign: `2(3)`, `2\\sqrt{4}`."""
        value, divisions, factors = self.parse_signed_power(), 0, 0
        while True:
            sign = self.peek_text()
            if sign in ("*", "/"):
                if sign == "/" and self.peek_kind(1) == "word":  # "5 / hour"
                    return value
                self.at += 1
                other = self.parse_signed_power()
                divisions += sign == "/"
                if divisions > 1:
                    raise Unreadable("a date or a double fraction")
                value = value * other if sign == "*" else divide_exactly(value, other)
            elif sign in ("(", "[") or sign == "sqrt":
                value *= self.parse_power()
            elif sign == "frac" or self.peek_kind() == "number":
                if factors:
                    raise Unreadable("two numbers beside each other")
                value = self.parse_mixed_number(value)
            else:
                return check_size(value)
            factors += 1

    def parse_mixed_number(self, whole: Fraction) -> Fraction:
        """A whole number and the proper fraction behind it; `1 234` too.

        Raises:
            Unreadable: If it could be something else.
        """
        before, token = self.tokens[self.at - 1], self.tokens[self.at]
        if before.kind != "number" or whole.denominator != 1:
            raise Unreadable("two numbers beside each other")
        if token.text != "frac" and self.peek_text(1) != "/":
            if not (before.text.isdigit() and len(before.text) < 4):
                raise Unreadable("two numbers beside each other")
            while (
                self.peek_kind() == "number" and len(self.peek_text()) == 3 and self.peek_text().isdigit()
            ):  # 1 234 567
                whole = abs(whole) * 1000 + int(self.peek_text())
                self.at += 1
            if self.peek_kind() == "number":
                raise Unreadable("two numbers beside each other")
            return whole
        if token.text == "frac":
            part = self.parse_power()
        else:
            top = self.parse_number()
            self.at += 1
            part = divide_exactly(top, self.parse_number())
            if top.denominator != 1:
                raise Unreadable("two numbers beside each other")
        if not 0 < part < 1:
            raise Unreadable("a mixed number or a product")
        return whole + part

    def parse_signed_power(self) -> Fraction:
        """A power with or without a sign."""
        while self.peek_text() in CURRENCY:
            self.at += 1
        if self.peek_text() in ("+", "-"):
            minus = self.peek_text() == "-"
            self.at += 1
            self.depth += 1
            if self.depth > MOST_DEPTH:
                raise Unreadable("a deep expression")
            value = self.parse_signed_power()
            self.depth -= 1
            # A mixed number is read with its sign, as a whole: -1 1/2 is -(1 1/2).
            if self.at < len(self.tokens) and (self.peek_text() == "frac" or self.peek_kind() == "number"):
                value = self.parse_mixed_number(value)
            return -value if minus else value
        return self.parse_power()

    def parse_power(self) -> Fraction:
        """A number, bracket, fraction or root, perhaps to a whole power."""
        base = self.parse_atom()
        if self.peek_text() != "^":
            return base
        self.at += 1
        if self.skip_degree():
            return base
        has_brace = self.peek_text() == "{"
        exponent = self.parse_bracket() if has_brace else self.parse_exponent()
        if exponent.denominator != 1:
            raise Unreadable("a root")
        size = max(base.numerator.bit_length(), base.denominator.bit_length(), 1) * abs(exponent)
        if size > MOST_DIGITS * 3.33 or abs(exponent) > 10_000:
            raise Unreadable("a large power")
        if base == 0 and exponent <= 0:
            raise Unreadable("a power of zero")
        return base ** int(exponent)

    def skip_degree(self) -> bool:
        r"""Pass over what follows `^` where that is `\circ` or the ending of an ordinal number."""
        has_brace = self.peek_text() == "{"
        inner = self.at + has_brace
        if inner >= len(self.tokens) or self.tokens[inner].text not in ("degree", "th", "st", "nd", "rd"):
            return False
        self.at = inner + 1
        if has_brace and self.peek_text() == "}":
            self.at += 1
        return True

    def parse_exponent(self) -> Fraction:
        """An exponent without braces."""
        minus = self.peek_text() == "-"
        self.at += self.peek_text() in ("+", "-")
        value = self.parse_bracket() if self.peek_text() == "(" else self.parse_number()
        return -value if minus else value

    def parse_atom(self) -> Fraction:
        """A number, a bracket, a fraction or a root."""
        text, kind = self.peek_text(), self.peek_kind()
        if kind == "number":
            return self.parse_number()
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise Unreadable("a deep expression")
        if text in CLOSING:
            value = self.parse_bracket()
        elif text == "frac" and kind == "command":
            self.at += 1
            top = self.parse_argument()
            value = divide_exactly(top, self.parse_argument())
        elif text == "sqrt":
            self.at += 1
            degree = self.parse_bracket() if self.peek_text() == "[" else Fraction(2)
            value = exact_root(self.parse_argument(), degree)
        else:
            raise Unreadable(describe_token(text, kind))
        self.depth -= 1
        return value

    def parse_number(self) -> Fraction:
        """A number as it is written."""
        if self.peek_kind() != "number":
            raise Unreadable(describe_token(self.peek_text(), self.peek_kind()))
        value = self.tokens[self.at].value
        if value is None:
            raise Unreadable("a very long number")
        self.at += 1
        return value

    def parse_bracket(self) -> Fraction:
        """What stands in brackets; `(1,234)` could be a pair."""
        opening, inner = self.peek_text(), self.at + 1
        self.at += 1
        value = self.parse_sum()
        if self.peek_text() != CLOSING[opening]:
            raise Unreadable(
                describe_token(self.peek_text(), self.peek_kind()) if self.peek_text() else "an open bracket"
            )
        if opening != "{" and self.at == inner + 1 and "," in self.tokens[inner].text.replace("{,}", ""):
            raise Unreadable("several values")
        self.at += 1
        return value

    def parse_argument(self) -> Fraction:
        r"""An argument of a command: in braces, or one digit (`\frac34`)."""
        if self.peek_text() == "{":
            return self.parse_bracket()
        token = self.tokens[self.at] if self.at < len(self.tokens) else None
        if token is None or token.kind != "number":
            return self.parse_atom()
        if not token.text.isdigit() or len(token.text) > 2:
            raise Unreadable("a fraction without braces")
        if len(token.text) == 2 and self.at and self.peek_text(-1) == "frac":  # \frac34: the other digit is left
            rest = replace(token, text=token.text[1], value=Fraction(int(token.text[1])))
            self.tokens = [*self.tokens[: self.at], rest, *self.tokens[self.at + 1 :]]
            return Fraction(int(token.text[0]))
        return self.parse_number()

    def parse_suffix(self, quantity: Quantity) -> Quantity:
        """The quantity with what follows the number: percent, scale, unit; nothing else may."""
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            spelling, _, power = token.text.partition("^")
            word = spelling.lower()
            unit = UNITS.get(spelling) or UNITS.get(word)
            if token.text == "%" or word in ("percent", "percentage", "pct"):
                quantity = replace(quantity, percent=True)
            elif word in ALTERING:
                raise Unreadable(f"the word {word}")
            elif token.kind == "word" and word in SCALES and quantity.scale == 1:
                quantity = replace(quantity, scale=SCALES[word])
            elif token.kind == "word" and unit:
                quantity = replace(quantity, unit=quantity.unit or (f"{unit}^{power.strip('{}')}" if power else unit))
            elif token.text == "degree":
                quantity = replace(quantity, unit="degree")
            elif token.text in CURRENCY:
                quantity = replace(quantity, unit=CURRENCY[token.text])
            elif token.text not in (".", "/") and not (token.kind == "word" and len(word) > 1):
                raise Unreadable(describe_token(token.text, token.kind))
            self.at += 1
        return quantity


def describe_token(text: str, kind: str) -> str:
    """Why a token cannot be read, in a few words."""
    if text in WHY:
        return WHY[text]
    if not text:
        return "an open expression"
    if kind == "word":
        return "a variable" if len(text.partition("^")[0]) == 1 else f"the word {text}"
    return f"\\{text}" if kind == "command" else f"the sign {text}"


def divide_exactly(top: Fraction, bottom: Fraction) -> Fraction:
    """A quotient."""
    if not bottom:
        raise Unreadable("a division by zero")
    return top / bottom


def check_size(value: Fraction) -> Fraction:
    """The value, if it is not too long to go on with."""
    if max(abs(value.numerator).bit_length(), value.denominator.bit_length()) > 4 * MOST_DIGITS * 4:
        raise Unreadable("a very long number")
    return value


def exact_root(value: Fraction, degree: Fraction) -> Fraction:
    """A root that comes out even."""
    if degree.denominator != 1 or not 2 <= degree <= 10 or (value < 0 and degree % 2 == 0):
        raise Unreadable("a root")
    parts = [find_whole_root(abs(part), int(degree)) for part in (value.numerator, value.denominator)]
    if parts[0] is None or parts[1] is None:
        raise Unreadable("a root")
    return Fraction(-parts[0] if value < 0 else parts[0], parts[1])


def find_whole_root(value: int, degree: int) -> int | None:
    """The whole root of a whole number, `None` where it has none."""
    if degree == 2:
        root = math.isqrt(value)
        return root if root * root == value else None
    guess = round(value ** (1 / degree)) if value < 2**900 else 0
    return next((g for g in (guess - 1, guess, guess + 1) if g >= 0 and g**degree == value), None)
