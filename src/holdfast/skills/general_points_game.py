"""The card game of the paper as an environment: five tries at 24, each told what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError
from holdfast.skills.formulas import find_faults, is_solvable
from holdfast.skills.general_points import TARGET, GeneralPoints, read_cards, read_formula

if TYPE_CHECKING:
    from collections.abc import Sequence

    from holdfast.data.rows import Message, Row


class GeneralPointsGame(Environment):
    """Make 24 of four cards, with tries and a verifier's message. [Chu et al. 2025, arXiv 2501.17161]

    What it does: asks a question of `lab:general-points` and grades the formula in the answer, which is JSON with the
    keys cards, number and formula. A solution ends the episode; of a wrong one the model is told what is wrong, in the
    same conversation. After `tries` graded answers the next is not read any more: it costs `step_limit`, and the
    episode is cut. Rewards are the paper's. They add up, each fault of syntax by itself: an answer with a wrong number
    that leaves one out has -4. Illegal characters, of which a space is one, and an answer without a formula cost
    `illegal_formula` alone. Where the cards are in a picture, the cards that the answer lists are looked at first.

    When it helps: the paper's comparison on a real model. `lab:general-points-ten` is trained on, `-rank` is its other
    rule; `-black`, `-red` and `-black-rank` show the hand as a picture. `points` is the game for laboratory models.

    When it fails: 41 of 100 hands of `lab:general-points-ten` have no face card and say nothing about the rule. An
    answer that repeats a fault of syntax without end earns as many times -3.

    Columns: rows of `lab:general-points`, or any whose reference holds `cards`, `numbers` and perhaps a `target`.

    Formula, with k faults of syntax, in exact fractions (8/(3-8/3) is 24, a division by zero is no number):

        r = 5 for a solution; -1 for right numbers that make another; +1 if only ) are missing at its end
        r = -3 k - 2 [a number that is wrong or too often] - 2 [a number not used]
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    turns: int = Field(6, ge=1, description="Most turns of the model: the graded ones, and one that is cut.")
    tries: int = Field(5, ge=1, description="Answers that are graded.")
    correct_solution: float = Field(5.0, allow_inf_nan=False, description="What a solution is worth.")
    partial_solution: float = Field(1.0, allow_inf_nan=False, description="What one is worth that only lacks a ).")
    no_solution: float = Field(-1.0, allow_inf_nan=False, description="What a formula is worth that makes another.")
    incorrect_vision: float = Field(-1.5, allow_inf_nan=False, description="What cards read wrongly are worth.")
    incorrect_number: float = Field(-2.0, allow_inf_nan=False, description="What wrong, or unused, numbers are worth.")
    illegal_formula: float = Field(-3.0, allow_inf_nan=False, description="What a fault of syntax is worth.")
    step_limit: float = Field(-1.0, allow_inf_nan=False, description="What the answer after the last try is worth.")

    def example_rows(self) -> Sequence[Row]:
        return GeneralPoints().generate_rows(3, "train", 0)

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        reference = row.gold
        if not isinstance(reference, dict) or not {"cards", "numbers"} <= set(reference):
            raise UserError(
                f"{row.beginning!r}: its reference holds no cards and numbers; give rows of lab:general-points"
            )
        cards, numbers, target = reference["cards"], reference["numbers"], reference.get("target", TARGET)
        if not _is_hand(cards, numbers) or type(target) is not int:
            raise UserError(
                f"{row.beginning!r}: its reference must hold one to four cards, and of each a whole number from 0"
            )
        if not is_solvable(numbers, target):
            raise UserError(f"{row.beginning!r}: no formula makes {target} of {numbers}; leave the row out")
        is_picture = any(message.get("images") for message in row.prompt)
        state = {
            "cards": [*map(str, cards)],
            "numbers": [*numbers],
            "target": target,
            "is_picture": is_picture,
            "tries": 0,
        }
        return state, [*row.prompt]

    def step(self, state: dict[str, Any], action: str) -> Turn:
        if state["tries"] >= self.tries:
            return Turn(state, [], self.step_limit, truncated=True, note="step_limit_reached")
        rewards, faults = self._grade_answer(state, final_answer(action))
        state = {**state, "tries": state["tries"] + 1}
        if not faults:
            return Turn(state, [], rewards, done=True, passed=True)
        note = ", ".join(dict.fromkeys(faults))  # what is wrong several times is said once
        return Turn(state, [{"role": "user", "content": f"You failed this trial because {note}."}], rewards, note=note)

    def _grade_answer(self, state: dict[str, Any], answer: str) -> tuple[float, list[str]]:
        """The reward, and what is wrong."""
        if state["is_picture"] and sorted(read_cards(answer)) != sorted(map(str.upper, state["cards"])):
            return self.incorrect_vision, ["you recognized wrong cards"]
        formula = read_formula(answer)
        if formula is None:
            return self.illegal_formula, ["your answer holds no formula"]
        faults = find_faults(formula, state["numbers"], state["target"])
        if not faults:
            return self.correct_solution, []
        rewards = {
            "partial_solution": self.partial_solution,
            "illegal_formula": self.illegal_formula,
            "incorrect_number": self.incorrect_number,
            "no_solution": self.no_solution,
        }
        return sum(rewards[fault.kind] for fault in faults), [fault.message for fault in faults]


def _is_hand(cards: Any, numbers: Any) -> bool:
    """Whether these are cards, and what they count."""
    if not isinstance(cards, list) or not isinstance(numbers, list) or len(cards) != len(numbers):
        return False
    return 1 <= len(numbers) <= 4 and all(type(number) is int and number >= 0 for number in numbers)
