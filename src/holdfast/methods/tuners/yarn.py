"""YaRN: a longer context by rotary angles that are interpolated where they turn slowly; every weight moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from holdfast.axes.tuner import Tuner
from holdfast.methods.tuners.long_context import check_positions, extend_positions, position_factor

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from holdfast.models.loading import Model


class YaRN(Tuner):
    """A longer context by rotary angles interpolated where they turn slowly. [Peng et al. 2023, 2309.00071]

    What: of a model with context L and head size D, pair d of dimensions turns by theta_d = b^(-2d/D) a token, so
    r(d) = L theta_d / 2 pi times within the context. With s = ceil(length / L) its angle becomes
    theta'_d = (1 - gamma_d) theta_d / s + gamma_d theta_d: gamma is 1 where r > beta_fast (positions close by stay
    apart), 0 where r < beta_slow (they would leave the range of pre-training), and between these, as in the authors'
    code, falls linearly with d. Cosine and sine [T, D] are multiplied by 0.1 ln s + 1, which makes attention as sharp
    over many tokens as over few. All weights train. `positions: linear` divides all angles by s: position
    interpolation.

    When it helps: rows longer than the model's context, with few steps: the authors train 400 at s = 16, a tenth of the
    tokens and two fifths of the steps of what was before. Short rows suffer less than by interpolation of all angles.

    When it fails: rows within the context (nothing changes: take `full`). Attention is whole, so its cost grows with
    the square of the length (`longlora` trains in groups, and has `positions: yarn` too). Not for learned positions
    (GPT-2) nor for those that are scaled already: refused by name.

    Columns needed: none beyond the objective's. Stored: all weights, with `rope_parameters` of transformers, vLLM's
    and llama.cpp's words for it; GGUF is written of `linear` ones only.

    Paper: Peng et al. 2023, arXiv 2309.00071 (ICLR 2024). Rate 2e-5 without decay, warm-up of 20 steps.
    """

    paper: ClassVar[str] = "Peng et al. 2023, arXiv 2309.00071"
    formula: ClassVar[str] = "P"
    follows_length: ClassVar[str] = "length"

    length: int | None = Field(
        None, ge=4, description="Tokens of the longest rows; default: train.max_length, else the model's context."
    )
    factor: float | None = Field(None, ge=1, description="s; default: length / context, rounded up. 1 leaves angles.")
    positions: Literal["yarn", "linear"] = Field(
        "yarn", description="Which angles are interpolated: slow ones, or all."
    )
    beta_fast: float = Field(32.0, gt=0, description="Pairs that turn more often within the context keep their angles.")
    beta_slow: float = Field(1.0, gt=0, description="Pairs that turn less often have theirs divided by s.")

    @model_validator(mode="after")
    def _check_betas(self) -> YaRN:
        if self.positions == "linear" and (self.beta_fast, self.beta_slow) != (32.0, 1.0):
            raise ValueError("beta_fast and beta_slow are of positions: yarn; leave them out with linear ones")
        if self.beta_slow >= self.beta_fast:
            raise ValueError(f"beta_slow: must be below beta_fast ({self.beta_fast:g}), not {self.beta_slow:g}")
        return self

    def check(self, model: Model) -> None:
        """See that the model's positions can be interpolated, where they must.

        Raises:
            UserError: If not, by name.
        """
        check_positions(model, self.context_factor(model.config))

    def apply(self, model: Model, seed: int) -> Model:
        """Interpolate; all parameters get gradients, `seed` is not used."""
        betas = {"beta_fast": self.beta_fast, "beta_slow": self.beta_slow} if self.positions == "yarn" else {}
        extend_positions(model, self.context_factor(model.config), self.positions, **betas)
        model.requires_grad_(True)
        return model

    def list_notes(self, model: Model) -> list[str]:
        """A line with the factor."""
        factor = self.context_factor(model.config)
        if factor == 1:
            return ["the longest rows fit into the model's context, so positions stay as they are"]
        return [f"the context becomes {factor:g} times as long ({self.positions} positions)"]

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """All of them; weights that two modules share count once."""
        return sum(p.numel() for p in model.parameters())

    def memory_class(self) -> str:
        """Gradients and optimizer state of all weights."""
        return "all"

    def context_factor(self, config: PreTrainedConfig) -> float:
        """How many times longer the context becomes."""
        return position_factor(config, self.length, self.factor)
