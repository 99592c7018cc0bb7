"""The `choice` judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.axes.judge import Answer, Judge, Verdict
from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Message
from holdfast.methods.judges.choices.labels import LETTERS, Labels, labels_of, read_labels
from holdfast.methods.judges.choices.stated import Stated, plain, stated_choice
from holdfast.methods.judges.text import short

OPTION = re.compile(r"^[ \t]*[(\[]?([A-Za-z])[)\].:][ \t]+(\S[^\n]*)$", re.MULTILINE)
"""An option on a line of its own: "A. text", "(A) text", "A) text", "A: text"."""


class Choice(Judge):
    r"""The option chosen by the answer is the option of the reference. [multiple choice]

    The reference is a letter ("B", "(B)"), the text of an option, the number of one counted from 0, or
    `{"answer": any of these, "options": [texts] or {letter: text}}`; without `options` they are read from the lines
    of the question ("A. ...", "(A) ..."). The answer's choice is looked for, most certain first: in `\boxed{}`,
    `<answer>` or after `####`; announced ("the answer is B", "Answer: B", also in other languages); alone on the first
    or the last line, or at the beginning ("B. Paris"); in a sentence of choice ("B is correct", "I choose B", "so B");
    the only letter in parentheses; the one option whose text it contains. Options may also be labelled by digits
    ("1.", from 1) or by letters of other scripts (А Б В, ア イ ウ, 가 나 다, 甲 乙 丙, أ ب ج, ...).

    No letter is ever guessed: where an answer names several, takes one back, or names none, the verdict is
    "unreadable", which counts as not right and is reported apart from wrong. Of a model that thinks, what it says after
    the thought is read; of answers beyond 32,768 characters the end.
    """

    def judge(self, answer: Answer) -> Verdict:
        if labels := labels_for(answer.reference, answer.prompt):
            return judge_labelled(answer, labels)
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


def labels_for(reference: Any, prompt: Sequence[Message]) -> Labels | None:
    """The labels of a question's options where they are no Latin letters, and the reference fits them."""
    given = reference.get("options") if isinstance(reference, dict) else None
    if isinstance(given, dict):
        return labels_of(given)
    if given or options_of(prompt):
        return None
    return read_labels(prompt)


def judge_labelled(answer: Answer, labels: Labels) -> Verdict:
    """The verdict on an answer to a question whose options are labelled otherwise than A, B, C."""
    reference = answer.reference.get("answer") if isinstance(answer.reference, dict) else answer.reference
    if isinstance(reference, int) and not isinstance(reference, bool):
        meant = LETTERS[reference] if 0 <= reference < len(labels.names) else None
    else:
        same = [k for k, text in zip(LETTERS, labels.texts, strict=False) if plain(text) == plain(str(reference))]
        meant = labels.letter(str(reference)) or (same[0] if same else None)
    if meant is None:
        return Verdict(False, 0.0, f"no choice in the reference {short(answer.reference)!r}", failed=True)
    expected = labels.in_own_words(meant)
    if not answer.final.strip():
        return Verdict(False, 0.0, f"no answer; expected {expected}")
    stated = stated_label(answer.final, labels)
    if stated.letter is None:
        return Verdict.doubt(f"{labels.in_own_words(stated.why)}; expected {expected}")
    chosen = labels.in_own_words(stated.letter)
    return Verdict(stated.letter == meant, float(stated.letter == meant), f"chose {chosen}; expected {expected}")


def stated_label(text: str, labels: Labels) -> Stated:
    """The option that an answer states, by the Latin letter in the place of its label."""
    if not labels.doubtful:
        return stated_choice(labels.translate(text), labels.options)
    bare = dict.fromkeys(labels.options, "")
    named = stated_choice(labels.translate(text, explicit=True), bare)
    if named.letter is not None:
        return named
    by_label, by_text = stated_choice(labels.translate(text), bare), stated_choice(text, labels.options)
    if by_label.letter and by_text.letter and by_label.letter != by_text.letter:
        return Stated(None, f"names {by_label.letter}, or the text of {by_text.letter}")
    return by_label if by_label.letter else by_text


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
