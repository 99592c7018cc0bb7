"""Any judge as an environment: an answer is right, or it is told what is wrong and tried again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from holdfast.axes.environment import Environment, Turn, require_deciding_judge
from holdfast.axes.judge import Judge, JudgeRequest
from holdfast.errors import UserError
from holdfast.recipe.choices import JudgeChoice

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from holdfast.data.rows import Message, Row


class JudgeEnvironment(Environment):
    """A judge's score is the reward, and its verdict what is said before the next try. [Chu et al. 2025, 2501.17161]

    What it does: asks a row's question and judges the answer. The reward is the judge's score. With `turns` above 1 a
    wrong answer is told `feedback` and tried again, in the same conversation (sequential revision). The episode ends
    with the first answer that passes.

    When it helps: answers that a judge can score, in one turn or with tries; rows of any task.

    When it fails: a judge that gives partial scores rewards the road as well as the goal. An answer the judge cannot
    read counts as wrong here.

    Columns: a question, and what the judge compares with.
    """

    paper: ClassVar[str] = "Chu et al. 2025, arXiv 2501.17161"

    judge: JudgeChoice = Field(None, description="Decides what an answer is worth.")
    turns: int = Field(1, ge=1, description="Most tries.")
    feedback: str = Field(
        "That is wrong. Try again.",
        description="What a wrong answer is told; {reason} stands for what the judge says of it.",
    )

    @field_validator("judge")
    @classmethod
    def _require_judge(cls, judge: Judge | None) -> Judge | None:
        if judge is None:
            raise ValueError("says nothing of a judge; name one, e.g. judge: number")
        return require_deciding_judge(judge)

    def check_ready(self) -> None:
        assert self.judge is not None
        self.judge.check_ready()

    def own_files(self) -> Sequence[Path]:
        file = self.judge.own_file() if self.judge else None
        return [file] if file else []

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        assert self.judge is not None
        if problem := self.judge.find_reference_problem(row.gold):
            raise UserError(f"{row.beginning!r}: {problem}")
        return {"prompt": row.prompt, "reference": row.gold}, [*row.prompt]

    def step(self, state: dict[str, Any], action: str) -> Turn:
        return self.step_all([(state, action)])[0]

    def step_all(self, actions: Sequence[tuple[dict[str, Any], str]]) -> list[Turn]:
        assert self.judge is not None
        verdicts = self.judge.judge_all(
            [JudgeRequest(state["prompt"], action, state["reference"]) for state, action in actions]
        )
        turns = []
        for (state, _), verdict in zip(actions, verdicts, strict=True):
            if verdict.failed:
                raise RuntimeError(f"the judge broke: {verdict.reason}")
            text = self.feedback.replace("{reason}", verdict.reason)
            over = verdict.passed or self.turns == 1  # its only answer ends it; of several tries the last is cut off
            messages: list[Message] = [] if over else [{"role": "user", "content": text}]
            turns.append(Turn(state, messages, verdict.score, over, passed=verdict.passed, note=verdict.reason))
        return turns
