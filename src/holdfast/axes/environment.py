"""The contract of an environment: what answers the model's turns, with a reward; its own turns are never trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from holdfast.axes.method import Method
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from holdfast.data.rows import Message, Row

State = Any
"""Whatever an environment must remember between two turns, of JSON types alone; never changed in place.

An episode is then a fold over the model's answers: it can be played again from a journal, in any process, and nothing
has to be kept alive in between. Randomness comes from the seed of `start` and stays in the state as numbers.
"""


@dataclass(frozen=True, slots=True)
class Turn:
    """What an environment makes of one action.

    Args:
        state: From now on.
        messages: What it says to it, with roles `user` or `tool`: read by the model, never trained on.
        reward: For this action.
        done: Whether the episode is over by its own rules: nothing is worth anything afterwards.
        truncated: Whether it is cut by a limit instead: what could have come later still counts for a value.
        passed: Whether the episode has succeeded.
        conversation: Replaces the conversation, `messages` included, where the model is to begin afresh.
        note: Why, in a few words, for reports.
        parts: What the reward is made of, by name, each before its weight; logged one by one.
    """

    state: State
    messages: list[Message]
    reward: float
    done: bool = False
    truncated: bool = False
    passed: bool = False
    conversation: list[Message] | None = None
    note: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


class Environment(Method):
    """What answers the model's turns."""

    turns: int = Field(8, ge=1, description="Most turns of the model in an episode.")

    def start(self, row: Row, seed: int) -> tuple[State, list[Message]]:
        """Begin an episode: the state, and the conversation the model is asked with.

        Raises:
            UserError: If the row holds nothing for this environment.
        """
        raise UserError(f"environment {type(self).__name__} has no method `start`: write one")

    def check_ready(self) -> None:
        """See that this environment can work here, before there is anything to play.

        Raises:
            UserError: If not.
        """

    def example_rows(self) -> Sequence[Row]:
        """Rows that `holdfast.testing` begins with; by default none, and it takes those of the laboratory."""
        return ()

    def step(self, state: State, action: str) -> Turn:
        """Answer an action, the text of the model's turn. The same state and action give the same turn."""
        raise UserError(f"environment {type(self).__name__} has no method `step`: write one")

    def step_all(self, actions: Sequence[tuple[State, str]]) -> list[Turn]:
        """Turns in order; environments that start processes or call models override this to work on many at once."""
        return [self.step(state, action) for state, action in actions]


