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

    def __init__(self, lookup: float = 0.0) -> None:
        """`lookup`: share of questions whose word stands among the examples, an easier form for pre-training only."""
        self.lookup = lookup

    def question(self, rng: random.Random) -> Question:
        kinds, labels = rng.sample(list(CATEGORIES), 2), rng.sample(LABELS, 2)
        words = [rng.sample(CATEGORIES[kind], 3) for kind in kinds]
        asked = rng.randrange(2)
        shown = [(word, labels[i]) for i in range(2) for word in words[i][: rng.randint(1, 2)]]
        rng.shuffle(shown)
        word = words[asked][0] if self.lookup and rng.random() < self.lookup else words[asked][2]
        lines = "\n".join(f"{word}: {label}" for word, label in shown)
        text = f"{lines}\n{word}:"
        return Question(text, ask(text), labels[asked])

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference

    def judge(self, answer: Answer) -> Verdict:
        return right(answer.response.strip(" .") == answer.reference, f"rule gives {answer.reference}")
