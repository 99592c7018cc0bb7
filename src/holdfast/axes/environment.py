"""The contract of an environment: what answers the model's turns, with a reward; its own turns are never trained on."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic import Field

from holdfast.axes.breakdowns import Breakdowns, describe_exit, describe_false_start
from holdfast.axes.method import Method
from holdfast.axes.registry import name_of
from holdfast.core.time_limit import TimeLimit
from holdfast.errors import UserError, first_line

if TYPE_CHECKING:
    from pathlib import Path

    from holdfast.axes.engine import Sample
    from holdfast.axes.judge import Judge
    from holdfast.data.rows import Message, Row

State = Any
"""Whatever an environment must remember between two turns, of JSON types alone; never changed in place.

An episode is then a fold over the model's answers: it can be played again from a journal, in any process, and nothing
has to be kept alive in between. Randomness comes from the seed of `start` and stays in the state as numbers.
"""

FURTHER = 0.1
"""Of `step_seconds`, what each action beyond the first adds where `step_all` is asked for many at once."""


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
    step_seconds: float | None = Field(
        60.0,
        gt=0,
        le=86400,
        description="Longest that `start` or a `step` may take; null: however long. What takes longer has broken.",
    )

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

    def own_files(self) -> Sequence[Path]:
        """Files of the user's own that it runs beside its class: episodes depend on what is in them."""
        return ()

    def example_rows(self) -> Sequence[Row]:
        """Rows that `holdfast.testing` begins with; by default none, and it takes those of the laboratory."""
        return ()

    def step(self, state: State, action: str) -> Turn:
        """Answer an action, the text of the model's turn. The same state and action give the same turn."""
        raise UserError(f"environment {type(self).__name__} has no method `step`: write one")

    def step_all(self, actions: Sequence[tuple[State, str]]) -> list[Turn]:
        """Turns in order; environments that start processes or call models override this to work on many at once."""
        return [self.step(state, action) for state, action in actions]


def require_deciding_judge(judge: Judge | None) -> Judge | None:
    """A judge that an environment can ask; none stays none.

    Raises:
        ValueError: If it samples from a model.
    """
    if judge is not None and judge.needs_engine:
        raise ValueError("needs a model of its own, which an environment has not; choose a judge that decides")
    return judge


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
        place: What errors call the row it began with.
        outgrown: Whether the limit was the model's context, in which its conversation left no room for an answer.
    """

    key: str
    state: State
    messages: list[Message]
    turns: list[PlayedTurn] = field(default_factory=list)
    done: bool = False
    truncated: bool = False
    passed: bool = False
    failure: str = ""
    place: str = ""
    outgrown: bool = False

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
        return self.name_turn(len(self.turns))

    def name_turn(self, number: int) -> str:
        """Name a turn, the first of which is 0, as its sample is called in the journal."""
        return f"{self.key}/t{number}"

    def take_answer(self, sample: Sample) -> str:
        """The text of an answer; where its prompt left no room for one in the model's context, the episode is over."""
        if sample.finish == "length" and not sample.tokens:
            self.outgrown = self.truncated = True
        return sample.text

    def add_turn(self, answer: str, turn: Turn) -> None:
        """Take an answer of the model, and what the environment made of it."""
        self.turns.append(PlayedTurn(list(self.messages), answer, float(turn.reward), turn.note, turn.parts))
        self.state, self.done, self.truncated, self.passed = turn.state, turn.done, turn.truncated, turn.passed
        if turn.conversation is not None:
            self.messages = list(turn.conversation)
        else:
            self.messages = [*self.messages, {"role": "assistant", "content": answer}, *turn.messages]


