"""Translate between two small invented languages that differ in words and word order."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import Answer, Verdict
from holdfast.skills.base import Question, Skill, ask, right
from holdfast.skills.lexicon import CONCEPTS, LUM, TAVI

Phrase = tuple[str | None, str]
"""(adjective or none, noun)."""


def lum(subject: Phrase, verb: str, target: Phrase) -> str:
    """Lum: subject, verb, object; adjectives before their noun."""
    spoken = [f"{LUM['adjective'][a]} {LUM['noun'][n]}" if a else LUM["noun"][n] for a, n in (subject, target)]
    return f"{spoken[0]} {LUM['verb'][verb]} {spoken[1]}"


def tavi(subject: Phrase, verb: str, target: Phrase) -> str:
    """Tavi: verb first; adjectives after their noun."""
    spoken = [f"{TAVI['noun'][n]} {TAVI['adjective'][a]}" if a else TAVI["noun"][n] for a, n in (subject, target)]
    return f"{TAVI['verb'][verb]} {spoken[0]} {spoken[1]}"


class Cipher(Skill):
    """Lum to Tavi and back."""

    name = "cipher"
    styles: ClassVar = {"bare": 1.0}
    threshold = 60.0
    max_tokens = 16

    def question(self, rng: random.Random) -> Question:
        def phrase() -> Phrase:
            return (rng.choice(CONCEPTS["adjective"]) if rng.random() < 0.5 else None, rng.choice(CONCEPTS["noun"]))

        sentence = (phrase(), rng.choice(CONCEPTS["verb"]), phrase())
        to_tavi = rng.random() < 0.5
        source, target = (lum(*sentence), tavi(*sentence)) if to_tavi else (tavi(*sentence), lum(*sentence))
        text = f"{'Lum to Tavi' if to_tavi else 'Tavi to Lum'}: {source}"
        return Question(text, ask(text), target)

    def answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference

    def judge(self, answer: Answer) -> Verdict:
        return right(answer.response.strip(" .") == answer.reference, answer.reference)
