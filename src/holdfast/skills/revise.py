"""A wrong first try, feedback, a second try."""

from __future__ import annotations

import random
from typing import Any, ClassVar

from holdfast.axes.judge import Answer, Verdict
from holdfast.skills.base import Question, Skill, right
from holdfast.skills.strings import Strings
from holdfast.skills.sums import Sums

_FEEDBACK = ("That is wrong. Try again.", "No. Try again.", "Not right, look again.")


class Revise(Skill):
    """The first try is part of the prompt and never trained on; the feedback says which way a number was off."""

    name = "revise"
    styles: ClassVar = {"bare": 1.0}
    threshold = 60.0
    max_tokens = 16

    def question(self, rng: random.Random) -> Question:
        base: Skill = rng.choice((Sums(), Strings()))
        question = base.question(rng)
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

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        right_answer = question.reference["answer"]
        return " ".join(right_answer) if isinstance(right_answer, list) else str(right_answer)

    def judge(self, answer: Answer) -> Verdict:
        if not isinstance(answer.reference, dict):
            return right(False, "no reference")
        base: Skill = Sums() if answer.reference["skill"] == "sums" else Strings()
        return base.judge(Answer(answer.prompt, answer.response, answer.reference["answer"]))
