"""Follow a route in text, answering with relative or absolute directions (V-IRL in small)."""

from __future__ import annotations

import random
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.lexicon import PLACES

COMPASS = ["north", "east", "south", "west"]


def compute_moves(facing: str, turns: list[str], absolute: bool) -> list[str]:
    """The action at each landmark: relative turns as given, or the compass direction after each."""
    if not absolute:
        return [*turns, "stop"]
    heading, out = COMPASS.index(facing), []
    for turn in turns:
        heading = (heading + {"left": -1, "right": 1, "forward": 0}[turn]) % 4
        out.append(COMPASS[heading])
    return [*out, "stop"]


class Route(Skill):
    """One action for each landmark passed [Chu et al. 2025, arXiv 2501.17161]."""

    name = "route"
    styles: ClassVar = {"list": 1.0}
    threshold = 30.0
    max_tokens = 16

    def generate_question(self, rng: random.Random) -> Question:
        facing, absolute, n = rng.choice(COMPASS), rng.random() < 0.4, rng.randint(2, 4)
        places = rng.sample(PLACES, n + 1)
        turns = [rng.choice(("left", "right", "forward")) for _ in range(n)]
        landmark_turns = [(p, t) for p, t in zip(places, turns, strict=False) if t != "forward"]
        rules = " ".join(f"Turn {turn} at the {place}." for place, turn in landmark_turns)
        place_names = " ".join(places)
        kind = "compass" if absolute else "relative"
        text = (
            f"You face {facing}. {rules} Stop at the {places[-1]}. You pass: {place_names}. Give {kind} moves.".replace(
                "  ", " "
            )
        )
        return Question(text, single_turn_prompt(text), compute_moves(facing, turns, absolute))

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return " ".join(question.reference)

    def judge(self, answer: JudgeRequest) -> Verdict:
        moves = answer.response.replace(",", " ").replace(".", " ").lower().split()
        return binary_verdict(moves == answer.reference, " ".join(moves))
