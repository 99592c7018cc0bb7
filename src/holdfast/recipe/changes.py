"""How two recipes differ, in words: what a run directory says to a recipe that is not its own."""

from __future__ import annotations

from typing import Any

from holdfast.recipe.schema import Recipe
from holdfast.recipe.tree import format_path
from holdfast.recipe.yaml_writer import find_leaf_values, format_scalar

SAME_RESULT = (
    "output", "device", "sampling.slots", "sampling.draft", "sampling.draft_tokens", "sampling.workers",
    "sampling.runner", "sampling.concurrency", "train.save_every", "train.keep_checkpoints",
    "train.stop_at", "track", "search", "environment.step_seconds",
)  # fmt: skip
"""Settings that change where, how fast or in how many goes a run is done, and nothing of its result."""

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
        if "seeds" in (train := part.get("train") or {}):  # a run of before there were any is the same run
            train["seeds"] = {name: seed for name, seed in train["seeds"].items() if seed is not None}
            if not train["seeds"]:
                del train["seeds"]
        sampling = part.get("sampling") or {}
        if isinstance(engine := sampling.get("engine"), list):  # its samples are called by the first of the servers
            sampling["engine"] = engine[0]
    return data


def list_differences(here: Recipe, there: Recipe) -> list[str]:
    """ "optimizer.learning_rate is 0.0001 here and 0.001 there", one for each setting, in the order of a recipe."""
    mine, theirs = _flatten_settings(result_settings(here)), _flatten_settings(result_settings(there))
    return [
        f"{name} is {_format_value(mine, name)} here and {_format_value(theirs, name)} there"
        for name in mine | theirs
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


def _flatten_settings(data: dict[str, Any]) -> dict[str, Any]:
    """Dotted setting to value; of a stage its name stands for its number."""
    names = [stage["name"] for stage in data.get("stages", ())]
    return {
        format_path(("stages", names[int(path[1])], *path[2:]) if path[0] == "stages" and names else path): value
        for path, value in find_leaf_values(data)
    }
