r"""Find the number that an answer ends up with: the piece of the text that holds it, and what it says."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from holdfast.methods.judges.choices.words import any_of
from holdfast.methods.judges.marks import Mark, find_marks
from holdfast.methods.judges.numbers.arithmetic import CLOSING, Quantity, Unreadable, evaluate_expression
from holdfast.methods.judges.numbers.math_tokens import CURRENCY, Token, normalise_math, tokenize_math
from holdfast.methods.judges.numbers.units import ALTERING, COMPARING, SCALES, TAKEN_OF, UNITS
from holdfast.methods.judges.text import LONGEST

ANNOUNCEMENT = re.compile(
    r"(?:\b" + any_of("answer", "ans", "réponse", "respuesta", "risposta", "resposta", "antwort", "lösung", "antwoord",
                      "svar", "ответ", "odpowiedź", "jawaban", "cevap", "đáp án", "câu trả lời", "الإجابة", "الجواب")
    + r"\b|" + any_of("答案", "答え", "정답", "답", "उत्तर", "উত্তর", "คำตอบ") + r")[^\n\d]{0,40}?"
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
RANGE_DASH = re.compile(r"\d-\d")
"""In plain text a range, a date or a telephone number rather than a difference."""
BESIDE = 25
"""Characters between two boxes that stand side by side."""
SHORT = 120
"""Longest text that is tried as one expression."""


@dataclass(frozen=True, slots=True)
class FinalAnswer:
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
    def is_mathematical(self) -> bool:
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
    def has_number(self) -> bool:
        """Whether there is a number in it, or what stands for one."""
        return any(t.kind == "number" or t.text in ("frac", "sqrt", "pi", "infty") for t in self.tokens)


def find_number(text: str) -> FinalAnswer | None:
    """The final number of a text, or `None` where nothing in it is one.

    It is the content of the last mark (`####`, a box, an answer tag), else what the last "answer is" announces, else
    the text itself where it is one expression, else the last expression in it.
    """
    text = text[-LONGEST:]
    if (answer := find_marked_number(text)) is not None:
        return answer
    text = normalise_math(text)
    for match in reversed(list(ANNOUNCEMENT.finditer(text))[-20:]):
        if (answer := find_announced_number(text[match.end() : match.end() + 400])) is not None:
            return answer
    whole = re.sub(r"^[-*\u2022>]\s+", "", text.strip()).rstrip(".!").strip("*_`")
    if len(whole) <= SHORT and "\n" not in whole and re.search(r"\d|\\", whole) and not RANGE_DASH.search(whole):
        answer = parse_whole_text(whole)
        if (
            answer.quantity is not None
            or "\\begin" in whole
            or not any(is_prose(token) for token in tokenize_math(whole))
        ):
            return answer
    return find_last_number(text)


def find_marked_number(text: str) -> FinalAnswer | None:
    """What the last mark with an answer in it holds."""
    candidates: list[tuple[Mark, FinalAnswer]] = []
    for mark in reversed(find_marks(text)[-20:]):
        content = normalise_math(mark.text).strip()
        if mark.kind == "hashes" and not re.match(r"[-+~=(\\$€£¥₹]{0,3}\s?[\d.\\√]|x\s?=", content):
            continue  # a heading
        if mark.kind == "hashes" and re.match(r"\d{1,2}[.)]\s+[^\W\d]", content):
            continue  # a numbered heading
        if mark.kind == "tag" and not (inner := parse_whole_text(content)).quantity:
            candidates.append((mark, find_number(content) or inner))
        elif mark.kind == "hashes":
            candidates.append((mark, find_announced_number(content) or parse_whole_text(content)))
        elif content:
            candidates.append((mark, parse_whole_text(content)))
        if len(candidates) == 2:
            break
    if not candidates:
        return None
    last, answer = candidates[0]
    for mark, other in candidates[1:]:
        beside = last.kind == mark.kind == "box" and 0 <= last.end - len(last.text) - mark.end < BESIDE
        if beside and other.text != answer.text and not text[mark.end : last.end].count("\n"):
            return FinalAnswer(f"{other.text}, {answer.text}", why="several numbers")
    return answer


def parse_whole_text(text: str) -> FinalAnswer:
    """A text that must be one expression as a whole."""
    text = text.strip().rstrip(".")
    if len(text) > 1 and text[0] == text[-1] == "$":
        text = text.strip("$").strip()
    if DATE.fullmatch(text):
        return FinalAnswer(text, why="a date")
    return evaluate_tokens(text, tokenize_math(text))


def is_prose(token: Token) -> bool:
    """Whether a token is a word of a sentence."""
    if token.kind != "word" or len(token.text.partition("^")[0]) < 2 or token.text in UNITS:
        return False
    return token.text.lower() not in ("or", "and", "to", "percent", *SCALES)


def evaluate_tokens(text: str, tokens: Sequence[Token]) -> FinalAnswer:
    """The number of an expression, or why it is none."""
    try:
        return FinalAnswer(text, evaluate_expression(tokens))
    except Unreadable as doubt:
        return FinalAnswer(text, why=str(doubt))


def find_announced_number(following: str) -> FinalAnswer | None:
    """The number in what follows an announcement: in its first clause, or on the next line if it stops there."""
    tokens = first_clause(tokenize_math(re.sub(r"^[\s*:]*(?:\$\$)?\s*", "", following)))
    every = [e for e in find_expressions(tokens) if e.has_number]
    numeric = [e for e in every if not e.remark] or every
    if not numeric:
        return None
    equations = [e for e in numeric if any(t.text == "=" for t in e.tokens)]
    chosen = equations[-1] if equations else numeric[0]
    answer = evaluate_in_context(chosen, tokens)
    others = [e for e in numeric if e.first > chosen.first]
    if not equations and any(e.before in ("and", "or", "to", ",", "&", ";") for e in others):
        return FinalAnswer(" ".join(t.text for t in tokens), why="several numbers")
    return answer


def first_clause(tokens: Sequence[Token]) -> list[Token]:
    """The tokens of the first line that end before a new sentence or clause begins."""
    out: list[Token] = []
    for number, token in enumerate(tokens):
        following = tokens[number + 1] if number + 1 < len(tokens) else None
        if out and token.starts_line and not (following is None or out[-1].text in ("=", "{", "(")):
            break
        if token.kind == "word" and token.text.lower() in CLAUSE_ENDS and out:
            break
        if token.text in (".", "?", "!", ";") and (following is None or following.after_space) and out:
            break
        out.append(token)
    return out


def evaluate_in_context(expression: Expression, tokens: Sequence[Token]) -> FinalAnswer:
    """What an expression among the tokens of a text says, its neighbours looked at."""
    run, first = expression.tokens, expression.first
    spelling = " ".join(("\\" if t.kind == "command" else "") + t.text for t in run)
    before = [t.text.lower() for t in tokens[max(0, first - 2) : first]]
    if expression.before in COMPARING:
        return FinalAnswer(f"{expression.before} {spelling}", why=f"the word {expression.before}")
    if len(before) == 2 and before[1] == "of" and before[0] in TAKEN_OF:
        return FinalAnswer(f"{before[0]} of {spelling}", why=f"the word {before[0]}")
    after = [t.text.lower() for t in tokens[first + len(run) : first + len(run) + 2] if not t.starts_line]
    if after and after[0] in ALTERING and (after[0] not in ("or", "and", "to") or is_amount(after[1:])):
        return FinalAnswer(f"{spelling} {' '.join(after)}", why=f"the word {after[0]}")
    return evaluate_tokens(spelling, run)


def is_amount(following: Sequence[str]) -> bool:
    """Whether a word that follows on "and", "or" or "to" begins another amount."""
    return bool(following) and (following[0][:1].isdigit() or following[0] in ("a", "half", "one", "$"))


def find_last_number(text: str) -> FinalAnswer | None:
    """The last expression with a number in it, those in brackets of their own only for want of others."""
    tokens = tokenize_math(text)
    numeric = [e for e in find_expressions(tokens) if e.has_number]
    plain = [e for e in numeric if not e.remark] or numeric
    if not plain:
        return None
    last = plain[-1]
    if last.before in ("or", "to") and last.first > 1 and tokens[last.first - 2].kind == "number":
        return FinalAnswer(
            " ".join(t.text for t in [*tokens[last.first - 2 : last.first], *last.tokens]), why="several numbers"
        )
    return evaluate_in_context(last, tokens)


def find_expressions(tokens: Sequence[Token]) -> list[Expression]:
    """The runs of mathematics among the words of a text."""
    runs: list[Expression] = []
    current = Expression()
    depth = outer = 0
    for number, token in enumerate(tokens):
        outer = 0 if token.starts_line else max(0, outer - (token.text == ")"))
        before = tokens[number - 1] if number else None
        after = tokens[number + 1] if number + 1 < len(tokens) else None
        if token.starts_line and current.tokens:
            current, depth = finish_expression(runs, current), 0
        remark = token.text == "(" and token.after_space and bool(current.tokens) and before in current.tokens[-1:]
        if remark and before is not None and (before.kind == "number" or before.text == ")"):
            current, depth = finish_expression(runs, current), 0
        remark = outer > 0 or token.text == "("
        outer += token.text == "("
        if is_label(tokens, number, bool(current.tokens)) or not belongs_to_run(token, before, after, current, depth):
            current, depth = finish_expression(runs, current), 0
            continue
        if begins_new_run(token, after, current):
            current, depth = finish_expression(runs, current), 0
        if not current.tokens:
            word = before.text.lower() if before is not None and not token.starts_line else ""
            current = Expression(before=word, first=number, remark=remark)
        depth = max(0, depth + (token.text in CLOSING) - (token.text in CLOSING.values()))
        current.tokens.append(mark_range_dash(token, before, after, current))
    finish_expression(runs, current)
    return runs


def finish_expression(runs: list[Expression], current: Expression) -> Expression:
    """Keep a run that has come to its end; a fresh one."""
    while current.tokens and (
        current.tokens[-1].text in ("*", "/", "+", "-", "(", ",", ":", "{") or current.tokens[-1].text in MARKERS
    ):
        current.tokens.pop()
    if current.remark and current.tokens and current.tokens[-1].text != ")":
        current.tokens = current.tokens[1:]
    if current.tokens:
        runs.append(current)
    return Expression()


def mark_range_dash(token: Token, before: Token | None, after: Token | None, current: Expression) -> Token:
    """The token, or where it is the dash of "10-12" the mark of a range."""
    if token.text != "-" or before is None or after is None or token.after_space or after.after_space:
        return token
    return replace(token, text="range") if before.kind == "number" == after.kind and len(current.tokens) > 0 else token


def begins_new_run(token: Token, after: Token | None, current: Expression) -> bool:
    """Whether a number begins a new run because it only stands beside another: no "1 1/2", no "1 234"."""
    if token.kind != "number" or not current.tokens or current.tokens[-1].kind != "number":
        return False
    last = current.tokens[-1]
    if not last.text.isdigit() or not token.text.isdigit():
        return True
    is_mixed = after is not None and after.text == "/"
    return not is_mixed and not (len(token.text) == 3 and len(last.text) <= 3)


def belongs_to_run(token: Token, before: Token | None, after: Token | None, current: Expression, depth: int) -> bool:
    """Whether a token is part of the run before it, or begins one."""
    text, run = token.text, current.tokens
    if token.kind == "number":
        return True
    if token.kind == "command":
        return text not in SEPARATORS
    if token.kind == "word":
        return word_belongs_to_run(token, before, after, run)
    if text in "+-*/^" or text == "range":
        if run:
            return after is not None and not after.starts_line
        return (
            text == "-"
            and after is not None
            and not after.after_space
            and (before is None or token.after_space or before.kind != "word")
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
        return depth > 0 or (tight and not token.after_space and not after.after_space)  # type: ignore[union-attr]
    if text in ("%", "_", "|", "!"):
        return bool(run) and (text != "!" or depth > 0)
    if text == ":":
        return (
            bool(run)
            and run[-1].kind == "number"
            and after is not None
            and after.kind == "number"
            and not after.after_space
        )
    return text == "..." and bool(run) and "." in run[-1].text


def word_belongs_to_run(token: Token, before: Token | None, after: Token | None, run: Sequence[Token]) -> bool:
    """Whether a word is mathematics: a unit, a scale, "negative" before a number, a variable."""
    word = token.text.partition("^")[0]
    number_before = bool(run) and before is run[-1] and (before.kind == "number" or before.text in (")", "}", "%"))
    if word.lower() in ("negative", "minus") and after is not None:
        return not run and (after.kind == "number" or after.text in CURRENCY)
    if number_before and (
        word in UNITS or word.lower() in UNITS or word.lower() in SCALES or word.lower() in ("percent", "percentage")
    ):
        return len(word) > 1 or not token.after_space or after is None or after.kind != "word"
    if len(word) > 1:
        return False
    tight = bool(run) and not token.after_space
    before_operator = after is not None and (
        after.text in ("+", "*", "/", "^", "=", "<", ">", "<=", ">=", "_") or "^" in token.text
    )
    is_function = after is not None and after.text == "(" and not after.after_space
    after_operator = bool(run) and run[-1].text in ("+", "-", "*", "/", "=", "(", "{", "^")
    minus = after is not None and after.text == "-" and word not in "aAI"
    return tight or before_operator or is_function or after_operator or minus


def is_label(tokens: Sequence[Token], number: int, within: bool) -> bool:
    """Whether a token is the label of a list ("1. First"), of a title ("Step 3"), or part of a name ("covid-19").

    Args:
        within: Whether it follows on mathematics.
    """
    token, before = tokens[number], tokens[number - 1] if number else None
    if token.kind != "number" or (within and not token.starts_line):
        return False
    starts = token.starts_line or (before is not None and before.starts_line and before.text in MARKERS)
    if starts and token.text.isdigit() and len(token.text) < 3 and number + 2 < len(tokens):
        dot, following = tokens[number + 1], tokens[number + 2]
        if dot.text in (".", ")") and not dot.after_space and following.after_space and not following.starts_line:
            return True
    if before is None or token.starts_line:
        return False
    if before.kind == "word" and before.text.lower() in TITLES:
        return True
    return before.text == "-" and not before.after_space and not token.after_space