@dataclass(slots=True)
class PlayedTurn:
    """One turn of the model, and what came of it.

    Args:
        prompt: The conversation it was asked with.
        answer: What it said, which alone is trained on.
        reward: For it.
        note: Of the environment.
        parts: What the reward is made of.
    """

    prompt: list[Message]
    answer: str
    reward: float
    note: str = ""
    parts: Mapping[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Episode:
    """A conversation between a model and an environment.

    Args:
        key: Names it among all; with the number of the turn it names a sample in the journal.
        state: Of the environment, now.
        messages: The conversation as it stands; the model's turns have role `assistant`.
        turns: The model's, in order.
        done: Whether the environment ended it.
        truncated: Whether a limit did.
        passed: Whether it succeeded.
        failure: Why the environment itself broke; such an episode says nothing of the model, and is left out.
    """

    key: str
    state: State
    messages: list[Message]
    turns: list[PlayedTurn] = field(default_factory=list)
    done: bool = False
    truncated: bool = False
    passed: bool = False
    failure: str = ""

    @property
    def rewards(self) -> list[float]:
        """One for each turn of the model."""
        return [turn.reward for turn in self.turns]

    @property
    def is_over(self) -> bool:
        """Whether nothing is asked any more."""
        return self.done or self.truncated or bool(self.failure)

    @property
    def turn_key(self) -> str:
        """Names the turn to come."""
        return f"{self.key}/t{len(self.turns)}"

    def add_turn(self, answer: str, turn: Turn) -> None:
        """Take an answer of the model, and what the environment made of it."""
        self.turns.append(PlayedTurn(list(self.messages), answer, float(turn.reward), turn.note, turn.parts))
        self.state, self.done, self.truncated, self.passed = turn.state, turn.done, turn.truncated, turn.passed
        if turn.conversation is not None:
            self.messages = list(turn.conversation)
        else:
            self.messages = [*self.messages, {"role": "assistant", "content": answer}, *turn.messages]


def start_episodes(environment: Environment, rows: Sequence[Row], *, n: int = 1, seed: int = 0) -> list[Episode]:
    """Begin `n` episodes for each row, which differ in the model's answers alone.

    Args:
        seed: With the row's id it seeds what the environment draws: the same for all `n`, so that they are a group.
    """
    episodes = []
    for row in rows:
        state, messages = environment.start(row, seed)
        state = copy_state(environment, state)
        episodes += [Episode(f"{row.id}/{i}", state, list(messages)) for i in range(n)]
    return episodes


def play_episodes(
    environment: Environment,
    rows: Sequence[Row],
    ask: Callable[[list[Episode]], list[str]],
    *,
    n: int = 1,
    seed: int = 0,
) -> list[Episode]:
    """Play episodes to their end, all side by side.

    Args:
        ask: From the episodes that still go on to the model's next answers, in order; called once a turn. An episode's
            `messages` are what the model is asked with, its `turn_key` names the answer.
        n: Episodes of each row.
        seed: Of what the environment draws.
    Returns:
        Row by row, `n` for each. Where the environment broke (it raised, or gave a reward that is no number), the
        episode has a `failure`; it is cut (`truncated`) where it had not ended after `environment.turns` turns.
    Raises:
        UserError: If the environment does not take a row, speaks in the model's place, or keeps what is not JSON.
    """
    episodes = start_episodes(environment, rows, n=n, seed=seed)
    for number in range(environment.turns):
        going = [episode for episode in episodes if not episode.is_over]
        if not going:
            break
        answers = ask(going)
        turns = answer_actions(environment, [(e.state, answer) for e, answer in zip(going, answers, strict=True)])
        for episode, answer, turn in zip(going, answers, turns, strict=True):
            if isinstance(turn, str):
                episode.failure = turn
                continue
            is_last = number + 1 == environment.turns and not turn.done
            episode.add_turn(answer, replace(turn, truncated=True) if is_last else turn)
    return episodes


def answer_actions(environment: Environment, actions: Sequence[tuple[State, str]]) -> list[Turn | str]:
    """The turns to some actions; of those on which the environment broke, why.

    One that breaks is the user's own code, or a library's: its episode is shown as failed, and the others go on.
    """
    try:
        return [check_turn(environment, turn) for turn in environment.step_all(actions)]
    except UserError:
        raise
    except Exception as error:
        if len(actions) == 1:
            return [f"{type(error).__name__}: {first_line(error)}"]
    return [turn for action in actions for turn in answer_actions(environment, [action])]  # which one it was


def check_turn(environment: Environment, turn: Turn) -> Turn:
    """A turn as it counts: its state as JSON gives it back.

    Raises:
        ValueError: If the reward is no finite number.
        UserError: If it speaks in the model's place, or its state is not JSON.
    """
    messages = [*turn.messages, *(turn.conversation or [])]
    name = type(environment).__name__
    if any(message["role"] == "assistant" for message in turn.messages):
        raise UserError(f"environment {name} answers with role assistant, which is the model's: use user, tool")
    if not turn.done and not turn.truncated and not messages:
        raise ValueError("it goes on, but says nothing for the model to answer")
    if not math.isfinite(turn.reward):
        raise ValueError(f"its reward is {turn.reward}")
    return replace(turn, state=copy_state(environment, turn.state))


def copy_state(environment: Environment, state: State) -> State:
    """A state as JSON gives it back: what is played live is then what is played again from a journal."""
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError) as error:
        name = type(environment).__name__
        raise UserError(f"environment {name}: its state is not of JSON types ({first_line(error)})") from error
