"""Answer from a passage in the prompt, or say that it is not there."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import ANIMALS, FOODS, JOBS, PEOPLE, TOWNS

KINDS = {
    "home": ("{p} lives in {o}.", "Where does {p} live?", TOWNS),
    "pet": ("{p} has a {o}.", "Which pet does {p} have?", ANIMALS),
    "food": ("{p} eats {o}.", "What does {p} eat?", FOODS),
    "job": ("{p} is a {o}.", "What work does {p} do?", JOBS),
}
REFUSAL = "The text does not say."

FactKey = tuple[str, str]
"""(person, kind of fact)."""


class Reading(Skill):
    """Look it up, or say that the text does not say."""

    name = "reading"
    styles: ClassVar = {"bare": 0.5, "sentence": 0.5}
    threshold = 90.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        passage, objects, missing = self.generate_passage(rng)
        hidden = rng.random() < 0.3
        person, kind = rng.choice(missing if hidden else list(objects))
        reference = objects.get((person, kind))
        text = f"Text: {passage}\n{KINDS[kind][1].format(p=person)}"
        return Question(
            text, single_turn_prompt(text), reference or REFUSAL, {"person": person, "kind": kind, "object": reference}
        )

    def generate_passage(self, rng: random.Random) -> tuple[str, dict[FactKey, str], list[FactKey]]:
        """`(text, what it says, what it leaves out)`, mostly about one person, sometimes about two."""
        people = rng.sample(PEOPLE, rng.choice((1, 1, 1, 1, 2)))
        return self.compose_passage(rng, people, rng.randint(2, 3) if len(people) == 1 else rng.randint(3, 4))

    def compose_passage(
        self, rng: random.Random, people: list[str], facts: int
    ) -> tuple[str, dict[FactKey, str], list[FactKey]]:
        """A passage of so many facts about the people."""
        pairs = [(p, k) for p in people for k in KINDS]
        objects = {pair: rng.choice(KINDS[pair[1]][2]) for pair in rng.sample(pairs, facts)}
        text = " ".join(KINDS[k][0].format(p=p, o=o) for (p, k), o in objects.items())
        return text, objects, [pair for pair in pairs if pair not in objects]

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        person, kind, fact_object = (question.facts[k] for k in ("person", "kind", "object"))
        if fact_object is None:
            return REFUSAL
        return fact_object if style == "bare" else KINDS[kind][0].format(p=person, o=fact_object)

    def judge(self, answer: JudgeRequest) -> Verdict:
        words = answer.response.replace(".", " ").split()
        if answer.reference == REFUSAL:
            return binary_verdict("not" in words, "should refuse")
        return binary_verdict("not" not in words and answer.reference in words, f"in the text: {answer.reference}")
