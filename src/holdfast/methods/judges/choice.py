"""The `choice` judge."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from holdfast.axes.judge import Judge, JudgeRequest, Verdict
from holdfast.data.chat.prompts import text_of
from holdfast.data.rows import Message
from holdfast.methods.judges.choices.labels import LETTERS, Labels, match_alphabet, parse_labels
from holdfast.methods.judges.choices.stated import StatedChoice, normalise_text, parse_choice
from holdfast.methods.judges.text import shorten_text

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

    def example_answers(self) -> Sequence[JudgeRequest]:
        question: list[Message] = [{"role": "user", "content": "Which is a city?\nA. blue\nB. Paris\nC. seven"}]
        return [JudgeRequest(question, "The answer is B.", "B"), JudgeRequest(question, "Paris", 1)]

    def judge(self, answer: JudgeRequest) -> Verdict:
        if labels := find_labels(answer.reference, answer.prompt):
            return judge_by_label(answer, labels)
        right_letter, options = parse_reference(answer.reference, answer.prompt)
        if right_letter is None:
            return Verdict(False, 0.0, f"no choice in the reference {shorten_text(answer.reference)!r}", failed=True)
        if not answer.final_response.strip():
            return Verdict(False, 0.0, f"no answer; expected {right_letter}")
        choice = parse_choice(answer.final_response, options)
        if choice.letter is None:
            return Verdict.as_unreadable(f"{choice.why}; expected {right_letter}")
        right = choice.letter == right_letter
        return Verdict(right, float(right), f"chose {choice.letter}; expected {right_letter}")

    def read_answer(self, answer: JudgeRequest) -> str | None:
        if labels := find_labels(answer.reference, answer.prompt):
            return parse_label_choice(answer.final_response, labels).letter
        return parse_choice(answer.final_response, parse_reference(answer.reference, answer.prompt)[1]).letter

    def find_reference_problem(self, reference: Any) -> str | None:
        bare = reference["answer"] if isinstance(reference, dict) and "answer" in reference else reference
        if isinstance(bare, bool) or not isinstance(bare, (str, int)):
            return "no choice in it"
        return None if str(bare).strip() else "empty text"


def find_labels(reference: Any, prompt: Sequence[Message]) -> Labels | None:
    """The labels of a question's options where they are no Latin letters, and the reference fits them."""
    options = reference.get("options") if isinstance(reference, dict) else None
    if isinstance(options, dict):
        return match_alphabet(options)
    if options or parse_options(prompt):
        return None
    return parse_labels(prompt)


def judge_by_label(answer: JudgeRequest, labels: Labels) -> Verdict:
    """The verdict on an answer to a question whose options are labelled otherwise than A, B, C."""
    reference = answer.reference.get("answer") if isinstance(answer.reference, dict) else answer.reference
    if isinstance(reference, int) and not isinstance(reference, bool):
        right_letter = LETTERS[reference] if 0 <= reference < len(labels.names) else None
    else:
        same = [
            k
            for k, text in zip(LETTERS, labels.texts, strict=False)
            if normalise_text(text) == normalise_text(str(reference))
        ]
        right_letter = labels.latin_letter(str(reference)) or (same[0] if same else None)
    if right_letter is None:
        return Verdict(False, 0.0, f"no choice in the reference {shorten_text(answer.reference)!r}", failed=True)
    right_label = labels.restore_labels(right_letter)
    if not answer.final_response.strip():
        return Verdict(False, 0.0, f"no answer; expected {right_label}")
    choice = parse_label_choice(answer.final_response, labels)
    if choice.letter is None:
        return Verdict.as_unreadable(f"{labels.restore_labels(choice.why)}; expected {right_label}")
    chosen = labels.restore_labels(choice.letter)
    return Verdict(
        choice.letter == right_letter, float(choice.letter == right_letter), f"chose {chosen}; expected {right_label}"
    )


def parse_label_choice(text: str, labels: Labels) -> StatedChoice:
    """The option that an answer states, by the Latin letter in the place of its label."""
    if not labels.is_ambiguous:
        return parse_choice(labels.replace_labels(text), labels.options)
    bare = dict.fromkeys(labels.options, "")
    explicit_choice = parse_choice(labels.replace_labels(text, explicit=True), bare)
    if explicit_choice.letter is not None:
        return explicit_choice
    by_label, by_text = parse_choice(labels.replace_labels(text), bare), parse_choice(text, labels.options)
    if by_label.letter and by_text.letter and by_label.letter != by_text.letter:
        return StatedChoice(None, f"names {by_label.letter}, or the text of {by_text.letter}")
    return by_label if by_label.letter else by_text


def parse_reference(reference: Any, prompt: Sequence[Message]) -> tuple[str | None, dict[str, str]]:
    """The letter meant, and the options by letter."""
    options = parse_options(prompt)
    if isinstance(reference, dict):
        reference_options = reference.get("options")
        if isinstance(reference_options, dict):
            options = {str(k).upper(): str(v) for k, v in reference_options.items()}
        elif reference_options:
            options = {letter: str(v) for letter, v in zip(LETTERS, reference_options, strict=False)}
        reference = reference.get("answer")
    if isinstance(reference, int) and not isinstance(reference, bool):
        return (LETTERS[reference] if 0 <= reference < len(LETTERS) else None), options
    if not isinstance(reference, str):
        return None, options
    if bare := re.fullmatch(r"\s*[(\[]?([A-Za-z])[)\].:]?\s*", reference):
        return bare[1].upper(), options
    same = [letter for letter, text in options.items() if normalise_text(text) == normalise_text(reference)]
    return (same[0] if same else parse_choice(reference, options).letter), options


def parse_options(prompt: Sequence[Message]) -> dict[str, str]:
    """The options listed in the last message that lists at least two."""
    for message in reversed(prompt):
        options = {letter.upper(): text.strip() for letter, text in OPTION.findall(text_of(message["content"]))}
        if len(options) > 1:
            return options
    return {}
