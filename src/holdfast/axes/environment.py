"""The contract of an environment: what answers the model's turns, with a reward; its own turns are never trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from holdfast.axes.method import Method
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row

State = Any
"""Whatever an environment must remember between two turns; made by `start`, never changed in place."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment makes of one action.

    Args:
        state: From now on.
        messages: What it says to it, with roles `user` or `tool`: read by the model, never trained on.
        reward: For this action.
        done: Whether the episode is over.
    """

    state: State
    messages: list[Message]
    reward: float
    done: bool


class Environment(Method):
    """What answers the model's turns."""

    def start(self, row: Row, seed: int) -> tuple[State, list[Message]]:
        """Begin an episode: the state, and the conversation the model is asked with.

        Raises:
            UserError: If the row holds nothing for this environment.
        """
        raise UserError(f"environment {type(self).__name__} has no method `start`: write one")

    def example_rows(self) -> Sequence[Row]:
        """Rows that `holdfast.testing` begins with; by default none, and it takes those of the laboratory."""
        return ()

    def step(self, state: State, action: str) -> Turn:
        """Answer an action, the text of the model's turn. The same state and action give the same turn."""
        raise UserError(f"environment {type(self).__name__} has no method `step`: write one")


@dataclass(slots=True)
class Episode:
    """A conversation between a model and an environment.

    Args:
        messages: All turns; the model's have role `assistant`, and they alone are trained on.
        rewards: One for each turn of the model.
        done: Whether the environment ended it, rather than the number of turns.
    """

    messages: list[Message]
    rewards: list[float] = field(default_factory=list)
    done: bool = False


def play_episodes(
    environment: Environment,
    rows: Sequence[Row],
    ask: Callable[[list[list[Message]]], list[str]],
    *,
    seed: int = 0,
    turns: int = 8,
) -> list[Episode]:
    """Play one episode for each row, all side by side.

    Args:
        ask: From conversations to the model's answers, in order; called once a turn with those that still go on.
        seed: With the row's number it seeds the episode.
        turns: Most turns of the model in an episode.
    Raises:
        UserError: If the environment speaks in the model's place.
    """
    starts = [environment.start(row, seed + number) for number, row in enumerate(rows)]
    states = [state for state, _ in starts]
    episodes = [Episode(list(messages)) for _, messages in starts]
    for _ in range(turns):
        going = [i for i, episode in enumerate(episodes) if not episode.done]
        if not going:
            break
        for i, action in zip(going, ask([episodes[i].messages for i in going]), strict=True):
            turn = environment.step(states[i], action)
            if any(message["role"] == "assistant" for message in turn.messages):
                name = type(environment).__name__
                raise UserError(f"environment {name} answers with role assistant, which is the model's: use user, tool")
            states[i] = turn.state
            episodes[i].messages += [{"role": "assistant", "content": action}, *turn.messages]
            episodes[i].rewards.append(turn.reward)
            episodes[i].done = turn.done
    return episodes
