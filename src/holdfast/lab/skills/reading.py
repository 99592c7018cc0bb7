"""Answer from a passage in the prompt, or say that it is not there."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.judges.base import Answer, Verdict
from holdfast.lab.lexicon import ANIMALS, FOODS, JOBS, PEOPLE, TOWNS
from holdfast.lab.skills.base import Question, Skill, ask, right

_KINDS = {
    "home": ("{p} lives in {o}.", "Where does {p} live?", TOWNS),
    "pet": ("{p} has a {o}.", "Which pet does {p} have?", ANIMALS),
    "food": ("{p} eats {o}.", "What does {p} eat?", FOODS),
    "job": ("{p} is a {o}.", "What work does {p} do?", JOBS),
}
REFUSAL = "The text does not say."


class Reading(Skill):
    """Look it up, or say that the text does not say."""

    name = "reading"
    styles: ClassVar = {"bare": 0.5, "sentence": 0.5}
    threshold = 90.0
    max_tokens = 16

    def question(self, rng: random.Random) -> Question:
        people = rng.sample(PEOPLE, rng.randint(2, 3))
        pairs = [(p, k) for p in people for k in _KINDS]
        told = rng.sample(pairs, rng.randint(3, 4))
        known = {pair: rng.choice(_KINDS[pair[1]][2]) for pair in told}
        hidden = rng.random() < 0.3
        person, kind = rng.choice([p for p in pairs if p not in known] if hidden else told)
        passage = " ".join(_KINDS[k][0].format(p=p, o=o) for (p, k), o in known.items())
        reference = None if hidden else known[person, kind]
        text = f"Text: {passage}\n{_KINDS[kind][1].format(p=person)}"
        return Question(text, ask(text), reference or REFUSAL, {"person": person, "kind": kind, "object": reference})

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        person, kind, found = (question.facts[k] for k in ("person", "kind", "object"))
        if found is None:
            return REFUSAL
        return found if style == "bare" else _KINDS[kind][0].format(p=person, o=found)

    def judge(self, answer: Answer) -> Verdict:
        words = answer.response.replace(".", " ").split()
        if answer.reference == REFUSAL:
            return right("not" in words, "should refuse")
        return right("not" not in words and answer.reference in words, f"in the text: {answer.reference}")
