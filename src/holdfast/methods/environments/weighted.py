"""A reward of several terms, each with its weight: judges, another environment's own, lengths and forms of answers."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from typing_extensions import Self

from holdfast.axes.environment import Environment, Turn
from holdfast.axes.judge import JudgeRequest, Verdict
from holdfast.axes.registry import name_of
from holdfast.errors import UserError
from holdfast.methods.environments.reward_terms import RewardTerm
from holdfast.recipe.choices import EnvironmentChoice, choose_method

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from holdfast.data.rows import Message, Row


class WeightedRewards(Environment):
    """The reward is a weighted sum of judges, of an environment's own, of lengths and forms. [Guo et al. 2025]

    What it does: every answer of the model is scored by each term, and earns the sum of weight times score. With
    `environment` the episodes are that one's, and its own reward counts with `environment_weight`; without one a row's
    question is asked once. An episode has succeeded when every judge with a weight above 0 passes its last answer, and
    the environment does too. Each term is logged by itself, before its weight, as `reward/NAME`.

    When it helps: an answer shall be right, and in some form, and not longer than it need be.

    When it fails: what is easy to earn is earned first: a model that cannot solve a question learns the form of answers
    and stays there; a weight on length shortens answers also where that costs right ones.

    Columns: a question, and what the judges and the environment compare with.

    Formula, with w_k the weights and s_k in [0, 1] the terms of an answer y:

        r(y) = sum_k w_k s_k(y)
        words n, spare m:  s(y) = clamp(1 - (|y| - n) / m, 0, 1)      [Yu et al. 2025, 2503.14476: m is their cache]

    Paper's settings: a judge and a form, each with weight 1.
    """

    paper: ClassVar[str] = "Guo et al. 2025, arXiv 2501.12948"

    terms: tuple[RewardTerm, ...] = Field(
        description="Each {judge: ..}, {words: .., spare: ..} or {pattern: ..}, with a weight."
    )
    environment: EnvironmentChoice = Field(None, description="What answers the model's turns; default: nothing does.")
    environment_weight: float = Field(1.0, allow_inf_nan=False, description="What 1 of its own reward is worth.")
    turns: int = Field(1, ge=1, description="Most turns of the model; default: the environment's, or one.")

    @model_validator(mode="before")
    @classmethod
    def _take_limits(cls, data: Any) -> Any:
        if isinstance(data, dict) and data.get("environment") is not None:
            environment = choose_method("environments", data["environment"])
            limits = {"turns": environment.turns, "step_seconds": environment.step_seconds}
            return {**limits, **data, "environment": environment}
        return data

    @model_validator(mode="after")
    def _everything_counts(self) -> Self:
        if not self.terms:
            raise ValueError("terms: give at least one, e.g. [{judge: number}]")
        names = [*(term.label for term in self.terms), *([name_of(self.environment)] if self.environment else [])]
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise ValueError(f"two terms are called {twice} in the log; give one a name of its own")
        if self.environment is None and (self.turns != 1 or self.environment_weight != 1):
            key = "turns" if self.turns != 1 else "environment_weight"
            raise ValueError(f"{key} goes with an environment; name one, e.g. {{name: judged, judge: .., turns: 3}}")
        return self

    def check_ready(self) -> None:
        for term in self.terms:
            if term.judge is not None:
                term.judge.check_ready()
        if self.environment is not None:
            self.environment.check_ready()

    def own_files(self) -> Sequence[Path]:
        files = [term.judge.own_file() for term in self.terms if term.judge is not None]
        return [*filter(None, files), *(self.environment.own_files() if self.environment else ())]

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        for judge in filter(None, (term.judge for term in self.terms)):
            if problem := judge.find_reference_problem(row.gold):
                raise UserError(f"{row.beginning!r}: {problem}")
        inner, messages = (None, [*row.prompt]) if self.environment is None else self.environment.start(row, seed)
        return {"prompt": row.prompt, "reference": row.gold, "inner": inner}, messages

    def step(self, state: dict[str, Any], action: str) -> Turn:
        return self.step_all([(state, action)])[0]

    def step_all(self, actions: Sequence[tuple[dict[str, Any], str]]) -> list[Turn]:
        inner_turns = [Turn(None, [], 0.0, done=True, passed=True) for _ in actions]
        if self.environment is not None:
            inner_turns = self.environment.step_all([(state["inner"], action) for state, action in actions])
        answers = [JudgeRequest(state["prompt"], action, state["reference"]) for state, action in actions]
        verdicts = [term.score_answers(answers) for term in self.terms]
        return [
            self._join_terms(state, turn, [column[i] for column in verdicts])
            for i, ((state, _), turn) in enumerate(zip(actions, inner_turns, strict=True))
        ]

    def _join_terms(self, state: dict[str, Any], turn: Turn, verdicts: list[Verdict]) -> Turn:
        """The environment's turn with the reward of all terms."""
        succeeds, reward = turn.passed, self.environment_weight * turn.reward
        parts = {name_of(self.environment): turn.reward} if self.environment else {}
        for term, verdict in zip(self.terms, verdicts, strict=True):
            if verdict.failed:
                raise RuntimeError(f"judge {term.label} broke: {verdict.reason}")
            parts[term.label] = verdict.score
            reward += term.weight * verdict.score
            succeeds &= term.judge is None or term.weight < 0 or verdict.passed
        note = ", ".join(f"{name} {value:g}" for name, value in parts.items())
        state = {**state, "inner": turn.state}
        return replace(turn, state=state, reward=reward, passed=succeeds, parts={**turn.parts, **parts}, note=note)
