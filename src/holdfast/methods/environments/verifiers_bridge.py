"""What joins environments and rubrics with the interface of `verifiers` to ours: loading, rollouts, rewards."""

from __future__ import annotations

import inspect
import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from holdfast.axes.own_class import load_object
from holdfast.core.interrupts import STOP_SIGNALS
from holdfast.errors import UserError, first_line

OF_GROUPS = {"states", "prompts", "completions", "answers", "tasks", "infos"}
"""Parameters of reward functions that score several answers at once."""


@dataclass(frozen=True)
class RewardFunction:
    """One reward function of a rubric.

    Args:
        function: Plain or asynchronous; called with those of its parameters that there are, by name.
        weight: What 1 of it is worth.
        objects: What its rubric gives it beside the rollout: parsers, judges.
    """

    function: Callable[..., Any]
    weight: float
    objects: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its name in the log."""
        return getattr(self.function, "__name__", type(self.function).__name__)


@dataclass(frozen=True)
class LoadedEnvironment:
    """What a name stands for: an environment, or a rubric alone, and the functions that reward."""

    environment: Any
    functions: tuple[RewardFunction, ...] = field(repr=False)

    @property
    def has_turns(self) -> bool:
        """Whether it answers the model."""
        return hasattr(self.environment, "env_response")


@lru_cache(maxsize=8)
def load_environment(name: str, arguments: str) -> LoadedEnvironment:
    """The environment or rubric behind `module:load_environment`, or `module:object`, made once.

    Args:
        arguments: What the function is called with, as JSON.
    Raises:
        UserError: If there is none, it cannot be made, or its rewards need what is not here.
    """
    thing, knobs = load_object(name), json.loads(arguments)
    if isinstance(thing, type) or (callable(thing) and not hasattr(thing, "rubric") and not hasattr(thing, "funcs")):
        try:
            with _keep_signal_handlers():
                thing = thing(**knobs)
        except Exception as error:  # the user's own code
            raise UserError(
                f"environment verifiers: {name} broke: {type(error).__name__}: {first_line(error)}"
            ) from error
    elif knobs:
        raise UserError(f"environment verifiers: {name} is no function, so nothing takes `arguments`; remove them")
    rubric = getattr(thing, "rubric", None) or thing
    functions = tuple(_list_functions(rubric))
    if not functions:
        what = (
            "has no reward functions" if hasattr(rubric, "funcs") else "is no environment with a rubric, and no rubric"
        )
        raise UserError(f"environment verifiers: {name}: a {type(rubric).__name__} {what}")
    for reward in functions:
        if of_groups := sorted(OF_GROUPS & inspect.signature(reward.function).parameters.keys()):
            raise UserError(
                f"environment verifiers: {name}: {reward.name} asks for {', '.join(of_groups)}: it scores several "
                "answers at once, and here each has its own reward; leave it out of the rubric"
            )
    if getattr(thing, "tool_defs", None) or getattr(thing, "oai_tools", None):
        raise UserError(
            f"environment verifiers: {name} has tools, which are called as an API returns calls; answers here are text"
        )
    return LoadedEnvironment(thing, functions)


@contextmanager
def _keep_signal_handlers() -> Iterator[None]:
    """Environments of the library take over signals, with which a run here stops and can go on later."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _list_functions(rubric: Any) -> Iterator[RewardFunction]:
    """The reward functions of a rubric, and of the rubrics of which it is a group."""
    functions, weights = list(getattr(rubric, "funcs", ())), list(getattr(rubric, "weights", ()))
    if weights and len(weights) != len(functions):
        what = f"{len(weights)} weights for {len(functions)} functions"
        raise UserError(f"environment verifiers: a {type(rubric).__name__} has {what}")
    for function, weight in zip(functions, weights or [1.0] * len(functions), strict=True):
        yield RewardFunction(function, float(weight), getattr(rubric, "class_objects", None) or {})
    for other in getattr(rubric, "rubrics", ()):
        yield from _list_functions(other)


async def call_by_name(function: Callable[..., Any], objects: Mapping[str, Any], takes_all: bool = False) -> Any:
    """Call a function, plain or asynchronous, with those of its parameters that there are.

    Args:
        takes_all: One with `**kwargs` gets everything.
    """
    parameters = inspect.signature(function).parameters.values()
    all_wanted = takes_all and any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = objects.keys() if all_wanted else {p.name for p in parameters} & objects.keys()
    value = function(**{name: objects[name] for name in names})
    return await value if inspect.isawaitable(value) else value


