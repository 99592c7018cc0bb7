"""The navigation of the paper as an environment: one action at each point of a way, the conversation begun afresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError
from holdfast.skills.base import single_turn_prompt
from holdfast.skills.json_fields import read_text_field
from holdfast.skills.navigation import Navigation, read_action, write_point

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.data.rows import Message, Row

CROSSING = "intersection"


class NavigationWalk(Environment):
    """Follow instructions through streets, one action at a point. [Chu et al. 2025, arXiv 2501.17161]

    What it does: walks the whole way of a row of `lab:navigation`, from its first point. The answer is JSON with
    current observation, current instruction and action (`forward()`, `turn_direction(x)`, `stop()`). The right action
    is worth 1, and the walk goes on at the next point in a conversation of its own, which lists what was seen and done;
    a wrong one costs 1, or 1.5 where the observation in the answer claims an intersection that is not there, or
    overlooks one. At a second wrong action at one point the episode is over. It has succeeded with the last `stop()`.

    When it helps: the paper's V-IRL without its photographs, for real models. `lab:navigation-compass` (eight points of
    the compass) is trained on, `lab:navigation-relative` (left, right, slightly left, slightly right) is the other way
    to say a turn. `route` is the walk for laboratory models.

    When it fails: the instructions name the turn both ways, so that a model that reads them loses nothing. Turns are
    the shorter way round; in the paper's code they do not wrap at north, and some are to the wrong side.

    Columns: rows of `lab:navigation`, or any whose reference holds `instructions`, `points` (observation, action,
    sentence) and `absolute`.
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    turns: int = Field(48, ge=1, description="Most actions.")
    tries: int = Field(2, ge=1, description="Actions at one point.")
    correct_action: float = Field(1.0, allow_inf_nan=False, description="What the right action is worth.")
    incorrect_action: float = Field(-1.0, allow_inf_nan=False, description="What a wrong one is worth.")
    incorrect_observation: float = Field(
        -1.5, allow_inf_nan=False, description="What a wrong one is worth with an intersection claimed or overlooked."
    )

    def example_rows(self) -> Sequence[Row]:
        return Navigation().generate_rows(3, "train", 0)

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        route = row.gold
        if not isinstance(route, dict) or not {"instructions", "points", "absolute"} <= set(route):
            raise UserError(f"{row.beginning!r}: its reference holds no way; give rows of lab:navigation")
        points = route["points"]
        if not isinstance(points, list) or not points or not all(_is_point(point) for point in points):
            raise UserError(
                f"{row.beginning!r}: each of its points must be a list of observation, action and sentence, in texts"
            )
        if not isinstance(route["instructions"], list):
            raise UserError(f"{row.beginning!r}: its instructions must be a list of sentences")
        state = {key: route[key] for key in ("instructions", "points", "absolute")} | {"at": 0, "wrong": 0}
        return state, _point_messages(state)

    def step(self, state: dict[str, Any], action: str) -> Turn:
        answer = final_answer(action)
        observation, right_action, _ = state["points"][state["at"]]
        if read_action(answer) != right_action.lower():
            return self._refuse_action(state, read_text_field(answer, "current observation") or "", observation)
        walk = {**state, "at": state["at"] + 1, "wrong": 0}
        if walk["at"] == len(state["points"]):
            return Turn(walk, [], self.correct_action, done=True, passed=True)
        return Turn(walk, [], self.correct_action, conversation=_point_messages(walk))

    def _refuse_action(self, state: dict[str, Any], claim: str, observation: str) -> Turn:
        """What is said to a wrong action, and to what it claims to see."""
        claims, is_there = CROSSING in claim.lower(), CROSSING in observation.lower()
        note = "your action is wrong" if claims == is_there else f"you are {'' if is_there else 'not '}at an {CROSSING}"
        reward = self.incorrect_action if claims == is_there else self.incorrect_observation
        wrong = {**state, "wrong": state["wrong"] + 1}
        is_over = wrong["wrong"] >= self.tries
        text = f"You failed this trial because {note}. Try again in the same format."
        messages: list[Message] = [] if is_over else [{"role": "user", "content": text}]
        return Turn(wrong, messages, reward, done=is_over, note=note)


def _is_point(point: Any) -> bool:
    return isinstance(point, list) and len(point) == 3 and all(isinstance(part, str) for part in point)


def _point_messages(state: dict[str, Any]) -> list[Message]:
    """The conversation at the point where one is."""
    return single_turn_prompt(write_point(state, state["at"]))
