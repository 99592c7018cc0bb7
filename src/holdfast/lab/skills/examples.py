"""Learn a labelling rule from the examples in the prompt and apply it once."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.judges.base import Answer, Verdict
from holdfast.lab.lexicon import CATEGORIES, LABELS
from holdfast.lab.skills.base import Question, Skill, ask, right


class Examples(Skill):
    """Two kinds of words, two made-up labels; the rule is new in every prompt."""

    name = "examples"
    styles: ClassVar = {"bare": 1.0}
    threshold = 60.0
    max_tokens = 8

    def question(self, rng: random.Random) -> Question:
        kinds, labels = rng.sample(list(CATEGORIES), 2), rng.sample(LABELS, 2)
        words = [rng.sample(CATEGORIES[kind], 3) for kind in kinds]
        asked = rng.randrange(2)
        shown = [(word, labels[i]) for i in range(2) for word in words[i][: rng.randint(1, 2)]]
        rng.shuffle(shown)
        text = write(shown, [words[asked][2]])
        return Question(text, ask(text), labels[asked])

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference

    def judge(self, answer: Answer) -> Verdict:
        return right(answer.response.strip(" .") == answer.reference, f"rule gives {answer.reference}")


def write(shown: list[tuple[str, str]], asked: list[str]) -> str:
    """The examples, then the words to label; each label begins a line, as it does in the answer, and is one token."""
    lines = [f"{label}: {word}" for word, label in shown]
    return "\n".join([*lines, f"?: {', '.join(asked)}"])
