"""Answer, be told what is wrong, answer again: the laboratory's second tries as an environment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.axes.judge import JudgeRequest
from holdfast.errors import UserError
from holdfast.skills.base import readable_answer
from holdfast.skills.lexicon import LETTERS
from holdfast.skills.strings import Strings
from holdfast.skills.sums import Sums, find_last_number

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row


class SequentialRevision(Environment):
    """Answer, be told what is wrong, answer again, until it is right. [Chu et al. 2025, arXiv 2501.17161]

    What it does: asks the question of a row of `lab:revise`. A right answer is worth 1 and ends the episode; a wrong
    one costs, and is told what is wrong with it in the same conversation: whether a number is too high or too low,
    whether letters are wrong or only their order. With `begin: wrong_try` the first try is the row's, a wrong one, and
    the model's turns begin at what that one is told.

    When it helps: to learn to use a verifier's message, which single answers do not teach; to see in how many tries a
    model comes to what it does not know at once.

    When it fails: a message that says which way a number is off turns any question into a search: given enough tries
    it is found without being known. The share that is right at the first turn stands beside the score for that reason.
    For questions of your own there is `judged` with `turns`, which tells what a judge says.

    Columns: rows of `lab:revise`, or any whose reference is a whole number or a list of letters.

    Formula, for the answers y_1 .. y_k and the messages v_1 .. v_(k-1) so far, x the question:

        the model is asked with  x, y_1, v_1, .., y_(k-1), v_(k-1)
        r(y_k) = 1 right | wrong | unreadable

    Paper's settings: five tries; its rewards 5, -1 and -3, here divided by 5.
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    turns: int = Field(5, ge=1, description="Most tries.")
    wrong: float = Field(-0.2, le=0, description="What a wrong answer is worth.")
    unreadable: float = Field(-0.6, le=0, description="What an answer is worth that holds no number, or no letters.")
    begin: Literal["question", "wrong_try"] = Field(
        "question",
        description="`wrong_try`: the row's own wrong first try and what it was told stand before the turns.",
    )

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        gold = row.gold.get("answer") if isinstance(row.gold, dict) else row.gold
        is_number = isinstance(gold, int) and not isinstance(gold, bool)
        if not is_number and not (isinstance(gold, list) and gold and set(map(str, gold)) <= set(LETTERS)):
            raise UserError(
                f"{row.beginning!r}: its reference is no whole number and no list of letters; give rows of lab:revise"
            )
        first = next((i for i, message in enumerate(row.prompt) if message["role"] == "user"), None)
        if first is None or (self.begin == "wrong_try" and len(row.prompt) < first + 3):
            what = "wrong first try" if self.begin == "wrong_try" else "question"
            raise UserError(f"{row.beginning!r}: there is no {what}; give rows of lab:revise")
        return {"answer": gold}, [*(row.prompt if self.begin == "wrong_try" else row.prompt[: first + 1])]

    def step(self, state: dict[str, Any], action: str) -> Turn:
        answer, gold = readable_answer(action), state["answer"]
        judge = Sums() if isinstance(gold, int) else Strings()
        if judge.judge(JudgeRequest([], answer, gold)).passed:
            return Turn(state, [], 1.0, done=True, passed=True)
        fault, is_readable = find_fault(answer, gold)
        message = f"{fault} Try again."
        reward = self.wrong if is_readable else self.unreadable
        return Turn(state, [{"role": "user", "content": message}], reward, note=message)


def find_fault(answer: str, gold: int | list[str]) -> tuple[str, bool]:
    """What is wrong with a wrong answer, in the laboratory's words, and whether it holds an answer at all."""
    if isinstance(gold, int):
        number = find_last_number(answer)
        return ("Not a number.", False) if number is None else (f"Too {'high' if number > gold else 'low'}.", True)
    letters = [word for word in answer.replace(",", " ").replace(".", " ").split() if word in LETTERS]
    if not letters:
        return "No letters.", False
    if letters == gold:
        return "Only the letters.", True
    return ("Wrong order." if sorted(letters) == sorted(gold) else "Wrong letters."), True
