"""The section `search` of a recipe, which `holdfast search` reads."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any, Literal

from pydantic import Field, field_validator

from holdfast.recipe.data_section import RecipeSection
from holdfast.recipe.search_space import parse_space

BUDGET = re.compile(r"(?=\d)(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


def parse_budget(text: str) -> float:
    """Seconds of `1h`, `90m`, `1h30m`, `45s`.

    Raises:
        ValueError: If it is none of these.
    """
    match = BUDGET.fullmatch(text.strip())
    seconds = (
        sum(int(part or 0) * unit for part, unit in zip(match.groups(), (3600, 60, 1), strict=True)) if match else 0
    )
    if not seconds:
        raise ValueError(f"must be a time such as 1h, 90m or 1h30m, not {text!r}")
    return float(seconds)


class Search(RecipeSection):
    """What a search varies, and how it chooses."""

    space: dict[str, Any] = Field(
        {},
        description="Dotted setting to a list of values, `{log: [low, high]}`, `{range: [low, high]}` or `{int: [low, "
        "high]}`. Default: that of the objective (`autoft`), else the learning rate, from a tenth of the "
        "recipe's to ten times it, and tuner `half` beside the recipe's own.",
    )
    value: str = Field(
        "target",
        description="What trials are chosen by: the gain on `target`, or on another task (a file, `lab:SKILL`), which "
        "then stands in its place until the winner is trained.",
    )
    max_loss: float | None = Field(
        None,
        ge=0,
        description="Most that may be lost on the kept tasks, in points; default: evaluate.gate.max_loss, else no "
        "limit.",
    )
    trials: int = Field(40, ge=1, description="Recipes tried at most, plain SFT and the recipe as it is among them.")
    budget: str | None = Field(None, description="Time after which nothing new is tried: 1h, 90m; default: no limit.")
    rungs: tuple[float, ...] = Field(
        (0.125, 0.25, 0.5, 1.0),
        description="Shares of the steps at which trials are measured; the best at each go on to the next.",
    )
    batch: int = Field(
        1,
        ge=1,
        description="Suggestions made at once, none of which knows what the others come to; so many train side by side "
        "with --workers.",
    )
    reduce: int = Field(3, ge=2, description="One trial of so many goes on to the next rung.")
    finalists: int = Field(3, ge=1, description="Recipes that are trained with further seeds before one is chosen.")
    seeds: int = Field(3, ge=1, description="Seeds of each of these.")
    dial: tuple[float, ...] = Field(
        (0.8, 0.6, 0.4),
        description="Points between base (0) and tuned (1) at which trials of the last rung are measured too, which "
        "needs no training.",
    )
    holdout: float = Field(
        0.5, gt=0, lt=1, description="Share of every task's questions that nothing is chosen by, to confirm the winner."
    )
    confidence: float = Field(
        0.9,
        gt=0.5,
        lt=1,
        description="With which the winner must keep to `max_loss` on the questions held out; 0.9: of ten searches at "
        "most one returns a recipe that does not.",
    )
    sampler: Literal["tpe", "random"] = Field(
        "tpe", description="Who suggests: tpe (learns from the trials; needs holdfast[search]), or random."
    )
    seed: int = Field(0, ge=0, description="Seeds the suggestions.")

    @field_validator("space")
    @classmethod
    def _known_shapes(cls, value: dict[str, Any]) -> dict[str, Any]:
        parse_space(value)
        return value

    @field_validator("budget")
    @classmethod
    def _like_a_time(cls, value: str | None) -> str | None:
        if value is not None:
            parse_budget(value)
        return value

    @field_validator("rungs")
    @classmethod
    def _rise_to_one(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or value[-1] != 1 or value[0] <= 0 or any(a >= b for a, b in pairwise(value)):
            raise ValueError(f"must rise to 1, as in [0.25, 0.5, 1], not {list(value)}")
        return value

    @field_validator("dial")
    @classmethod
    def _on_the_line(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if wrong := [point for point in value if not 0 < point < 1]:
            raise ValueError(f"must be between 0 and 1, not {wrong[0]:g}")
        return value
