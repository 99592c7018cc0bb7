"""Find out from a few labelled words which labelling rule is in force, and apply it to another word."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import ClassVar

from holdfast.axes.judge import Answer, Verdict
from holdfast.skills.base import Question, Skill, ask, right
from holdfast.skills.lexicon import CATEGORIES, LABELS

Labelled = tuple[str, str]
"""(word, label)."""

RULES = 8
"""As many rules as labels: rule r gives each kind of words another label, and each kind every label under some rule."""


def label(kind: str, rule: int) -> str:
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

    def question(self, rng: random.Random) -> Question:
        shown, new = self.labelled(rng)
        word, given = rng.choice(new)
        text = f"{write(shown)}\n{word}"
        return Question(text, ask(text), given, {"asked": [(word, given)]})

    def labelled(self, rng: random.Random) -> tuple[list[Labelled], list[Labelled]]:
        """One or two words of each of two kinds, and the other words of these kinds, in random order."""
        rule, shown, new = rng.randrange(RULES), [], []
        for kind in rng.sample(list(CATEGORIES), 2):
            words, many = rng.sample(CATEGORIES[kind], 8), rng.randint(1, 2)
            shown += [(word, label(kind, rule)) for word in words[:many]]
            new += [(word, label(kind, rule)) for word in words[many:]]
        rng.shuffle(shown)
        rng.shuffle(new)
        return shown, new

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return write(question.facts["asked"])

    def judge(self, answer: Answer) -> Verdict:
        found = answer.response.replace(":", " ").strip(" .").split(" ")[-1]
        return right(found == answer.reference, f"rule gives {answer.reference}")


def write(labelled: Iterable[Labelled]) -> str:
    """Words with their labels, a line each. The answer repeats the word, so that its label follows as it did before."""
    return "\n".join(f"{word}: {label}" for word, label in labelled)
