"""The section `evaluate.gate` of a recipe."""

from __future__ import annotations

from pydantic import Field

from holdfast.recipe.data_section import RecipeSection


class Gate(RecipeSection):
    """When the result is refused (exit code 3)."""

    max_loss: float | None = Field(None, ge=0, description="Largest mean drop over the kept tasks, in points.")
    max_bits: float | None = Field(
        None, ge=0, description="Largest mean rise of the kept texts' bits per byte, in per cent."
    )
    max_kl: float | None = Field(
        None, ge=0, description="Largest divergence from the base on the probe, KL in bits per token."
    )
    min_gain: float | None = Field(
        None, description="Smallest gain on the target: in points, or for a target in bits in per cent of them."
    )
