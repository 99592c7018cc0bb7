"""Find out from a few labelled words which labelling rule is in force, and apply it to another word."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import CATEGORIES, LABELS

LabelledWord = tuple[str, str]
"""(word, label)."""

RULES = 8
"""As many rules as labels: rule r gives each kind of words another label, and each kind every label under some rule."""


def label_of_kind(kind: str, rule: int) -> str:
    """The made-up label of a kind of words."""
    return LABELS[(2 * list(CATEGORIES).index(kind) + rule) % RULES]


class Examples(Skill):
    """Two kinds of words with their labels; a further word of either kind gets the label of its kind.

    Labels that are wholly new in every prompt were tried and not learned by a model this small (`lab/drills.py`).
    """

    name = "examples"
    styles: ClassVar = {"line": 1.0}
    threshold = 60.0
    max_tokens = 8

    def generate_question(self, rng: random.Random) -> Question:
        examples, new = self.draw_labelled_words(rng)
        word, answer_label = rng.choice(new)
        text = f"{format_labelled_words(examples)}\n{word}"
        return Question(text, single_turn_prompt(text), answer_label, {"asked": [(word, answer_label)]})

    def draw_labelled_words(self, rng: random.Random) -> tuple[list[LabelledWord], list[LabelledWord]]:
        """One or two words of each of two kinds, and the other words of these kinds, in random order."""
        rule, examples, new = rng.randrange(RULES), [], []
        for kind in rng.sample(list(CATEGORIES), 2):
            words, many = rng.sample(CATEGORIES[kind], 8), rng.randint(1, 2)
            examples += [(word, label_of_kind(kind, rule)) for word in words[:many]]
            new += [(word, label_of_kind(kind, rule)) for word in words[many:]]
        rng.shuffle(examples)
        rng.shuffle(new)
        return examples, new

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return format_labelled_words(question.facts["asked"])

    def judge(self, answer: JudgeRequest) -> Verdict:
        last_word = answer.response.replace(":", " ").strip(" .").split(" ")[-1]
        return binary_verdict(last_word == answer.reference, f"rule gives {answer.reference}")


def format_labelled_words(pairs: Iterable[LabelledWord]) -> str:
    """Words with their labels, a line each. The answer repeats the word, so that its label follows as it did before."""
    return "\n".join(f"{word}: {label}" for word, label in pairs)