def find_missing(functions: Sequence[RewardFunction], objects: Mapping[str, Any]) -> tuple[str, str] | None:
    """A reward function and what it asks for that nothing gives it, if there is one."""
    for reward in functions:
        for parameter in inspect.signature(reward.function).parameters.values():
            is_open = parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            is_given = parameter.name in objects or parameter.name in reward.objects
            if not is_open and not is_given and parameter.default is parameter.empty:
                return reward.name, parameter.name
    return None


def list_rollout_objects(rollout: Mapping[str, Any]) -> dict[str, Any]:
    """What reward functions are called with: the columns of the row, and what came of it."""
    names = ("prompt", "completion", "answer", "info", "task")
    return {**rollout["input"], **{name: rollout[name] for name in names}, "state": rollout}


async def score_rollout(functions: Sequence[RewardFunction], rollout: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """The weighted sum of the reward functions, and each by its name, before its weight."""
    parts: dict[str, float] = {}
    total = 0.0
    for reward in functions:
        objects = {**list_rollout_objects(rollout), **reward.objects}
        score = float(await call_by_name(reward.function, objects, takes_all=True))
        parts[reward.name] = parts.get(reward.name, 0.0) + score
        total += reward.weight * score
    return total, parts


class Rollout:
    """One rollout as the interface knows it: a mutable state, and the environment that is asked about it."""

    def __init__(self, game: LoadedEnvironment, prompt: list[dict[str, Any]], columns: Mapping[str, Any]) -> None:
        self.game, self.messages = game, list(prompt)
        info = columns.get("info") or {}
        self.state: dict[str, Any] = {
            "input": dict(columns), "prompt": list(prompt), "completion": [], "answer": columns.get("answer", ""),
            "info": json.loads(info) if isinstance(info, str) else info, "task": columns.get("task"),
            "trajectory": [], "responses": [], "turn": 0, "is_completed": False, "is_truncated": False,
            "stop_condition": None, "error": None, "final_env_response": None, "reward": None, "metrics": None,
        }  # fmt: skip

    async def set_up(self) -> None:
        """Let the environment write into the state what it needs."""
        if setup := getattr(self.game.environment, "setup_state", None):
            self._take_state(await call_by_name(setup, {"state": self.state}))

    async def add_answer(self, text: str) -> bool:
        """Take an answer of the model; whether the environment says that the rollout is complete."""
        message = {"role": "assistant", "content": text}
        step = {"prompt": list(self.messages), "completion": [message], "response": None, "tokens": None}
        self.state["trajectory"].append(
            {**step, "reward": None, "advantage": None, "is_truncated": False, "extras": {}}
        )
        self.state["responses"].append(text)
        self.state["turn"] += 1
        self._add_messages([message])
        return await self._is_over()

    async def answer_model(self) -> tuple[list[dict[str, Any]], bool]:
        """What the environment says to the last answer, and whether that was its last word."""
        answer = await call_by_name(self.game.environment.env_response, self._list_objects())
        if isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping):
            answer, state = answer
            self._take_state(state)
        messages = read_messages(answer)
        self._add_messages(messages)
        return messages, self.state.get("final_env_response") is not None and await self._is_over()

    async def _is_over(self) -> bool:
        environment = self.game.environment
        most = getattr(environment, "max_turns", None) or -1
        if not self.game.has_turns or 0 < most <= self.state["turn"]:
            return True
        is_completed = getattr(environment, "is_completed", None)
        return bool(is_completed and await call_by_name(is_completed, self._list_objects()))

    def _list_objects(self) -> dict[str, Any]:
        return {"messages": list(self.messages), "state": self.state}

    def _add_messages(self, messages: Sequence[dict[str, Any]]) -> None:
        self.messages = [*self.messages, *messages]
        self.state["completion"] = self.messages[len(self.state["prompt"]) :]

    def _take_state(self, state: Any) -> None:
        if isinstance(state, dict):
            self.state = state


def read_messages(answer: Any) -> list[dict[str, Any]]:
    """What an environment says, as messages: a text is the user's; objects of the library become mappings."""
    if isinstance(answer, str):
        return [{"role": "user", "content": answer}]
    if not isinstance(answer, Sequence):
        raise ValueError(f"env_response gives a {type(answer).__name__}, not messages")
    return [dict(m) if isinstance(m, Mapping) else m.model_dump(exclude_none=True) for m in answer]
