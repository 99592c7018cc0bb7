"""Find the way as in V-IRL, in words: instructions, what one sees, and one action at a time, said in either way."""

from __future__ import annotations

import json
import random
from typing import Any, ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt
from holdfast.skills.json_fields import read_text_field
from holdfast.skills.lexicon import PLACES

HEADINGS = ("north", "northeast", "east", "southeast", "south", "southwest", "west", "northwest")
TURNS = ("left", "right", "slightly left", "slightly right")
BEARINGS = (
    "ahead of you", "on your right front", "on your right", "on your right rear",
    "behind you", "on your left rear", "on your left", "on your left front",
)  # fmt: skip
"""Where something is, by eighths of a circle from straight ahead."""
CANDIDATES = 5
"""Points between two corners, of which each is there or not with equal chance."""
PROMPT = """\
[Task]
You are an expert in navigation. You follow instructions, and your observations and actions so far are listed. Find the
sentence of the instructions that is to be carried out now, and give the action for the latest observation.

[Instruction]
{instructions}

[Action space]
"forward()": move forward one step
"turn_direction(x)": turn towards x, which is one of {directions}
"stop()": the destination is reached

[Observations and actions sequence]
{history}

[Output]
{{
  "current observation": "the latest observation",
  "current instruction": "the sentence that is carried out now",
  "action": "one of the action space"
}}"""
Point = list[str]
"""What is seen, the right action, and the sentence that says so."""


def name_turn(before: float, after: float) -> str:
    """How one turns from a heading to another, in degrees, the shorter way round: to 45 degrees slightly.

    From 350 to 10 is slightly right. Half a circle is right, by convention.

    Raises:
        ValueError: If nothing is turned.
    """
    change = -((before - after + 180) % 360 - 180)  # in (-180, 180]
    if not change:
        raise ValueError(f"from {before} to {after} degrees nothing is turned")
    side = "right" if change > 0 else "left"
    return f"slightly {side}" if abs(change) <= 45 else side


def write_point(route: dict[str, Any], at: int) -> str:
    """The question at a point of a route: instructions, actions that can be taken, and what was seen and done so far.

    Args:
        route: `instructions`, `points`, and `absolute`: whether turns are said as points of the compass.
        at: Number of the point, from 0.
    """
    sights = [f"O_{number}: {point[0]}" for number, point in enumerate(route["points"][: at + 1], 1)]
    acts = [f"A_{number}: {point[1]}" for number, point in enumerate(route["points"][:at], 1)]
    lines = [line for pair in zip(sights, [*acts, f"A_{at + 1}:"], strict=True) for line in pair]
    return PROMPT.format(
        instructions="\n".join(f"{number}. {text}" for number, text in enumerate(route["instructions"], 1)),
        directions=", ".join(f"'{name}'" for name in (HEADINGS if route["absolute"] else TURNS)),
        history="\n".join(lines),
    )


def _describe_place(place: str, toward: int, heading: int) -> str:
    """A landmark that stands in the direction `toward`, as one sees it who looks in another; both in eighths."""
    return f"a {place} is {BEARINGS[(toward - heading) % 8]}"


def draw_route(rng: random.Random, absolute: bool) -> dict[str, Any]:
    """A route of two or three straight legs: its instructions, and what is seen and to be done at each point."""
    heading, corners = rng.randrange(8), rng.randint(2, 3)
    places = rng.sample(PLACES, corners)
    instructions: list[str] = []
    points: list[Point] = []
    scene, toward = "", 0  # what stands at the corner where one is, and in which direction
    for number, place in enumerate(places):
        target = (heading + rng.randint(1, 7)) % 8
        turn = name_turn(45 * heading, 45 * target)
        sentence = f"{'T' if number else 'First, t'}urn {turn} to face {HEADINGS[target]}."
        instructions.append(sentence)
        action = f"turn_direction({HEADINGS[target] if absolute else turn})"
        points.append([_write_observation(scene, toward, heading), action, sentence])
        heading, is_last = target, number == corners - 1
        goal = "the destination" if is_last else "the next intersection"
        side = (heading + rng.choice((2, -2))) % 8
        instructions.append(f"Move forward until you reach {goal} where {_describe_place(place, side, heading)}.")
        walk = [_write_observation(scene, toward, heading)]
        walk += [_write_observation("", 0, heading) for _ in range(CANDIDATES) if rng.random() < 0.5]
        points += [[observation, "forward()", instructions[-1]] for observation in walk]
        scene, toward = ("" if is_last else place), side
    observation = f"{_describe_place(places[-1], toward, heading).capitalize()}."
    points.append([observation, "stop()", instructions[-1]])
    return {"instructions": instructions, "points": points, "absolute": absolute}


def _write_observation(scene: str, toward: int, heading: int) -> str:
    """What is seen at a corner with a landmark, or where there is none."""
    if not scene:
        return "No landmarks nearby."
    return f"{_describe_place(scene, toward, heading).capitalize()}. You observe an intersection."


class Navigation(Skill):
    """One action on a way through streets, said either way [Chu et al. 2025, arXiv 2501.17161]."""

    name = "navigation"
    styles: ClassVar = {"json": 1.0}
    threshold = 0.0  # no laboratory model is taught it
    max_tokens = 256
    ways: ClassVar[tuple[bool, ...]] = (True, False)
    """Whether turns are said as points of the compass, drawn from these."""

    def generate_question(self, rng: random.Random) -> Question:
        route = draw_route(rng, rng.choice(self.ways))
        at = rng.randrange(len(route["points"]))
        text = write_point(route, at)
        return Question(text, single_turn_prompt(text), {**route, "at": at})

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        observation, action, sentence = question.reference["points"][question.reference["at"]]
        fields = {"current observation": observation, "current instruction": sentence, "action": action}
        return json.dumps(fields, indent=2)

    def judge(self, answer: JudgeRequest) -> Verdict:
        action = read_action(answer.response)
        return binary_verdict(action == answer.reference["points"][answer.reference["at"]][1], action)


def read_action(answer: str) -> str:
    """The action of an answer, without quotes and capitals; empty where there is none."""
    return (read_text_field(answer, "action") or "").replace("'", "").replace('\\"', "").strip().lower()


class NavigationCompass(Navigation):
    """One action on a way through streets, turns said as points of the compass."""

    name = "navigation-compass"
    ways: ClassVar = (True,)


class NavigationRelative(Navigation):
    """One action on a way through streets, turns said as left and right."""

    name = "navigation-relative"
    ways: ClassVar = (False,)
