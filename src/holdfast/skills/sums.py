"""One-step addition, subtraction and comparison of numbers below 100."""

from __future__ import annotations

import random
import re
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt

_PROMPTS = {
    "+": ("What is {a} + {b}?", "Compute {a} + {b}.", "{a}+{b}=?", "Add {b} to {a}."),
    "-": ("What is {a} - {b}?", "Compute {a} - {b}.", "{a}-{b}=?", "Take {b} from {a}."),
    ">": ("Which is larger, {a} or {b}?",),
}


def find_last_number(text: str) -> int | None:
    """The last whole number written in `text`."""
    numbers = re.findall(r"-?\d+", text)
    return int(numbers[-1]) if numbers else None


class Sums(Skill):
    """Small arithmetic; many forms of question, four of answer."""

    name = "sums"
    styles: ClassVar = {"bare": 0.5, "equation": 0.2, "sentence": 0.2, "it": 0.1}
    threshold = 90.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        op = rng.choices("+->", (5, 4, 1))[0]
        a, b = rng.randint(0, 50), rng.randint(0, 40)
        if op == "-" and a < b:
            a, b = b, a
        if op == ">" and a == b:
            a += 1
        result = {"+": a + b, "-": a - b, ">": max(a, b)}[op]
        prompt = rng.choice(_PROMPTS[op]).format(a=a, b=b)
        return Question(f"{a}{op}{b}", single_turn_prompt(prompt), result, {"a": a, "b": b, "op": op})

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        a, b, op, result = *(question.facts[k] for k in ("a", "b", "op")), question.reference
        if style == "equation" and op != ">":
            return f"{a} {op} {b} = {result}."
        return {"sentence": f"The answer is {result}.", "it": f"It is {result}."}.get(style, str(result))

    def judge(self, answer: JudgeRequest) -> Verdict:
        number = find_last_number(answer.response)
        return binary_verdict(number == answer.reference, f"{number}, expected {answer.reference}")
