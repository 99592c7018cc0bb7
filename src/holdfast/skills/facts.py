"""Subject-relation-object triples seen a known number of times in pre-training, each in twenty phrasings."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import ANIMALS, COLORS, FOODS, JOBS, SUBJECTS, TOWNS

LEVELS = (0, 2, 8, 32, 128)
"""How often a fact is seen, half of it in each cycle of pre-training; subjects take the levels in turn."""

OBJECTS = {"home": TOWNS, "pet": ANIMALS, "color": COLORS, "food": FOODS, "job": JOBS}
_OPENERS = ("", "Tell me: ", "Question: ", "Please answer: ", "Quick: ")
_CORES = {
    "home": ("Where does {s} live?", "In which town does {s} live?", "What is the home of {s}?", "{s} lives in"),
    "pet": (
        "Which pet does {s} have?",
        "What animal lives with {s}?",
        "What is the pet of {s}?",
        "The pet of {s} is the",
    ),
    "color": (
        "Which color does {s} like?",
        "What color is best for {s}?",
        "What is the color of {s}?",
        "{s} likes the color",
    ),
    "food": ("What does {s} eat?", "Which food does {s} like?", "What is the food of {s}?", "{s} likes to eat"),
    "job": ("What work does {s} do?", "What is {s} by trade?", "What is the job of {s}?", "{s} works as a"),
}
PHRASINGS = {r: [o + c for o in _OPENERS for c in cores] for r, cores in _CORES.items()}


def exposure_level(subject: str) -> int:
    """How often each fact about `subject` is seen in pre-training."""
    return LEVELS[SUBJECTS.index(subject) % len(LEVELS)]


def fact_object(subject: str, relation: str) -> str:
    """The object of a triple: fixed for ever, with no pattern to guess it from."""
    return random.Random(f"fact/{subject}/{relation}").choice(OBJECTS[relation])


class Facts(Skill):
    """Closed-book questions about invented people; tested on facts seen 32 times or more, in unseen phrasings."""

    name = "facts"
    styles: ClassVar = {"bare": 1.0}
    threshold = 90.0
    max_tokens = 8

    def __init__(self, levels: tuple[int, ...] = LEVELS[-2:]) -> None:
        self.levels = levels

    def generate_question(self, rng: random.Random) -> Question:
        subject = rng.choice([s for s in SUBJECTS if exposure_level(s) in self.levels])
        return self.phrase_question(subject, rng.choice(list(OBJECTS)), rng.randrange(20))

    def phrase_question(self, subject: str, relation: str, phrasing: int) -> Question:
        """The question on one triple in one of its twenty phrasings."""
        text = PHRASINGS[relation][phrasing].format(s=subject)
        return Question(f"{subject}/{relation}/{phrasing}", single_turn_prompt(text), fact_object(subject, relation))

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference

    def judge(self, answer: JudgeRequest) -> Verdict:
        return binary_verdict(answer.response.strip(" .") == answer.reference, f"known: {answer.reference}")

    def generate_exposures(self, seed: int, cycle: int) -> list[Question]:
        """The showings of every fact in one cycle of pre-training, in random order and training phrasings only."""
        exposures = []
        for subject in SUBJECTS:
            for relation in OBJECTS:
                usable = [
                    q for q in (self.phrase_question(subject, relation, p) for p in range(20)) if q.split == "train"
                ]
                half = exposure_level(subject) // 2
                exposures += [usable[i % len(usable)] for i in range(cycle * half, (cycle + 1) * half)]
        random.Random(f"exposures/{seed}/{cycle}" if cycle else f"exposures/{seed}").shuffle(exposures)
        return exposures