def begin_episode(environment: Environment, row: Row, seed: int) -> tuple[State, list[Message]]:
    """Begin an episode: the state as JSON gives it back, and a conversation that can be shown to a model.

    Raises:
        UserError: If the environment refuses the row.
        ValueError: If its messages are none, or its state is not JSON; its own code may raise anything.
        OutOfTime: If it takes longer than its `step_seconds`.
    """
    with TimeLimit(environment.step_seconds):
        try:
            state, messages = environment.start(row, seed)
        except SystemExit as error:
            raise describe_exit(error) from error
    check_messages(messages)
    return copy_state(state), messages


def begin_or_refuse(environment: Environment, row: Row, seed: int, place: str) -> list[Message]:
    """The conversation that an episode begins with, before anything is paid for.

    Raises:
        UserError: If the environment refuses the row, or breaks on it; `place` names it.
    """
    try:
        return begin_episode(environment, row, seed)[1]
    except UserError as error:
        raise UserError(f"{place}: environment {name_of(environment)}: {error}") from error
    except Exception as error:
        raise describe_false_start(environment, place, error) from error


def start_episodes(
    environment: Environment,
    rows: Sequence[Row],
    *,
    n: int = 1,
    seed: int = 0,
    breakdowns: Breakdowns | None = None,
) -> list[Episode]:
    """Begin `n` episodes for each row, which differ in the model's answers alone.

    Args:
        seed: With the row's id it seeds what the environment draws: the same for all `n`, so that they are a group.
        breakdowns: Those that are known; further ones are taken down there.
    Returns:
        Row by row; those of a row on which the environment broke have a `failure`.
    Raises:
        UserError: If the environment refuses a row, which is named.
        RunError: If it hung too often.
    """
    breakdowns, episodes = breakdowns or Breakdowns(), []
    for number, row in enumerate(rows, 1):
        place, failure = row.describe_row(number), breakdowns.reasons.get(row.id, "")
        state, messages = None, list[Any]()
        try:
            if not failure:
                state, messages = begin_episode(environment, row, seed)
        except Exception as error:
            failure = breakdowns.describe_breakdown(row.id, place, environment, error)
        episodes += [Episode(f"{row.id}/{i}", state, list(messages), failure=failure, place=place) for i in range(n)]
    return episodes


def play_episodes(
    environment: Environment,
    rows: Sequence[Row],
    ask: Callable[[list[Episode]], list[str]],
    *,
    n: int = 1,
    seed: int = 0,
    breakdowns: Breakdowns | None = None,
) -> list[Episode]:
    """Play episodes to their end, all side by side.

    Args:
        ask: From the episodes that still go on to the model's next answers, in order; called once a turn. An episode's
            `messages` are what the model is asked with, its `turn_key` names the answer.
        n: Episodes of each row.
        seed: Of what the environment draws.
        breakdowns: Those that are known; further ones are taken down there.
    Returns:
        Row by row, `n` for each. Where the environment broke - it raised, took longer than `step_seconds`, gave a
        reward that is no finite number, kept what is not JSON, spoke in the model's place, or had nothing to say though
        it went on - the episode has a `failure`, and the others are played on; it is cut (`truncated`) where it had not
        ended after `environment.turns` turns, or outgrew the model's context.
    Raises:
        UserError: If the environment refuses a row, or an action; the row is named.
        RunError: If it hung on more than `MOST_HANGS` turns.
    """
    breakdowns = breakdowns or Breakdowns()
    episodes = start_episodes(environment, rows, n=n, seed=seed, breakdowns=breakdowns)
    for number in range(environment.turns):
        going = [episode for episode in episodes if not episode.is_over]
        if not going:
            break
        actions = list(zip(going, ask(going), strict=True))
        for episode in going:
            episode.failure = breakdowns.reasons.get(episode.turn_key, "")
        actions = [(episode, answer) for episode, answer in actions if not episode.is_over]
        for (episode, answer), turn in zip(actions, answer_actions(environment, actions, breakdowns), strict=True):
            if isinstance(turn, str):
                episode.failure = turn
                continue
            is_last = number + 1 == environment.turns and not turn.done
            episode.add_turn(answer, replace(turn, truncated=True) if is_last else turn)
    return episodes


