"""Translate between two small invented languages that differ in words and word order."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import CONCEPTS, LUM, TAVI

Phrase = tuple[str | None, str]
"""(adjective or none, noun)."""


def write_lum(subject: Phrase, verb: str, target: Phrase) -> str:
    """Lum: subject, verb, object; adjectives before their noun."""
    phrases = [f"{LUM['adjective'][a]} {LUM['noun'][n]}" if a else LUM["noun"][n] for a, n in (subject, target)]
    return f"{phrases[0]} {LUM['verb'][verb]} {phrases[1]}"


def write_tavi(subject: Phrase, verb: str, target: Phrase) -> str:
    """Tavi: verb first; adjectives after their noun."""
    phrases = [f"{TAVI['noun'][n]} {TAVI['adjective'][a]}" if a else TAVI["noun"][n] for a, n in (subject, target)]
    return f"{TAVI['verb'][verb]} {phrases[0]} {phrases[1]}"


class Cipher(Skill):
    """Lum to Tavi and back."""

    name = "cipher"
    styles: ClassVar = {"bare": 1.0}
    threshold = 60.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        def draw_phrase() -> Phrase:
            return (rng.choice(CONCEPTS["adjective"]) if rng.random() < 0.5 else None, rng.choice(CONCEPTS["noun"]))

        sentence = (draw_phrase(), rng.choice(CONCEPTS["verb"]), draw_phrase())
        to_tavi = rng.random() < 0.5
        source, target = (
            (write_lum(*sentence), write_tavi(*sentence)) if to_tavi else (write_tavi(*sentence), write_lum(*sentence))
        )
        text = f"{'Lum to Tavi' if to_tavi else 'Tavi to Lum'}: {source}"
        return Question(text, single_turn_prompt(text), target)

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return question.reference

    def judge(self, answer: JudgeRequest) -> Verdict:
        return binary_verdict(answer.response.strip(" .") == answer.reference, answer.reference)
