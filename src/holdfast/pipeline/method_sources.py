"""The source of what is the user's own in a recipe: an edited class makes another run, whatever the recipe says."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.axes.axis import AXES
from holdfast.axes.environment import Environment
from holdfast.axes.judge import Judge
from holdfast.axes.method import Method
from holdfast.axes.registry import name_of, source_of
from holdfast.recipe.schema import Common, Recipe

STATE_KEY = "sources"
"""In `run.json`: names of classes and files of the user's own to the hashes of their source."""


def hash_own_sources(recipe: Recipe) -> dict[str, str]:
    """The hash of every source of the user's own in a recipe and its stages: classes, and files of judges and
    environments.
    """
    out: dict[str, str] = {}
    for part in (recipe, *recipe.stages):
        for method in iterate_methods(part):
            if (source := source_of(method)) is not None:
                out[name_of(method)] = source
            own_files = [method.own_file()] if isinstance(method, Judge) else []
            own_files += method.own_files() if isinstance(method, Environment) else []
            for file in filter(None, own_files):
                out[str(file)] = hashlib.sha256(file.read_bytes()).hexdigest()
    return out


def iterate_methods(part: Common) -> Iterator[Method]:
    """Every method that a recipe, or a stage, has chosen."""
    for axis in AXES:
        chosen: Any = getattr(part, axis.key, None)
        for method in chosen if isinstance(chosen, tuple) else (chosen,):
            if isinstance(method, Method):
                yield method


def find_source_changes(state: Mapping[str, Any], recipe: Recipe) -> list[str]:
    """What of the user's own code is not what a run was made with, one sentence part each.

    Args:
        state: Content of the run's `run.json`; runs of older versions do not say, which counts as a change.
    """
    old_sources = state.get(STATE_KEY)
    there = old_sources if isinstance(old_sources, dict) else {}
    return [
        f"the source of {name} has changed since" if name in there else f"it does not say of which source {name} was"
        for name, source in hash_own_sources(recipe).items()
        if there.get(name) != source
    ]
