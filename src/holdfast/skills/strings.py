"""Copy, reverse, sort, first and last of a few letters."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import LETTERS

OPERATIONS: dict[str, Callable[[list[str]], list[str]]] = {
    "Copy": lambda x: x,
    "Reverse": lambda x: x[::-1],
    "Sort": sorted,
    "First of": lambda x: x[:1],
    "Last of": lambda x: x[-1:],
}


class Strings(Skill):
    """List surgery on three to five letters."""

    name = "strings"
    styles: ClassVar = {"spaces": 0.8, "commas": 0.2}
    threshold = 90.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        name, letters = rng.choice(list(OPERATIONS)), rng.sample(LETTERS, rng.randint(3, 5))
        text = f"{name}: {' '.join(letters)}"
        return Question(text, single_turn_prompt(text), list(OPERATIONS[name](letters)))

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return (", " if style == "commas" else " ").join(question.reference)

    def judge(self, answer: JudgeRequest) -> Verdict:
        letters = answer.response.replace(",", " ").replace(".", " ").split()
        return binary_verdict(letters == answer.reference, " ".join(letters))
