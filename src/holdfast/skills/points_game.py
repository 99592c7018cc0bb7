"""The card game of the laboratory as an environment: three tries, each told what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.errors import UserError
from holdfast.skills.points import read_terms

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row


class PointsGame(Environment):
    """Reach a number from all cards, with tries and a verifier's message. [Chu et al. 2025, arXiv 2501.17161]

    What it does: asks a question of `lab:points`. An answer that reaches the number from each card once is worth 1 and
    ends the episode; a wrong one is told what is wrong and tried again. An equation of the right cards that misses the
    number is worth 0, one of other cards `wrong_cards`, and what is no equation `no_equation`.

    When it helps: to compare learning from answers with learning from rewards: `lab:points-ten` is the rule that is
    trained on, `lab:points-rank` the one that is not.

    When it fails: the numbers are the paper's (5, -1, -2 to -4, -3) divided by 5, but for a legal miss, which is 0
    here: with its -0.2 a model that tries is punished like one that does not.

    Columns: rows of `lab:points`, or any whose reference holds `target` and `cards`.
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    turns: int = Field(3, ge=1, description="Most tries.")
    wrong_cards: float = Field(-0.2, le=0, description="What an equation of other numbers than the cards is worth.")
    no_equation: float = Field(-0.4, le=0, description="What an answer is worth that is no equation.")

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        reference = row.gold
        if not isinstance(reference, dict) or not {"target", "cards"} <= set(reference):
            raise UserError(f"{row.beginning!r}: its reference holds no target and cards; give rows of lab:points")
        return {"target": reference["target"], "cards": sorted(reference["cards"])}, [*row.prompt]

    def step(self, state: dict[str, Any], action: str) -> Turn:
        terms = read_terms(action)
        if terms is None:
            return _reject_answer(state, self.no_equation, "Not an equation. Try again.")
        if sorted(map(abs, terms)) != state["cards"]:
            return _reject_answer(state, self.wrong_cards, "Not the cards. Try again.")
        total = sum(terms)
        if total != state["target"]:
            way = "high" if total > state["target"] else "low"
            return _reject_answer(state, 0.0, f"Too {way}. Try again.")
        return Turn(state, [], 1.0, done=True, passed=True)


def _reject_answer(state: dict[str, Any], reward: float, text: str) -> Turn:
    return Turn(state, [{"role": "user", "content": text}], reward, note=text)
