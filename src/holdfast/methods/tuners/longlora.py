"""LongLoRA: longer contexts by LoRA, trained embeddings and norms, and attention in shifted groups."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import SavedFormat, Taxonomy
from holdfast.methods.tuners.long_context import (
    attention_maps,
    check_attention,
    check_positions,
    describe_longer,
    embedding_and_norm_names,
    extend_positions,
    group_size,
    is_longer,
    position_factor,
    row_length,
)
from holdfast.methods.tuners.modules import count_low_rank, linear_shapes, refuse_high_rank
from holdfast.models.adapters import PeftTuner, attach_adapter

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedConfig, PreTrainedModel

    from holdfast.models.loading import Model


class LongLoRA(PeftTuner):
    """A longer context by LoRA, trained embeddings and norms, and attention in groups. [Chen et al. 2023, 2309.12307]

    What: (1) LoRA on the maps of attention, and the embeddings and all norms trained in full (the paper's LoRA+).
    (2) While training, half of the heads attend within groups of G = length / groups tokens and half within groups
    shifted by G / 2, cut so that no token sees a later one. At inference attention is whole.
    (3) Beyond the model's context token m stands at position m / factor, factor = ceil(length / context) (interpolation
    of rotary positions: Chen et al. 2023, arXiv 2306.15595).

    When it helps: rows longer than the model's context, at a quarter of attention's cost. Embeddings and norms are few
    weights and most of the effect: LoRA alone does not reach full fine-tuning at new lengths, whatever its rank.

    When it fails: short rows (a row within a group gains nothing). Not for attention that is more than causal, caps its
    scores or has sinks; no interpolation of learned positions (GPT-2) or of scaled ones: refused by name. A preference
    loss compares groups with the base's whole attention, so that its margin does not begin at 0; `groups: 1, shift:
    false` trains with whole attention. A tied embedding trains as a copy: the head stays.

    Columns needed: none beyond the objective's. Stored: an adapter; merged, a plain model whose configuration says it.

    Paper: Chen et al. 2023, arXiv 2309.12307 (ICLR 2024). Numbers there (Llama-2-7B, perplexity at 32,768 tokens): full
    8.08; LoRA 11.44, with norms 10.49, with embeddings 8.29, with both 8.12. Rate 2e-5, constant, 1,000 steps.
    """

    paper: ClassVar[str] = "Chen et al. 2023, arXiv 2309.12307"
    taxonomy: ClassVar[Taxonomy] = "hybrid"
    formula: ClassVar[str] = "r · (in + out) a map of attention, embeddings, norms"
    follows_length: ClassVar[str] = "length"

    length: int | None = Field(
        None, ge=4, description="Tokens of the longest rows; default: train.max_length, else the model's context."
    )
    groups: int = Field(4, ge=1, description="Groups of a row of that length.")
    shift: bool = Field(True, description="Whether half of the heads have groups shifted by half of one.")
    factor: float | None = Field(
        None, ge=1, description="Positions are divided by it; default: length / context, rounded up. 1 leaves them."
    )
    positions: Literal["linear", "yarn"] = Field(
        "linear", description="linear: m / factor; yarn: as tuner yarn has them."
    )
    r: int = Field(8, ge=1, description="Rank.")
    alpha: float = Field(16, gt=0, description="Scale: the update is multiplied by alpha / r.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapter's input.")
    embeddings: bool = Field(True, description="Whether the embeddings train in full.")
    norms: bool = Field(True, description="Whether the norms train in full.")

    def check(self, model: Model) -> None:
        """See that the model's attention can go in groups, and its positions be interpolated where they must.

        Raises:
            UserError: If not, by name.
        """
        self._group_size(model)
        check_attention(model)
        refuse_high_rank(model, linear_shapes(model, attention_maps(model)), self.r)
        check_positions(model, self.context_factor(model.config))

    def apply(self, model: Model, seed: int) -> Model:
        """Interpolate, set attention in groups for training, and put the adapter on, in place."""
        from peft import LoraConfig

        from holdfast.models.shifted_attention import register_shifted_attention

        self.check(model)
        maps, copies = attention_maps(model), embedding_and_norm_names(model, self.embeddings, self.norms)
        model.set_attn_implementation(register_shifted_attention(self._group_size(model), self.shift))
        self._interpolate_positions(model)
        config = LoraConfig(
            task_type="CAUSAL_LM", r=self.r, lora_dropout=self.dropout, target_modules=maps,
            lora_alpha=self.alpha,  # type: ignore[arg-type]  # PEFT says int and divides by it as by any number
            modules_to_save=copies or None, fan_in_fan_out=any(type(m).__name__ == "Conv1D" for m in model.modules()),
        )  # fmt: skip
        return attach_adapter(model, config, seed)

    def list_notes(self, model: Model) -> list[str]:
        """A line with groups and positions."""
        factor, how = self.context_factor(model.config), ", half of the heads' shifted" if self.shift else ""
        line = f"while it trains, attention is in groups of {self._group_size(model):,} tokens{how}"
        return [line + (f"; positions are divided by {factor:g}" if factor > 1 else "")]

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """A and B of the maps of attention, copies of embeddings and norms."""
        names = embedding_and_norm_names(model, self.embeddings, self.norms)
        copies = sum(p.numel() for name in names for p in model.get_submodule(name).parameters())
        return count_low_rank(linear_shapes(model, attention_maps(model)), self.r, False) + copies

    def context_factor(self, config: PreTrainedConfig) -> float:
        """How many times longer the context becomes."""
        return position_factor(config, self.length, self.factor)

    def base_context(self, model: Model) -> AbstractContextManager[None]:
        """A context with the adapter off and the positions of pre-training."""
        return self._use_base(model)

    @contextmanager
    def _use_base(self, model: Any) -> Iterator[None]:
        from holdfast.models.positions import restore_positions

        with super().base_context(model), restore_positions(model.get_base_model()):
            yield

    def merge(self, model: Model) -> PreTrainedModel:
        """The plain model, with whole attention and its positions as they are now."""
        plain = super().merge(model)
        plain.set_attn_implementation("sdpa")
        return plain

    def save(self, model: Model, directory: Path, dtype: torch.dtype | None = None) -> SavedFormat:
        """As PEFT does; where positions are interpolated, that is to be said when it is loaded without Holdfast."""
        saved_as = super().save(model, directory, dtype)
        return describe_longer(model.config) if is_longer(model) else saved_as

    def load(self, directory: Path, base: PreTrainedModel) -> Model:
        """The adapter on a freshly loaded `base`, whose positions are interpolated first; attention is whole."""
        self._interpolate_positions(base)
        return super().load(directory, base)

    def _group_size(self, model: Model) -> int:
        return group_size(row_length(model.config, self.length), self.groups)

    def _interpolate_positions(self, model: Any) -> None:
        extend_positions(model, self.context_factor(model.config), self.positions)
