"""A route of the laboratory as an environment: one move at each landmark, the conversation begun afresh after it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.data.pictures.references import PLACEHOLDER, pictures_of
from holdfast.errors import UserError
from holdfast.skills.pictures import map_key, show_picture
from holdfast.skills.route import COMPASS, compute_moves, write_route

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row

TURN = re.compile(r"Turn (left|right) at the (\w+)\.")
MAP = re.compile(r"lab:map/([\w.]+)/?(\w*)")
ROUTE = re.compile(r"You face (\w+)\..* Stop at the (\w+)\. You pass: ([\w ]+)\. Give (compass|relative) moves\.")


class RouteWalk(Environment):
    """Walk a route landmark by landmark. [Chu et al. 2025, arXiv 2501.17161]

    What it does: shows the instructions of a question of `lab:route` and the landmark that is passed now, and takes one
    move. The right one is worth 1, and the walk goes on at the next landmark in a conversation of its own; a wrong one
    costs 1 and is told so. At a second wrong move at one landmark the episode is over; it has succeeded at the last. Of
    `lab:route-map` each landmark is shown as a map of it alone.

    When it helps: decisions that follow each other, each with its own reward. `lab:route-compass` and
    `lab:route-relative` are the two ways to say a move, of which one is trained and the other is not.

    When it fails: every landmark shows all it needs; nothing has to be remembered.

    Columns: rows of `lab:route` or `lab:route-map`.
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    turns: int = Field(10, ge=1, description="Most moves.")
    tries: int = Field(2, ge=1, description="Moves at one landmark.")

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        text = str(row.prompt[-1]["content"]) if row.prompt else ""
        drawing = MAP.fullmatch(str(next(iter(pictures_of(row.prompt)), "")))
        if drawing:
            text = text.replace(PLACEHOLDER, drawing[1].replace(".", " "))
        match = ROUTE.search(text)
        if match is None or match[1] not in COMPASS:
            raise UserError(f"{row.beginning!r}: no route; give rows of lab:route")
        turns = {place: turn for turn, place in TURN.findall(text)}
        places = match[3].split()
        if places[-1] != match[2] or not set(turns) <= set(places):
            raise UserError(
                f"{row.beginning!r}: the route does not pass the landmarks it names; give rows of lab:route"
            )
        state = {"places": places, "turns": turns, "facing": match[1], "compass": match[4] == "compass", "wrong": 0}
        state |= {"style": drawing[2]} if drawing else {}
        return state, _landmark_messages(state)

    def step(self, state: dict[str, Any], action: str) -> Turn:
        here, *others = state["places"]
        turn = state["turns"].get(here, "forward")
        right_move = "stop" if not others else compute_moves(state["facing"], [turn], state["compass"])[0]
        if action.replace(".", " ").lower().split() != [right_move]:
            wrong = {**state, "wrong": state["wrong"] + 1}
            is_over = wrong["wrong"] >= self.tries
            messages: list[Message] = [] if is_over else [{"role": "user", "content": "That is wrong. Try again."}]
            return Turn(wrong, messages, -1.0, done=is_over, note="wrong move")
        if not others:
            return Turn({**state, "places": []}, [], 1.0, done=True, passed=True)
        facing = compute_moves(state["facing"], [turn], absolute=True)[0]
        walk = {**state, "places": others, "facing": facing, "wrong": 0}
        return Turn(walk, [], 1.0, conversation=_landmark_messages(walk))


def _landmark_messages(state: dict[str, Any]) -> list[Message]:
    """The instructions that are left, and the landmark that is passed now."""
    places, kind = state["places"], "compass" if state["compass"] else "relative"
    turns = {place: turn for place, turn in state["turns"].items() if place in places}
    if "style" in state:
        text = write_route(state["facing"], turns, places[-1], [PLACEHOLDER], kind)
        return show_picture(text, map_key(places[:1], state["style"]))
    text = write_route(state["facing"], turns, places[-1], places[:1], kind)
    return [{"role": "user", "content": text}]
