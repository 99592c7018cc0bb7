"""A comparison in which every method runs at several learning rates, so that losses are read off at equal gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.errors import UserError
from holdfast.evaluation.statistics.matched import compare_at_matched_gain
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.recipe.loader import ResolvedRecipe, resolve_any

Families = Mapping[str, tuple[str, float]]
"""Of each arm's label the method it is of and its learning rate; empty where each runs at its own rate."""


def build_arms_at_rates(
    arms: Mapping[str, ResolvedRecipe], rates: Sequence[float]
) -> tuple[dict[str, ResolvedRecipe], Families]:
    """Every arm at every rate, `sft at 0.001`; and what each is of.

    Raises:
        UserError: If there are not two different rates, one is none, or an arm has stages, each with a rate of its own.
    """
    unique_rates = list(dict.fromkeys(rates))
    for rate in unique_rates:
        if not (math.isfinite(rate) and rate > 0):
            raise UserError(f"--learning-rates: {rate:g} is no learning rate; give numbers above 0, such as 1e-5,3e-5")
    if len(unique_rates) < 2:
        raise UserError("--learning-rates: name at least two; for one, set optimizer.learning_rate")
    for label, arm in arms.items():
        if arm.recipe.stages:
            raise UserError(f"{label}: has stages, each with a learning rate of its own; leave out --learning-rates")
    families = {f"{label} at {rate:g}": (label, rate) for label in arms for rate in unique_rates}
    spread = {
        name: resolve_any(arms[label], [f"optimizer.learning_rate={rate!r}"])
        for name, (label, rate) in families.items()
    }
    return spread, families


def compare_at_equal_gain(
    runs: Mapping[str, Sequence[MeasuredRun]], families: Families, tasks: Sequence[str]
) -> dict[str, Any] | None:
    """The part `matched` of compare.json; `None` where every method ran at its own rate.

    Args:
        runs: Of each arm its runs, one per seed.
        tasks: The names of the tasks that every run measured.
    """
    if not families:
        return None
    methods: dict[str, dict[float, Sequence[MeasuredRun]]] = {}
    for label, group in runs.items():
        method, rate = families[label]
        methods.setdefault(method, {})[rate] = group
    infos = [task.info for task in next(iter(runs.values()))[0].tasks if task.name in tasks]
    return compare_at_matched_gain(infos, methods)
