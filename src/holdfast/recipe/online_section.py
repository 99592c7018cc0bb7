"""The part of a recipe that says how rounds of online learning are played."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from holdfast.recipe.data_section import RecipeSection


class Online(RecipeSection):
    """Rounds of online learning: the model answers as it is, and learns from what that earned."""

    rounds: int = Field(120, ge=1, description="How many.")
    prompts: int = Field(48, ge=1, description="Rows that are drawn for a round.")
    n: int = Field(8, ge=1, description="Episodes of each row.")
    updates: int = Field(1, ge=1, description="Passes over the answers of a round.")
    minibatches: int = Field(1, ge=1, description="Steps of a pass.")
    drop_equal: bool = Field(
        True, description="Leave out rows whose episodes all earned the same: they teach nothing by comparison."
    )
    refill: int = Field(
        0,
        ge=0,
        description="How often prompts are drawn again for a round until as many as `prompts` teach something; "
        "DAPO's dynamic sampling: 3.",
    )
    max_kl: float | None = Field(
        None,
        gt=0,
        description="Leave out the further steps on a round's answers once the model is so far from the one "
        "that wrote them: nats per token, estimated by k3. Default: the clip of ratios alone holds it.",
    )
    max_staleness: int | None = Field(
        None,
        ge=0,
        description="How many updates old an answer may be when a step learns from it; 0: only the policy's own. A "
        "recipe whose rounds have more steps is refused. Default: what updates and minibatches come to.",
    )
    max_mismatch: float = Field(
        0.05,
        gt=0,
        description="Stop once the sampler's own log-probabilities of the answers are so far from the trainer's, "
        "by the same weights: nats per token, estimated by k3. About 1e-9 in fp32, 1e-4 to 1e-2 in bf16.",
    )
    correction: Literal["truncate", "mask"] | None = Field(
        None,
        description="Weigh the credit of tokens by how likely they are to the trainer over how likely they were to the "
        "sampler: ratios are cut at correction_bound (truncated importance sampling), or count nothing beyond it on "
        "either side (mask). Default: no weights, as both compute with the same ones.",
    )
    correction_level: Literal["token", "sequence"] = Field(
        "token", description="What has such a ratio: a token, or an answer in the mean of its tokens."
    )
    correction_bound: float = Field(2.0, gt=1, description="Where it is cut.")
    overlong: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of sampling.max_tokens, its last tokens, over which an answer's reward falls by 1; DAPO: "
        "0.2.",
    )
    divergence: float = Field(
        0.0,
        ge=0,
        description="What a nat of log-ratio to the untouched model takes off a token's reward (k1): 0.05 in RLOO, and "
        "in RLHF with PPO. The objective's own beta is a divergence in the loss.",
    )

    @property
    def steps(self) -> int:
        """Steps of the trainer."""
        return self.rounds * self.updates * self.minibatches
