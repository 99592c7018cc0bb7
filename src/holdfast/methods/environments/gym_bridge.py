"""What joins an environment of Gymnasium to text: how it is made, what it shows, which action an answer names."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from holdfast.axes.own_class import import_own_module
from holdfast.data.thoughts import final_answer
from holdfast.errors import UserError, first_line

MOST_NUMBERS = 1000
"""Of an observation that is written out; of a picture there would be hundreds of thousands."""
COLOUR = re.compile(r"\x1b\[([\d;]*)m")
HIGHLIGHT = re.compile(r"\x1b\[4\d(?:;1)?m(.*?)\x1b\[0m")
"""What a text screen shows on a ground of another colour: where the player stands."""


@lru_cache(maxsize=8)
def open_environment(name: str, settings: str, actions: tuple[str, ...] | None, show: str) -> Any:
    """An environment of Gymnasium, made once: `reset` with a seed makes it a new one.

    Raises:
        UserError: If Gymnasium is not installed or has none of that name, or it cannot be played in text.
    """
    try:
        import gymnasium
    except ImportError:
        raise UserError(
            "environment gym needs Gymnasium, which is not installed: pip install 'holdfast[gym]'"
        ) from None
    module, _, _ = name.rpartition(":")
    if module:
        import_own_module(name, module)
    screen: dict[str, Any] = {"render_mode": "ansi"} if show == "screen" else {}
    try:
        environment: Any = gymnasium.make(name, disable_env_checker=True, **json.loads(settings), **screen)
    except Exception as error:  # of Gymnasium, or of the environment's own code
        raise UserError(f"environment gym: {name} cannot be made: {first_line(error)}") from error
    space = environment.action_space
    if not isinstance(space, gymnasium.spaces.Discrete):
        raise UserError(f"environment gym: the actions of {name} are {space}; only a choice (Discrete) can be said")
    if actions is not None and len(actions) != int(space.n):
        raise UserError(f"environment gym: actions: {len(actions)} names for the {space.n} actions of {name}")
    if screen and "ansi" not in environment.metadata.get("render_modes", ()):
        raise UserError(
            f"environment gym: {name} draws no text (render mode ansi); leave out show, or give a formatter"
        )
    return environment


def describe_observation(observation: Any) -> str:
    """An observation in words: numbers as they are, arrays as lists, the parts of several by name or in order.

    Raises:
        UserError: If it is an array of many numbers.
    """
    import numpy as np

    if isinstance(observation, Mapping):
        return "\n".join(f"{key}: {describe_observation(value)}" for key, value in observation.items())
    if isinstance(observation, tuple):
        return ", ".join(describe_observation(value) for value in observation)
    if isinstance(observation, np.ndarray):
        if observation.size > MOST_NUMBERS:
            raise UserError(
                f"an observation is an array of {' x '.join(map(str, observation.shape))} numbers; say by `formatter` "
                "what of it is shown"
            )
        return str(
            np.round(observation.astype(float), 4).tolist() if observation.dtype.kind == "f" else observation.tolist()
        )
    return f"{observation:g}" if isinstance(observation, (float, np.floating)) else str(observation)


def describe_screen(screen: str) -> str:
    """A text screen without colours; what is highlighted stands in brackets."""
    return COLOUR.sub("", HIGHLIGHT.sub(r"[\1]", screen)).strip("\n")


def find_action(answer: str, names: Sequence[str]) -> int | None:
    """The number of the one action that an answer names, whatever it says beside it; `None` for none or several.

    Read is what is said after the thought. Of names of which one holds another ("up" and "pick up") the longer counts.
    """
    by_length = sorted(names, key=len, reverse=True)
    pattern = r"(?<![\w-])(?:" + "|".join(map(re.escape, by_length)) + r")(?!\w)"
    words = {word.casefold() for word in re.findall(pattern, final_answer(answer), re.IGNORECASE)}
    lower_names = [name.casefold() for name in names]
    return lower_names.index(words.pop()) if len(words) == 1 else None
