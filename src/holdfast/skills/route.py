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


def write_route(facing: str, turns: dict[str, str], end: str, passed_places: list[str], kind: str) -> str:
    """The question: where one turns, by place, where one stops, and which landmarks are passed."""
    rules = " ".join(f"Turn {turn} at the {place}." for place, turn in turns.items())
    places = " ".join(passed_places)
    text = f"You face {facing}. {rules} Stop at the {end}. You pass: {places}. Give {kind} moves."
    return text.replace("  ", " ")


class Route(Skill):
    """One action for each landmark passed [Chu et al. 2025, arXiv 2501.17161]."""

    name = "route"
    styles: ClassVar = {"list": 1.0}
    threshold = 30.0
    max_tokens = 16
    compass_share: ClassVar[float] = 0.4
    """How often moves are asked for as points of the compass."""

    def generate_question(self, rng: random.Random) -> Question:
        facing, is_compass, n = rng.choice(COMPASS), rng.random() < self.compass_share, rng.randint(2, 4)
        places = rng.sample(PLACES, n + 1)
        turns = [rng.choice(("left", "right", "forward")) for _ in range(n)]
        landmark_turns = {p: t for p, t in zip(places, turns, strict=False) if t != "forward"}
        kind = "compass" if is_compass else "relative"
        text = write_route(facing, landmark_turns, places[-1], places, kind)
        return Question(text, single_turn_prompt(text), compute_moves(facing, turns, is_compass))

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        return " ".join(question.reference)

    def judge(self, answer: JudgeRequest) -> Verdict:
        moves = answer.response.replace(",", " ").replace(".", " ").lower().split()
        return binary_verdict(moves == answer.reference, " ".join(moves))


class RouteCompass(Route):
    """Moves as points of the compass."""

    name = "route-compass"
    compass_share: ClassVar = 1.0


class RouteRelative(Route):
    """Moves as turns."""

    name = "route-relative"
    compass_share: ClassVar = 0.0
