"""The `choice` judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.data.prompts import text_of
from holdfast.data.rows import Message
from holdfast.judges.base import Answer, Judge, Verdict
from holdfast.judges.text import PUNCTUATION, short

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"^[ \t]*[(\[]?([A-Za-z])[)\].:][ \t]+(\S[^\n]*)$", re.MULTILINE)
"""An option on a line of its own: "A. text", "(A) text", "A) text", "A: text"."""

LETTER = r"[\s*_({\[\"'`]*([A-Z](?![\w'\u2019])|[a-z](?=\s*(?:[)\]}.:,;*_]|$)))"
"""A letter by itself; a small one ("a") only before punctuation or the end."""
SAID = (
    re.compile(r"(?i:\b(?:answer|choice|option)\b(?:\s+(?:is|was|would be))?\s*:?\s*(?:option|choice)?)" + LETTER),
    re.compile(r"\\boxed\s*\{\s*(?:\\text\s*\{)?" + LETTER),
    re.compile(r"^[\s*_]*[(\[]?([A-Za-z])(?:[)\].:*_]|\s*$)"),
    re.compile(r"\(([A-Za-z])\)"),
)
"""Where a letter is said to be the answer, most certain first; the last occurrence counts."""


class Choice(Judge):
    r"""The option chosen by the answer is the option of the reference. [multiple choice]

    The reference is a letter ("B", "(B)"), the text of an option, the number of one counted from 0, or
    `{"answer": any of these, "options": [texts] or {letter: text}}`; without `options` they are read from the lines
    of the question ("A. ...", "(A) ..."). The answer's choice is a letter announced as the answer, else in
    `\boxed{}`, else at its start, else in parentheses, else the one option whose text it contains.
    """

    def judge(self, answer: Answer) -> Verdict:
        meant, options = read_reference(answer.reference, answer.prompt)
        if meant is None:
            return Verdict(False, 0.0, f"no choice in the reference {short(answer.reference)!r}", failed=True)
        said = chosen(answer.response, options)
        if said is None:
            return Verdict(False, 0.0, f"no choice in the answer; expected {meant}")
        return Verdict(said == meant, float(said == meant), f"chose {said}; expected {meant}")

    def usable(self, reference: Any) -> str | None:
        bare = reference["answer"] if isinstance(reference, dict) and "answer" in reference else reference
        if isinstance(bare, bool) or not isinstance(bare, (str, int)):
            return "no choice in it"
        return None if str(bare).strip() else "empty text"


def read_reference(reference: Any, prompt: Sequence[Message]) -> tuple[str | None, dict[str, str]]:
    """The letter meant, and the options by letter."""
    options = options_of(prompt)
    if isinstance(reference, dict):
        given = reference.get("options")
        if isinstance(given, dict):
            options = {str(k).upper(): str(v) for k, v in given.items()}
        elif given:
            options = {LETTERS[i]: str(v) for i, v in enumerate(given)}
        reference = reference.get("answer")
    if isinstance(reference, int) and not isinstance(reference, bool):
        return (LETTERS[reference] if 0 <= reference < len(LETTERS) else None), options
    if not isinstance(reference, str):
        return None, options
    if bare := re.fullmatch(r"\s*[(\[]?([A-Za-z])[)\].:]?\s*", reference):
        return bare[1].upper(), options
    same = [letter for letter, text in options.items() if plain(text) == plain(reference)]
    return (same[0] if same else chosen(reference, options)), options


def options_of(prompt: Sequence[Message]) -> dict[str, str]:
    """The options listed in the last message that lists at least two."""
    for message in reversed(prompt):
        found = {letter.upper(): text.strip() for letter, text in OPTION.findall(text_of(message["content"]))}
        if len(found) > 1:
            return found
    return {}


def chosen(response: str, options: dict[str, str]) -> str | None:
    """The letter a response chooses, or `None`. With `options` known, other letters do not count."""
    for pattern in SAID:
        letters = [m.upper() for m in pattern.findall(response)]
        letters = [letter for letter in letters if letter in options] if options else letters
        if letters:
            return letters[-1]
    said = f" {plain(response)} "
    named = [letter for letter, text in options.items() if plain(text) and f" {plain(text)} " in said]
    longest = [a for a in named if not any(plain(options[a]) in plain(options[b]) for b in named if b != a)]
    return longest[0] if len(longest) == 1 else None


def plain(text: str) -> str:
    """Lower case, no punctuation, single spaces."""
    return " ".join(text.translate(PUNCTUATION).casefold().split())
