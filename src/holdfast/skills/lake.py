"""Frozen Lake: from a map and a position to a move that starts a shortest safe path."""

from __future__ import annotations

import random
from collections import deque
from typing import ClassVar

from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.skills.base import Question, Skill, binary_verdict, single_turn_prompt

MOVES = {"left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0)}
SIZE = 3


def compute_goal_distances(grid: list[str]) -> dict[tuple[int, int], int]:
    """Steps to the goal from every cell it can be reached from without entering a hole."""
    goal = next((r, c) for r in range(SIZE) for c in range(SIZE) if grid[r][c] == "G")
    distances, queue = {goal: 0}, deque([goal])
    while queue:
        r, c = queue.popleft()
        for dr, dc in MOVES.values():
            cell = (r + dr, c + dc)
            if cell not in distances and all(0 <= x < SIZE for x in cell) and grid[cell[0]][cell[1]] != "H":
                distances[cell] = distances[r, c] + 1
                queue.append(cell)
    return distances


class Lake(Skill):
    """Any move that shortens the safe way to the goal is right [Brockman et al. 2016, arXiv 1606.01540]."""

    name = "lake"
    styles: ClassVar = {"bare": 0.6, "go": 0.4}
    threshold = 30.0
    max_tokens = 8

    def generate_question(self, rng: random.Random) -> Question:
        while True:
            cells = ["." if rng.random() > 0.3 else "H" for _ in range(SIZE * SIZE)]
            cells[rng.randrange(SIZE * SIZE)] = "G"
            grid = ["".join(cells[i : i + SIZE]) for i in range(0, SIZE * SIZE, SIZE)]
            ways = compute_goal_distances(grid)
            starts = [cell for cell, d in ways.items() if d > 0]
            if starts:
                break
        r, c = rng.choice(starts)
        best = [m for m, (dr, dc) in MOVES.items() if ways.get((r + dr, c + dc), 99) < ways[r, c]]
        board = [list(line) for line in grid]
        board[r][c] = "S"
        text = "Lake:\n" + "\n".join(" ".join(line) for line in board) + "\nWhich move?"
        return Question(text, single_turn_prompt(text), best)

    def write_answer(self, question: Question, style: str, rng: random.Random) -> str:
        move = rng.choice(question.reference)
        return move if style == "bare" else f"Go {move}."

    def judge(self, answer: JudgeRequest) -> Verdict:
        named_moves = [w for w in answer.response.replace(".", " ").lower().split() if w in MOVES]
        return binary_verdict(
            len(named_moves) == 1 and named_moves[0] in answer.reference, f"best: {', '.join(answer.reference)}"
        )
