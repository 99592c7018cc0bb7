"""The frozen lake as an environment: walk to the goal move by move, told after each where one stands."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.errors import UserError
from holdfast.skills.lake import MOVES, SIZE, compute_goal_distances

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row


class LakeWalk(Environment):
    """Walk over the frozen lake to the goal, one move a turn. [Brockman et al. 2016, arXiv 1606.01540]

    What it does: shows the map of a `lab:lake` question; after every move it shows where the model stands now. The
    episode ends at the goal (reward 1), in a hole (0) or after `turns` moves. An answer that is no single move costs
    `penalty` and a turn.

    When it helps: to see that a model acts over several turns, where `lab:lake` asks for the first move alone.

    When it fails: maps are small; a model that has learned the first move by heart gets far.

    Columns: rows of `lab:lake`, or any whose last user turn holds such a map.
    """

    paper: ClassVar[str] = "Brockman et al. 2016, arXiv 1606.01540"

    turns: int = Field(12, ge=1, description="Most moves of an episode.")
    penalty: float = Field(0.1, ge=0, description="What an answer that is no move costs.")

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        text = row.prompt[-1]["content"] if row.prompt else ""
        lines = [line.replace(" ", "") for line in str(text).splitlines()]
        grid = [line for line in lines if len(line) == SIZE and set(line) <= set(".HGS")]
        if len(grid) != SIZE or sum(line.count("S") for line in grid) != 1 or not any("G" in line for line in grid):
            raise UserError(f"{row.beginning!r}: no map of {SIZE} lines with one S and a G; give rows of lab:lake")
        at = next((r, line.index("S")) for r, line in enumerate(grid) if "S" in line)
        free = [line.replace("S", ".") for line in grid]
        if at not in compute_goal_distances(free):
            raise UserError(f"{row.beginning!r}: no safe way leads from S to G; give rows of lab:lake")
        return {"grid": free, "at": list(at)}, [dict(message) for message in row.prompt]  # type: ignore[misc]

    def step(self, state: dict[str, Any], action: str) -> Turn:
        named_moves = [word for word in action.replace(".", " ").lower().split() if word in MOVES]
        if len(named_moves) != 1:
            note = f"Say one of {', '.join(MOVES)}."
            return Turn(state, _map_messages(note, state), -self.penalty, note="no single move")
        down, right = MOVES[named_moves[0]]
        row = min(max(state["at"][0] + down, 0), SIZE - 1)  # the shore holds
        column = min(max(state["at"][1] + right, 0), SIZE - 1)
        walk = {**state, "at": [row, column]}
        here = state["grid"][row][column]
        if here in "GH":
            at_goal = here == "G"
            return Turn(walk, [], float(at_goal), True, passed=at_goal, note="the goal" if at_goal else "a hole")
        return Turn(walk, _map_messages("", walk), 0.0)


def _map_messages(words: str, walk: dict[str, Any]) -> list[Message]:
    """The map with the present position, as the question shows it."""
    cells = [list(line) for line in walk["grid"]]
    row, column = walk["at"]
    cells[row][column] = "S"
    board = "\n".join(" ".join(line) for line in cells)
    return [{"role": "user", "content": f"{words} Lake:\n{board}\nWhich move?".strip()}]


def shortest_move(walk: dict[str, Any], rng: random.Random) -> str:
    """A move that starts a shortest safe way: what a perfect walker says."""
    ways, (row, column) = compute_goal_distances(walk["grid"]), walk["at"]
    best = [m for m, (r, c) in MOVES.items() if ways.get((row + r, column + c), ways[row, column]) < ways[row, column]]
    return rng.choice(best)
