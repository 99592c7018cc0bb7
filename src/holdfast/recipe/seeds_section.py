"""The section `train.seeds` of a recipe."""

from __future__ import annotations

from pydantic import Field

from holdfast.recipe.data_section import RecipeSection


class Seeds(RecipeSection):
    """Seeds of sources of randomness apart, each `train.seed` where it is not given."""

    order: int | None = Field(
        None,
        ge=0,
        description="The order in which rows are trained on, in online learning which of them a round draws and how "
        "its answers are shared out to steps.",
    )
    init: int | None = Field(
        None,
        ge=0,
        description="What the tuner and a value head draw: how adapters, virtual tokens and heads start, and which "
        "weights move where that is drawn (half, LISA).",
    )
    noise: int | None = Field(
        None, ge=0, description="What every pass draws anew: dropout, mixout, the noise of NEFTune."
    )


def list_given_seeds(seeds: Seeds) -> dict[str, int]:
    """Those that are given, by name."""
    every = {"order": seeds.order, "init": seeds.init, "noise": seeds.noise}
    return {name: seed for name, seed in every.items() if seed is not None}
