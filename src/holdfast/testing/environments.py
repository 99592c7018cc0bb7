"""What every environment must do: begin and answer the same way each time, bear any action, speak only for itself."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path

from holdfast.axes.environment import Environment, State, Turn, play_episodes
from holdfast.axes.method import Method
from holdfast.data.rows import Message, Row
from holdfast.errors import UserError
from holdfast.skills.rows import lab_rows, skill_names
from holdfast.testing.failure import expect_that, require_kind

ACTIONS = ("left", "down", "", "I do not know.", "\0\ud83d", "right " * 2000, "up")
TURNS = 64


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
        state_before = copy.deepcopy(state)
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
    expect_that(turn.done or turn.messages, "an episode goes on, but it says nothing for the model to answer")
    json.dumps(turn.messages)


def _next_state(environment: Environment, turn: Turn) -> State:
    return environment.start(playable_rows(environment)[-1], 1)[0] if turn.done else turn.state


def check_episode(method: Method, folder: Path) -> None:
    """Episodes of a model that says the same thing forever are played to an end, or on and on, without an error."""
    environment = require_kind(method, Environment)
    rows = playable_rows(environment)

    def answer_all(conversations: list[list[Message]]) -> list[str]:
        return [ACTIONS[len(messages) % len(ACTIONS)] for messages in conversations]

    one, two = (play_episodes(environment, rows, answer_all, seed=3, turns=TURNS) for _ in range(2))
    expect_that(one == two, "two episodes with the same seed and answers differ")
    for episode in one:
        turns = sum(message["role"] == "assistant" for message in episode.messages)
        expect_that(len(episode.rewards) == turns, "there is not one reward for each turn of the model")


CHECKS = (check_start, check_step, check_episode)
