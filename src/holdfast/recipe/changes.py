"""How two recipes differ, in words: what a run directory says to a recipe that is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.recipe.schema import Recipe
from holdfast.recipe.yaml_writer import format_scalar

SAME_RESULT = ("output", "device", "sampling.slots", "train.save_every", "train.keep_checkpoints", "track")
"""Settings that change where or how fast a run is done, and nothing of its result."""

MAX_LISTED = 3
"""Differences that a message names."""

LONGEST = 60
"""Characters of a value in a message."""


def result_settings(recipe: Recipe) -> dict[str, Any]:
    """What makes two runs the same: the recipe in plain data without the settings in `SAME_RESULT`."""
    data = recipe.model_dump(mode="json")
    for part in (data, *data.get("stages", ())):
        for name in SAME_RESULT:
            section, _, key = name.rpartition(".")
            (part.get(section) or {} if section else part).pop(key, None)
    return data


def list_differences(here: Recipe, there: Recipe) -> list[str]:
    """ "optimizer.learning_rate is 0.0001 here and 0.001 there", one for each setting, in the order of a recipe."""
    mine, theirs = dict(_flatten_settings(result_settings(here))), dict(_flatten_settings(result_settings(there)))
    names = [*mine, *(name for name in theirs if name not in mine)]
    return [
        f"{name} is {_format_value(mine, name)} here and {_format_value(theirs, name)} there"
        for name in names
        if name not in mine or name not in theirs or mine[name] != theirs[name]
    ]


def shorten_differences(lines: list[str]) -> str:
    """The first few differences, and how many there are besides."""
    more = len(lines) - MAX_LISTED
    return ", ".join(lines[:MAX_LISTED]) + (f", and {more} more" if more > 0 else "")


def _format_value(settings: dict[str, Any], name: str) -> str:
    if name not in settings:
        return "not set"
    text = format_scalar(settings[name])
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def _flatten_settings(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted setting and value; of a stage its name stands for its number."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten_settings(inner, f"{prefix}{key}.")
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for number, inner in enumerate(value):
            item_name = inner.get("name", number) if prefix == "stages." else number
            yield from _flatten_settings(inner, f"{prefix}{item_name}.")
    else:
        yield prefix.rstrip("."), value
