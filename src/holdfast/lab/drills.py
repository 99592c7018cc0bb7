"""Other forms of skills, for pre-training only: those the first cycle had, and a denser one for the second.

The first cycle asked harder questions: two or three people in every passage, labels new in every prompt. In 15 million
tokens the model learned to match the kind of fact but not the person (70 % right), and stayed at chance on the labels;
dictionaries, copying and several questions a prompt were tried for some 100,000 labels each and changed nothing.
"""

from __future__ import annotations

import random

from holdfast.skills.base import Question, single_turn_prompt
from holdfast.skills.examples import Examples, format_labelled_words
from holdfast.skills.lexicon import CATEGORIES, LABELS, PEOPLE
from holdfast.skills.reading import FactKey, Reading
from holdfast.skills.story import BASIC, Step
from holdfast.skills.story_graded import StoryGraded, make_mistake, rate_of_mistakes, write_path, write_steps_again


class NewLabels(Examples):
    """Two labels drawn anew for every prompt; the answer is the label alone.

    Args:
        lookup: Share of the questions whose word stands among the examples.
    """

    def __init__(self, lookup: float = 0.0) -> None:
        self.lookup = lookup

    def generate_question(self, rng: random.Random) -> Question:
        kinds, labels = rng.sample(list(CATEGORIES), 2), rng.sample(LABELS, 2)
        words = [rng.sample(CATEGORIES[kind], 3) for kind in kinds]
        target = rng.randrange(2)
        examples = [(word, labels[i]) for i in range(2) for word in words[i][: rng.randint(1, 2)]]
        rng.shuffle(examples)
        word = words[target][0] if self.lookup and rng.random() < self.lookup else words[target][2]
        text = f"{format_labelled_words(examples)}\n{word}:"
        return Question(text, single_turn_prompt(text), labels[target])

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference


class ManyPeople(Reading):
    """Passages on two or three people."""

    def generate_passage(self, rng: random.Random) -> tuple[str, dict[FactKey, str], list[FactKey]]:
        people = rng.sample(PEOPLE, rng.randint(2, 3))
        return self.compose_passage(rng, people, rng.randint(3, 4))


class Listing(Examples):
    """More words and their labels under the same rule. Which words come is chance, so only the labels are trained."""

    only = tuple(LABELS)

    def generate_question(self, rng: random.Random) -> Question:
        examples, new = self.draw_labelled_words(rng)
        return Question(
            format_labelled_words([*examples, *new]),
            single_turn_prompt(format_labelled_words(examples)),
            new[-1][1],
            {"asked": new},
        )


class WithMistakes(StoryGraded):
    """Word problems as the base saw them, answered with as many mistakes as steps of their kind are said to get."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = BASIC

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        def draw_mistake(number: int, a: int, operator: str, b: int) -> int | None:
            return make_mistake(rng, a, operator, b) if rng.random() < rate_of_mistakes(a, operator, b) else None

        def spoil_steps(steps: list[Step]) -> list[Step]:
            return write_steps_again(steps, draw_mistake)

        return write_path(question.facts["steps"], style, spoil_steps)
