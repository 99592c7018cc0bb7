r"""Find the number that an answer ends up with: the piece of the text that holds it, and what it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.methods.judges.choices.words import either
from holdfast.methods.judges.marks import Mark, marks
from holdfast.methods.judges.numbers.arithmetic import CLOSING, Quantity, Unreadable, evaluate
from holdfast.methods.judges.numbers.math_tokens import CURRENCY, Token, normalise, scan
from holdfast.methods.judges.numbers.units import ALTERING, COMPARING, SCALES, TAKEN_OF, UNITS
from holdfast.methods.judges.text import LONGEST

ANNOUNCED = re.compile(
    r"(?:\b" + either("answer", "ans", "réponse", "respuesta", "risposta", "resposta", "antwort", "lösung", "antwoord",
                      "svar", "ответ", "odpowiedź", "jawaban", "cevap", "đáp án", "câu trả lời", "الإجابة", "الجواب")
    + r"\b|" + either("答案", "答え", "정답", "답", "उत्तर", "উত্তর", "คำตอบ") + r")[^\n\d]{0,40}?"
    r"(?:(?:\b(?:is|are|equals|was|would be|es|est|è|é|ist|jest|adalah)\b|是|为|為|は|은|는|คือ) ?:?|[:=])",
    re.IGNORECASE,
)  # fmt: skip
"""Where a final answer is announced."""
CLAUSE_ENDS = frozenset(
    ["because", "since", "where", "which", "so", "when", "while", "if", "but", "due", "using", "by"]
)
TITLES = frozenset(
    [
        "step",
        "case",
        "part",
        "question",
        "problem",
        "figure",
        "table",
        "equation",
        "eq",
        "section",
        "chapter",
        "method",
        "option",
        "example",
        "page",
    ]
)
"""Words whose number is a label."""
SEPARATORS = frozenset(
    [
        "implies",
        "Rightarrow",
        "rightarrow",
        "Longrightarrow",
        "longrightarrow",
        "to",
        "therefore",
        "because",
        "newline",
        "hline",
        "item",
    ]
)
MARKERS = frozenset(["*", "#", ">", "•"])
AMBIGUOUS = frozenset({
    "a range or a subtraction", "a date", "a date or a double fraction", "a ratio or a time", "a subscript",
    "no number", "two numbers beside each other", "a mixed number or a product", "a division by zero", "an ellipsis",
    "an open bracket", "an open expression", "several numbers", "a very long number", "a long expression",
    "a deep expression",
})  # fmt: skip
"""What an expression can be that says nothing certain of its value, whoever reads it."""
DATE = re.compile(r"\d{1,4}-\d{1,2}-\d{1,4}")
DASHED = re.compile(r"\d-\d")
"""In plain text a range, a date or a telephone number rather than a difference."""
BESIDE = 25
"""Characters between two boxes that stand side by side."""
SHORT = 120
"""Longest text that is tried as one expression."""


@dataclass(frozen=True, slots=True)
class Found:
    """A final answer.

    Args:
        text: The mathematics as written, normalised.
        quantity: The number it is; `None` where it is none to this reader.
        why: What it is instead.
    """

    text: str
    quantity: Quantity | None = None
    why: str = ""

    @property
    def mathematics(self) -> bool:
        """Whether it is a number, or an expression that means the same to everybody: no prose, no ratio, no date."""
        return self.quantity is not None or not (self.why in AMBIGUOUS or self.why.startswith("the word "))


@dataclass(slots=True)
class Expression:
    """A run of mathematics in a text.

    Args:
        tokens: Its tokens.
        before: The word right before it, in lower case.
        first: The number of its first token in the text.
        remark: Whether it stands in brackets of its own.
    """

    tokens: list[Token] = field(default_factory=list)
    before: str = ""
    first: int = 0
    remark: bool = False

    @property
    def numeric(self) -> bool:
        """Whether there is a number in it, or what stands for one."""
        return any(t.kind == "number" or t.text in ("frac", "sqrt", "pi", "infty") for t in self.tokens)


def find_number(text: str) -> Found | None:
    """The final number of a text, or `None` where nothing in it is one.

    It is the content of the last mark (`####`, a box, an answer tag), else what the last "answer is" announces, else
    the text itself where it is one expression, else the last expression in it.
    """
    text = text[-LONGEST:]
    if (found := in_mark(text)) is not None:
        return found
    text = normalise(text)
    for match in reversed(list(ANNOUNCED.finditer(text))[-20:]):
        if (found := announced(text[match.end() : match.end() + 400])) is not None:
            return found
    whole = re.sub(r"^[-*\u2022>]\s+", "", text.strip()).rstrip(".!").strip("*_`")
    if len(whole) <= SHORT and "\n" not in whole and re.search(r"\d|\\", whole) and not DASHED.search(whole):
        found = strict(whole)
        if found.quantity is not None or "\\begin" in whole or not any(is_prose(token) for token in scan(whole)):
            return found
    return last_number(text)


def in_mark(text: str) -> Found | None:
    """What the last mark with an answer in it holds."""
    found: list[tuple[Mark, Found]] = []
    for mark in reversed(marks(text)[-20:]):
        content = normalise(mark.text).strip()
        if mark.kind == "hashes" and not re.match(r"[-+~=(\\$€£¥₹]{0,3}\s?[\d.\\√]|x\s?=", content):
            continue  # a heading
        if mark.kind == "hashes" and re.match(r"\d{1,2}[.)]\s+[^\W\d]", content):
            continue  # a numbered heading
        if mark.kind == "tag" and not (inner := strict(content)).quantity:
            found.append((mark, find_number(content) or inner))
        elif mark.kind == "hashes":
            found.append((mark, announced(content) or strict(content)))
        elif content:
            found.append((mark, strict(content)))
        if len(found) == 2:
            break
    if not found:
        return None
    last, said = found[0]
    for mark, other in found[1:]:
        beside = last.kind == mark.kind == "box" and 0 <= last.end - len(last.text) - mark.end < BESIDE
        if beside and other.text != said.text and not text[mark.end : last.end].count("\n"):
            return Found(f"{other.text}, {said.text}", why="several numbers")
    return said


def strict(text: str) -> Found:
    """A text that must be one expression as a whole."""
    text = text.strip().rstrip(".")
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$").strip()
    if DATE.fullmatch(text):
        return Found(text, why="a date")
    return read(text, scan(text))


def is_prose(token: Token) -> bool:
    """Whether a token is a word of a sentence."""
    if token.kind != "word" or len(token.text.partition("^")[0]) < 2 or token.text in UNITS:
        return False
    return token.text.lower() not in ("or", "and", "to", "percent", *SCALES)


def read(text: str, tokens: Sequence[Token]) -> Found:
    """The number of an expression, or why it is none."""
    try:
        return Found(text, evaluate(tokens))
    except Unreadable as doubt:
        return Found(text, why=str(doubt))


def announced(following: str) -> Found | None:
    """The number in what follows an announcement: in its first clause, or on the next line if it stops there."""
    tokens = clause(scan(re.sub(r"^[\s*:]*(?:\$\$)?\s*", "", following)))
    every = [e for e in expressions(tokens) if e.numeric]
    numeric = [e for e in every if not e.remark] or every
    if not numeric:
        return None
    equations = [e for e in numeric if any(t.text == "=" for t in e.tokens)]
    chosen = equations[-1] if equations else numeric[0]
    found = shown(chosen, tokens)
    others = [e for e in numeric if e.first > chosen.first]
    if not equations and any(e.before in ("and", "or", "to", ",", "&", ";") for e in others):
        return Found(" ".join(t.text for t in tokens), why="several numbers")
    return found


def clause(tokens: Sequence[Token]) -> list[Token]:
    """The tokens of the first line that end before a new sentence or clause begins."""
    out: list[Token] = []
    for number, token in enumerate(tokens):
        following = tokens[number + 1] if number + 1 < len(tokens) else None
        if out and token.lined and not (following is None or out[-1].text in ("=", "{", "(")):
            break
        if token.kind == "word" and token.text.lower() in CLAUSE_ENDS and out:
            break
        if token.text in (".", "?", "!", ";") and (following is None or following.spaced) and out:
            break
        out.append(token)
    return out


def shown(expression: Expression, tokens: Sequence[Token]) -> Found:
    """What an expression among the tokens of a text says, its neighbours looked at."""
    run, first = expression.tokens, expression.first
    written = " ".join(("\\" if t.kind == "command" else "") + t.text for t in run)
    before = [t.text.lower() for t in tokens[max(0, first - 2) : first]]
    if expression.before in COMPARING:
        return Found(f"{expression.before} {written}", why=f"the word {expression.before}")
    if len(before) == 2 and before[1] == "of" and before[0] in TAKEN_OF:
        return Found(f"{before[0]} of {written}", why=f"the word {before[0]}")
    after = [t.text.lower() for t in tokens[first + len(run) : first + len(run) + 2] if not t.lined]
    if after and after[0] in ALTERING and (after[0] not in ("or", "and", "to") or is_amount(after[1:])):
        return Found(f"{written} {' '.join(after)}", why=f"the word {after[0]}")
    return read(written, run)


def is_amount(following: Sequence[str]) -> bool:
    """Whether a word that follows on "and", "or" or "to" begins another amount."""
    return bool(following) and (following[0][:1].isdigit() or following[0] in ("a", "half", "one", "$"))


def last_number(text: str) -> Found | None:
    """The last expression with a number in it, those in brackets of their own only for want of others."""
    tokens = scan(text)
    numeric = [e for e in expressions(tokens) if e.numeric]
    plain = [e for e in numeric if not e.remark] or numeric
    if not plain:
        return None
    last = plain[-1]
    if last.before in ("or", "to") and last.first > 1 and tokens[last.first - 2].kind == "number":
        return Found(
            " ".join(t.text for t in [*tokens[last.first - 2 : last.first], *last.tokens]), why="several numbers"
        )
    return shown(last, tokens)


def expressions(tokens: Sequence[Token]) -> list[Expression]:
    """The runs of mathematics among the words of a text."""
    found: list[Expression] = []
    current = Expression()
    depth = outer = 0
    for number, token in enumerate(tokens):
        outer = 0 if token.lined else max(0, outer - (token.text == ")"))
        before = tokens[number - 1] if number else None
        after = tokens[number + 1] if number + 1 < len(tokens) else None
        if token.lined and current.tokens:
            current, depth = close(found, current), 0
        remark = token.text == "(" and token.spaced and bool(current.tokens) and before in current.tokens[-1:]
        if remark and before is not None and (before.kind == "number" or before.text == ")"):
            current, depth = close(found, current), 0
        remark = outer > 0 or token.text == "("
        outer += token.text == "("
        if is_label(tokens, number, bool(current.tokens)) or not belongs(token, before, after, current, depth):
            current, depth = close(found, current), 0
            continue
        if beside(token, after, current):
            current, depth = close(found, current), 0
        if not current.tokens:
            word = before.text.lower() if before is not None and not token.lined else ""
            current = Expression(before=word, first=number, remark=remark)
        depth = max(0, depth + (token.text in CLOSING) - (token.text in CLOSING.values()))
        current.tokens.append(tight_minus(token, before, after, current))
    close(found, current)
    return found


def close(found: list[Expression], current: Expression) -> Expression:
    """Keep a run that has come to its end; a fresh one."""
    while current.tokens and (
        current.tokens[-1].text in ("*", "/", "+", "-", "(", ",", ":", "{") or current.tokens[-1].text in MARKERS
    ):
        current.tokens.pop()
    if current.remark and current.tokens and current.tokens[-1].text != ")":
        current.tokens = current.tokens[1:]
    if current.tokens:
        found.append(current)
    return Expression()


def tight_minus(token: Token, before: Token | None, after: Token | None, current: Expression) -> Token:
    """The token, or where it is the dash of "10-12" the mark of a range."""
    if token.text != "-" or before is None or after is None or token.spaced or after.spaced:
        return token
    return replace(token, text="range") if before.kind == "number" == after.kind and len(current.tokens) > 0 else token


def beside(token: Token, after: Token | None, current: Expression) -> bool:
    """Whether a number begins a new run because it only stands beside another: no "1 1/2", no "1 234"."""
    if token.kind != "number" or not current.tokens or current.tokens[-1].kind != "number":
        return False
    last = current.tokens[-1]
    if not last.text.isdigit() or not token.text.isdigit():
        return True
    mixed = after is not None and after.text == "/"
    return not mixed and not (len(token.text) == 3 and len(last.text) <= 3)


def belongs(token: Token, before: Token | None, after: Token | None, current: Expression, depth: int) -> bool:
    """Whether a token is part of the run before it, or begins one."""
    text, run = token.text, current.tokens
    if token.kind == "number":
        return True
    if token.kind == "command":
        return text not in SEPARATORS
    if token.kind == "word":
        return word_belongs(token, before, after, run)
    if text in "+-*/^" or text == "range":
        if run:
            return after is not None and not after.lined
        return (
            text == "-"
            and after is not None
            and not after.spaced
            and (before is None or token.spaced or before.kind != "word")
        )
    if text in CLOSING or text in CURRENCY or text in ("=", "<", ">", "<=", ">=", "!="):
        return True
    if text in (")", "]", "}", ","):
        tight = (
            text == ","
            and before is not None
            and before.kind == "number"
            and after is not None
            and after.kind == "number"
        )
        return depth > 0 or (tight and not token.spaced and not after.spaced)  # type: ignore[union-attr]
    if text in ("%", "_", "|", "!"):
        return bool(run) and (text != "!" or depth > 0)
    if text == ":":
        return (
            bool(run) and run[-1].kind == "number" and after is not None and after.kind == "number" and not after.spaced
        )
    return text == "..." and bool(run) and "." in run[-1].text


def word_belongs(token: Token, before: Token | None, after: Token | None, run: Sequence[Token]) -> bool:
    """Whether a word is mathematics: a unit, a scale, "negative" before a number, a variable."""
    word = token.text.partition("^")[0]
    number_before = bool(run) and before is run[-1] and (before.kind == "number" or before.text in (")", "}", "%"))
    if word.lower() in ("negative", "minus") and after is not None:
        return not run and (after.kind == "number" or after.text in CURRENCY)
    if number_before and (
        word in UNITS or word.lower() in UNITS or word.lower() in SCALES or word.lower() in ("percent", "percentage")
    ):
        return len(word) > 1 or not token.spaced or after is None or after.kind != "word"
    if len(word) > 1:
        return False
    tight = bool(run) and not token.spaced
    signed = after is not None and (
        after.text in ("+", "*", "/", "^", "=", "<", ">", "<=", ">=", "_") or "^" in token.text
    )
    called = after is not None and after.text == "(" and not after.spaced
    joined = bool(run) and run[-1].text in ("+", "-", "*", "/", "=", "(", "{", "^")
    minus = after is not None and after.text == "-" and word not in "aAI"
    return tight or signed or called or joined or minus


def is_label(tokens: Sequence[Token], number: int, within: bool) -> bool:
    """Whether a token is the label of a list ("1. First"), of a title ("Step 3"), or part of a name ("covid-19").

    Args:
        within: Whether it follows on mathematics.
    """
    token, before = tokens[number], tokens[number - 1] if number else None
    if token.kind != "number" or (within and not token.lined):
        return False
    starts = token.lined or (before is not None and before.lined and before.text in MARKERS)
    if starts and token.text.isdigit() and len(token.text) < 3 and number + 2 < len(tokens):
        dot, following = tokens[number + 1], tokens[number + 2]
        if dot.text in (".", ")") and not dot.spaced and following.spaced and not following.lined:
            return True
    if before is None or token.lined:
        return False
    if before.kind == "word" and before.text.lower() in TITLES:
        return True
    return before.text == "-" and not before.spaced and not token.spaced
