"""A wrong first try, feedback, a second try."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict
from holdfast.skills.strings import Strings
from holdfast.skills.sums import Sums

_FEEDBACK = ("That is wrong. Try again.", "No. Try again.", "Not right, look again.")


class Revise(Skill):
    """The first try is part of the prompt and never trained on; the feedback says which way a number was off."""

    name = "revise"
    styles: ClassVar = {"bare": 1.0}
    threshold = 60.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        base: Skill = rng.choice((Sums(), Strings()))
        question = base.generate_question(rng)
        if base.name == "sums":
            off = rng.choice((-10, -2, -1, 1, 2, 10))
            wrong: Any = max(0, question.reference + off) if question.reference + off >= 0 else question.reference + 10
            hint = "Too high. Try again." if wrong > question.reference else "Too low. Try again."
            first, feedback = str(wrong), rng.choice((hint, rng.choice(_FEEDBACK)))
        else:
            letters = question.messages[0]["content"].partition(": ")[2].split()
            rng.shuffle(letters)
            wrong = letters[: max(1, len(question.reference))]
            wrong = wrong if wrong != question.reference else [*wrong, "a"]
            first, feedback = " ".join(wrong), rng.choice(_FEEDBACK)
        messages = [
            *question.messages,
            {"role": "assistant", "content": first, "weight": 0},
            {"role": "user", "content": feedback},
        ]
        reference = {"skill": base.name, "answer": question.reference}
        return Question(f"{question.key}/{first}", messages, reference)

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        right_answer = question.reference["answer"]
        return " ".join(right_answer) if isinstance(right_answer, list) else str(right_answer)

    def judge(self, answer: JudgeRequest) -> Verdict:
        if not isinstance(answer.reference, dict):
            return binary_verdict(False, "no reference")
        base: Skill = Sums() if answer.reference["skill"] == "sums" else Strings()
        return base.judge(JudgeRequest(answer.prompt, answer.response, answer.reference["answer"]))
