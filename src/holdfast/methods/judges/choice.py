"""The `choice` judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Message
from holdfast.methods.judges.choices.stated import plain, stated_choice
from holdfast.methods.judges.text import short

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"^[ \t]*[(\[]?([A-Za-z])[)\].:][ \t]+(\S[^\n]*)$", re.MULTILINE)
"""An option on a line of its own: "A. text", "(A) text", "A) text", "A: text"."""


class Choice(Judge):
    r"""The option chosen by the answer is the option of the reference. [multiple choice]

    The reference is a letter ("B", "(B)"), the text of an option, the number of one counted from 0, or
    `{"answer": any of these, "options": [texts] or {letter: text}}`; without `options` they are read from the lines
    of the question ("A. ...", "(A) ..."). The answer's choice is looked for, most certain first: in `\boxed{}`,
    `<answer>` or after `####`; announced ("the answer is B", "Answer: B", also in other languages); alone on the first
    or the last line, or at the beginning ("B. Paris"); in a sentence of choice ("B is correct", "I choose B", "so B");
    the only letter in parentheses; the one option whose text it contains.

    No letter is ever guessed: where an answer names several, takes one back, or names none, the verdict is
    "unreadable", which counts as not right and is reported apart from wrong. Of a model that thinks, what it says after
    the thought is read; of answers beyond 32,768 characters the end.
    """

    def judge(self, answer: Answer) -> Verdict:
        meant, options = read_reference(answer.reference, answer.prompt)
        if meant is None:
            return Verdict(False, 0.0, f"no choice in the reference {short(answer.reference)!r}", failed=True)
        if not answer.final.strip():
            return Verdict(False, 0.0, f"no answer; expected {meant}")
        stated = stated_choice(answer.final, options)
        if stated.letter is None:
            return Verdict.doubt(f"{stated.why}; expected {meant}")
        right = stated.letter == meant
        return Verdict(right, float(right), f"chose {stated.letter}; expected {meant}")

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
            options = {letter: str(v) for letter, v in zip(LETTERS, given, strict=False)}
        reference = reference.get("answer")
    if isinstance(reference, int) and not isinstance(reference, bool):
        return (LETTERS[reference] if 0 <= reference < len(LETTERS) else None), options
    if not isinstance(reference, str):
        return None, options
    if bare := re.fullmatch(r"\s*[(\[]?([A-Za-z])[)\].:]?\s*", reference):
        return bare[1].upper(), options
    same = [letter for letter, text in options.items() if plain(text) == plain(reference)]
    return (same[0] if same else stated_choice(reference, options).letter), options


def options_of(prompt: Sequence[Message]) -> dict[str, str]:
    """The options listed in the last message that lists at least two."""
    for message in reversed(prompt):
        found = {letter.upper(): text.strip() for letter, text in OPTION.findall(text_of(message["content"]))}
        if len(found) > 1:
            return found
    return {}
