"""What every environment must do: begin and answer the same way each time, bear any action, speak only for itself."""

from __future__ import annotations

import json
import math
from pathlib import Path

from holdfast.axes.environment import Environment, Episode, State, Turn, play_episodes
from holdfast.axes.method import Method
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.skills.rows import lab_rows, skill_names
from holdfast.testing.failure import expect_that, require_kind

ACTIONS = ("left", "down", "", "I do not know.", "\0\ud83d", "right " * 2000, "up")


def playable_rows(environment: Environment) -> list[Row]:
    """Rows that an environment can begin with: its own, else of the laboratory."""
    if own := list(environment.example_rows()):
        return own
    reasons = []
    for name in skill_names():
        rows = lab_rows(f"lab:{name}", n=3)
        try:
            for row in rows:
                environment.start(row, 0)
        except UserError as error:
            reasons.append(f"{name}: {error}")
            continue
        return rows
    expect_that(
        False, f"it takes rows of no laboratory skill; give it a method example_rows ({'; '.join(reasons[:2])})"
    )
    raise AssertionError


def check_start(method: Method, folder: Path) -> None:
    """The same row and seed begin the same episode, which ends with a turn that the model answers; the row stays."""
    environment = require_kind(method, Environment)
    for row in playable_rows(environment):
        before = row.to_line()
        (state, messages), (again, messages_again) = environment.start(row, 1), environment.start(row, 1)
        expect_that(messages == messages_again and state == again, "twice with one row and seed it begins differently")
        expect_that(row.to_line() == before, "start changed the row; make copies")
        expect_that(
            messages and messages[-1]["role"] in ("user", "tool"), "the first messages must end before the model's turn"
        )


def check_step(method: Method, folder: Path) -> None:
    """The same state and action give the same turn, whatever the model says, and the state is not changed in place."""
    environment = require_kind(method, Environment)
    state, _ = environment.start(playable_rows(environment)[0], 1)
    for action in ACTIONS:
        try:
            state_before = json.loads(json.dumps(state, allow_nan=False))
        except (TypeError, ValueError) as error:
            expect_that(False, f"its state is not of JSON types, so that no episode can be played again: {error}")
        expect_that(state == state_before, "its state changes by JSON; keep lists and texts, no tuples")
        turn, again = environment.step(state, action), environment.step(state, action)
        _check_turn(turn, action)
        expect_that(state == state_before, f"step changed its state in place on {action[:20]!r}; make a new one")
        expect_that(turn == again, f"twice with one state and {action[:20]!r} it answers differently")
        state = _next_state(environment, turn)


def _check_turn(turn: object, action: str) -> None:
    expect_that(isinstance(turn, Turn), f"step gives no Turn on {action[:20]!r}")
    assert isinstance(turn, Turn)
    expect_that(math.isfinite(turn.reward), f"the reward for {action[:20]!r} is {turn.reward}")
    roles = {message["role"] for message in turn.messages}
    expect_that(roles <= {"user", "tool"}, f"it speaks with the roles {sorted(roles)}; it has user and tool")
    messages = turn.messages or turn.conversation
    expect_that(
        turn.done or turn.truncated or messages, "an episode goes on, but it says nothing for the model to answer"
    )
    json.dumps([turn.messages, turn.conversation])


def _next_state(environment: Environment, turn: Turn) -> State:
    return environment.start(playable_rows(environment)[-1], 1)[0] if turn.done or turn.truncated else turn.state


def check_episode(method: Method, folder: Path) -> None:
    """Episodes of a model that says whatever it likes are played to an end, or to the last turn, without an error."""
    environment = require_kind(method, Environment)
    rows = playable_rows(environment)

    def answer_all(episodes: list[Episode]) -> list[str]:
        return [ACTIONS[len(episode.turns) % len(ACTIONS)] for episode in episodes]

    one, two = (play_episodes(environment, rows, answer_all, seed=3) for _ in range(2))
    expect_that(one == two, "two episodes with the same seed and answers differ")
    for episode in one:
        expect_that(not episode.failure, f"it broke on what a model may say: {episode.failure}")
        expect_that(episode.done or episode.truncated, "an episode neither ended nor was cut")
        expect_that(len(episode.turns) <= environment.turns, "an episode is longer than `turns`")


CHECKS = (check_start, check_step, check_episode)