def answer_actions(
    environment: Environment, actions: Sequence[tuple[Episode, str]], breakdowns: Breakdowns
) -> list[Turn | str]:
    """The turns to the model's answers in some episodes; of those on which the environment broke, why.

    One that breaks is the user's own code, or a library's: its episode is shown as failed, and the others go on.

    Raises:
        UserError: If the environment refuses one; its row is named.
        RunError: If it hung too often.
    """
    works_together = type(environment).step_all is not Environment.step_all
    if len(actions) == 1 or (actions and works_together):
        try:
            return list(ask_environment(environment, actions))
        except Exception as error:
            if len(actions) == 1:
                episode = actions[0][0]
                return [breakdowns.describe_breakdown(episode.turn_key, episode.place, environment, error)]
    # Each in a time of its own; where they broke together, this tells which one it was.
    return [turn for action in actions for turn in answer_actions(environment, [action], breakdowns)]


def ask_environment(environment: Environment, actions: Sequence[tuple[Episode, str]]) -> list[Turn]:
    """The environment's turns to some answers, together in the time it has for so many.

    Raises:
        ValueError: If they are no turns, or not as many; its own code may raise anything.
        OutOfTime: If it takes longer.
    """
    seconds = environment.step_seconds and environment.step_seconds * (1 + FURTHER * (len(actions) - 1))
    with TimeLimit(seconds):
        try:
            turns = environment.step_all([(episode.state, answer) for episode, answer in actions])
        except SystemExit as error:
            raise describe_exit(error) from error
    if not isinstance(turns, Sequence) or len(turns) != len(actions):
        raise ValueError(f"step_all answers {len(actions)} actions with {describe_value(turns)}")
    return [check_turn(turn) for turn in turns]


def check_turn(turn: Turn) -> Turn:
    """A turn as it counts: its reward a float, its state as JSON gives it back.

    Raises:
        ValueError: If it is no turn, its reward no finite number, its messages none, or its state not JSON.
    """
    if not isinstance(turn, Turn):
        raise ValueError(f"step gives {describe_value(turn)}, not a Turn")
    check_messages(turn.messages)
    if any(message["role"] == "assistant" for message in turn.messages):
        raise ValueError("it answers with role assistant, which is the model's: use user, tool")
    if turn.conversation is not None:
        check_messages(turn.conversation)
    is_over = turn.done or turn.truncated
    if not is_over and not (turn.messages or turn.conversation):
        raise ValueError("it goes on, but says nothing for the model to answer")
    number = turn.reward
    if isinstance(number, str) or not hasattr(number, "__float__") or not math.isfinite(float(number)):
        raise ValueError(f"its reward is {str(number)[:40]!r}, no finite number".replace("'", ""))
    return replace(turn, reward=float(number), state=copy_state(turn.state))


def check_messages(messages: Sequence[Message]) -> None:
    """See that what an environment says can be shown to a model.

    Raises:
        ValueError: If it is no list of messages with a role and a content.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise ValueError(f"its messages are {describe_value(messages)}, not a list of them")
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise ValueError(f"a message is {describe_value(message)}, not a mapping with role and content")
        if not isinstance(message.get("content"), (str, list)):
            raise ValueError(f"the content of a message is {describe_value(message.get('content'))}, not text")


def describe_value(value: object) -> str:
    """What a thing is, for errors: its type, of several also how many."""
    kind = "nothing" if value is None else f"a {type(value).__name__}"
    return f"{kind} of {len(value)}" if isinstance(value, (list, tuple)) else kind


def copy_state(state: State) -> State:
    """A state as JSON gives it back: what is played live is then what is played again from a journal.

    Raises:
        ValueError: If it is not JSON.
    """
    try:
        return json.loads(json.dumps(state, allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"its state is not of JSON types ({first_line(error)})") from error
