"""Environments and rubrics with the interface of the library `verifiers`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from holdfast.axes.environment import Environment, Turn
from holdfast.axes.own_class import find_own_source
from holdfast.core.async_calls import run_coroutines
from holdfast.errors import UserError
from holdfast.methods.environments.verifiers_bridge import (
    LoadedEnvironment,
    Rollout,
    find_missing,
    list_rollout_objects,
    load_environment,
    score_rollout,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from holdfast.data.rows import Message, Row


class VerifiersEnvironment(Environment):
    """An environment or a rubric written for the library `verifiers`. [Brown 2025, verifiers]

    What it does: loads `load` (`package.module:load_environment`, a class, or an object of a module) and plays it: a
    `Rubric` is asked once what an answer is worth; an environment with `env_response` answers the model until its
    `is_completed` says so, or after `turns`. The reward comes with the last answer: the weighted sum of the rubric's
    functions, plain or asynchronous, each logged by its name. Functions get what they ask for by name: `prompt`,
    `completion`, `answer`, `info`, `task`, `state`, columns of the row, what the rubric holds (`parser`).

    When it helps: rewards and environments that exist already, without a server or a client.

    When it fails: rollouts are played again from their answers at each turn, so an environment must answer alike twice;
    one that does not is given up. Refused are functions that score groups, tools that an API calls, and the tasksets of
    verifiers 1. A function that raises gives up its episode; the library counts it as 0. The tests use the interface
    that the library documents (0.1), not the library: what it requires goes with none of the versions needed here.

    Columns: a question, an answer; `info`, `task` and whatever the functions ask for.

    Formula, with w_k the weights and f_k the functions: r(episode) = sum_k w_k f_k, at its last turn.

    Paper's settings: those of the environment; an episode has succeeded from its `pass_threshold` (0.5) on.
    """

    paper: ClassVar[str] = "Brown 2025, verifiers (Prime Intellect)"

    load: str = Field(
        min_length=1, description="`module:load_environment` or `file.py:load_environment`; or an object."
    )
    arguments: dict[str, Any] = Field(default_factory=dict, description="What the function is called with.")
    turns: int = Field(10, ge=1, description="Most answers.")
    success: float | None = Field(
        None, description="Least reward of an episode that has succeeded; default: its own threshold, else 0.5."
    )

    def check_ready(self) -> None:
        self._load_environment()

    def own_files(self) -> Sequence[Path]:
        file = find_own_source(self.load)
        return [file] if file else []

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        game = self._load_environment()
        if not row.prompt:
            raise UserError("the row asks nothing; give rows with a question")
        has_system = row.prompt[0]["role"] == "system"
        system = getattr(game.environment, "system_prompt", None)
        head = row.prompt[:1] if has_system else [{"role": "system", "content": system}] if system else []
        shots = getattr(game.environment, "few_shot", None) or []
        prompt = [*head, *shots, *row.prompt[has_system:]]
        columns = {**row.meta, "answer": row.gold if row.gold is not None else ""}
        if missing := find_missing(game.functions, list_rollout_objects(Rollout(game, prompt, columns).state)):
            raise UserError(
                f"{row.beginning!r}: reward function {missing[0]} asks for {missing[1]}, which is no column of the row"
            )
        return {"prompt": prompt, "columns": columns, "past": []}, prompt

    def step(self, state: dict[str, Any], action: str) -> Turn:
        return self.step_all([(state, action)])[0]

    def step_all(self, actions: Sequence[tuple[dict[str, Any], str]]) -> list[Turn]:
        game = self._load_environment()
        return run_coroutines([self._answer_action(game, state, action) for state, action in actions])

    async def _answer_action(self, game: LoadedEnvironment, state: dict[str, Any], action: str) -> Turn:
        rollout = Rollout(game, state["prompt"], state["columns"])
        await rollout.set_up()
        for answer, reply in state["past"]:
            await rollout.add_answer(answer)
            if (await rollout.answer_model())[0] != reply:
                raise RuntimeError(f"{self.load} does not repeat: to the same answers it said something else")
        is_over, messages = await rollout.add_answer(action), list[dict[str, Any]]()
        if not is_over:
            messages, is_over = await rollout.answer_model()
        is_cut = not is_over and len(state["past"]) + 1 >= self.turns
        next_state = {**state, "past": [*state["past"], [action, messages]]}
        if not is_over and not is_cut:
            return Turn(next_state, messages, 0.0)
        reward, parts = await score_rollout(game.functions, rollout.state)
        least = self.success if self.success is not None else getattr(game.environment, "pass_threshold", 0.5)
        note = ", ".join(f"{name} {score:g}" for name, score in parts.items())
        return Turn(next_state, messages, reward, is_over, is_cut, passed=reward >= least, note=note, parts=parts)

    def _load_environment(self) -> LoadedEnvironment:
        return load_environment(self.load, json.dumps(self.arguments, sort_keys=True))
