"""Any environment of Gymnasium with a choice of actions: observations as text, answers as actions."""

from __future__ import annotations

import json
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator

from holdfast.axes.environment import Environment, Turn
from holdfast.axes.own_class import find_own_source, load_function
from holdfast.errors import UserError
from holdfast.methods.environments.gym_bridge import (
    describe_observation,
    describe_screen,
    find_action,
    open_environment,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from holdfast.data.rows import Message, Row


class GymEnvironment(Environment):
    """Any environment of Gymnasium with a choice of actions, played in text. [Towers et al. 2024, arXiv 2407.17032]

    What it does: makes the environment `id` (`pip install 'holdfast[gym]'`) and writes its first observation below a
    row's question. Each answer names an action; what comes of it is the next message, and Gymnasium's reward the
    reward. `terminated` ends the episode and `truncated` cuts it, as `turns` does. An answer in which no single action
    can be read is told the names, costs `unreadable` and a turn, and moves nothing. What is kept is the seed, which
    comes from the run's and the row's, and the actions: at each turn they are played again from the start.

    When it helps: games and puzzles that exist already; the same game for a policy of another kind.

    When it fails: an environment that draws from elsewhere than its own seed does not repeat; its episode is given up
    once that shows. Arrays mean little to a language model: write a `formatter` that says what matters. An episode of
    T turns plays T (T + 1) / 2 steps. Continuous actions are refused.

    Columns: a question that says what is to be done; each row is a game of its own.

    Formula, of an episode with the rewards r_1 .. r_T: passed = over and sum_t r_t >= `success`.

    Paper's settings: those of the environment.
    """

    paper: ClassVar[str] = "Towers et al. 2024, arXiv 2407.17032"

    id: str = Field(min_length=1, description="As in gymnasium.make: FrozenLake-v1, or module:Name-v0.")
    settings: dict[str, Any] = Field(default_factory=dict, description="What gymnasium.make takes beside the id.")
    turns: int = Field(32, ge=1, description="Most answers.")
    actions: tuple[str, ...] | None = Field(
        None, description="What the actions are called, in order; default: numbers."
    )
    show: Literal["observation", "screen"] = Field(
        "observation", description="`screen`: what its render mode `ansi` draws, the player in brackets."
    )
    afresh: bool = Field(False, description="Each observation begins the conversation anew.")
    formatter: str | None = Field(
        None,
        description="`module:function` or `file.py:function`: (observation, environment) -> text, instead of `show`.",
    )
    parser: str | None = Field(
        None, description="The same: (answer, environment) -> action, `None` where none can be read."
    )
    unreadable: float = Field(0.0, le=0, description="What an answer is worth in which no action can be read.")
    success: float | None = Field(
        None, description="Least sum of rewards of an episode that has succeeded; default: the id's own, or above 0."
    )

    @field_validator("actions")
    @classmethod
    def _names_differ(cls, actions: tuple[str, ...] | None) -> tuple[str, ...] | None:
        names = [name.strip().casefold() for name in actions or ()]
        if actions is not None and (len(set(names)) < len(names) or not all(names)):
            raise ValueError("the names must differ, and none be empty")
        return actions

    def check_ready(self) -> None:
        texts = []
        for _ in range(2):
            environment = self._open_environment()
            observation, _ = environment.reset(seed=0)
            texts.append(self._show_observation(observation, environment))
        if texts[0] != texts[1]:
            raise UserError(f"environment gym: {self.id} begins differently twice with one seed; it cannot be repeated")

    def own_files(self) -> Sequence[Path]:
        files = [find_own_source(name) for name in (self.formatter, self.parser) if name]
        return [file for file in files if file is not None]

    def start(self, row: Row, seed: int) -> tuple[dict[str, Any], list[Message]]:
        if not row.prompt:
            raise UserError("the row asks nothing; give rows with a question, which says what is to be done")
        environment = self._open_environment()
        own_seed = zlib.crc32(f"{row.id}/{seed}".encode())
        observation, _ = environment.reset(seed=own_seed)
        text = self._show_observation(observation, environment)
        state = {"seed": own_seed, "actions": [], "prompt": row.prompt, "shown": text, "return": 0.0}
        return state, _show_first(row.prompt, text)

    def step(self, state: dict[str, Any], action: str) -> Turn:
        environment = self._open_environment()
        observation, _ = environment.reset(seed=state["seed"])
        for earlier in state["actions"]:
            observation, *_ = environment.step(earlier)
        if self._show_observation(observation, environment) != state["shown"]:
            raise RuntimeError(f"{self.id} does not repeat: its seed and actions gave another observation")
        number = self._read_action(action, environment)
        if number is None:
            text = f"Say one of {', '.join(self._action_names(environment))}.\n{state['shown']}"
            return self._say_text(Turn(state, [], self.unreadable, note="no single action"), text)
        observation, reward, done, cut, _ = environment.step(number)
        total, is_over = state["return"] + float(reward), bool(done or cut)
        text = self._show_observation(observation, environment)
        least = self.success if self.success is not None else environment.spec.reward_threshold
        succeeds = is_over and (total > 0 if least is None else total >= least)
        next_state = {**state, "actions": [*state["actions"], number], "shown": text, "return": total}
        name = self._action_names(environment)[number - int(environment.action_space.start)]
        turn = Turn(next_state, [], float(reward), bool(done), bool(cut and not done), passed=succeeds, note=name)
        return turn if is_over else self._say_text(turn, text)

    def _say_text(self, turn: Turn, text: str) -> Turn:
        """A turn after which the episode goes on: what is shown, in the same conversation or in one of its own."""
        conversation = _show_first(turn.state["prompt"], text) if self.afresh else None
        return replace(turn, messages=[{"role": "user", "content": text}], conversation=conversation)

    def _open_environment(self) -> Any:
        return open_environment(self.id, json.dumps(self.settings, sort_keys=True), self.actions, self.show)

    def _action_names(self, environment: Any) -> Sequence[str]:
        space = environment.action_space
        return self.actions or [str(int(space.start) + i) for i in range(int(space.n))]

    def _show_observation(self, observation: Any, environment: Any) -> str:
        if self.formatter:
            return str(load_function(self.formatter)(observation, environment))
        return describe_screen(environment.render()) if self.show == "screen" else describe_observation(observation)

    def _read_action(self, answer: str, environment: Any) -> int | None:
        space = environment.action_space
        if self.parser is None:
            number = find_action(answer, self._action_names(environment))
            return None if number is None else int(space.start) + number
        action = load_function(self.parser)(answer, environment)
        if action is not None and not space.contains(action):
            raise ValueError(f"{self.parser} gives {action!r}, which is not in {space}")
        return None if action is None else int(action)


def _show_first(prompt: Sequence[Message], text: str) -> list[Message]:
    """A row's question with an observation below it."""
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}\n{text}"}]
