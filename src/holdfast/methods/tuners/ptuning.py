"""P-tuning: embeddings before every sequence that a small network makes while it trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.methods.tuners.soft_prompt import SoftPromptTuner

if TYPE_CHECKING:
    from peft import PromptLearningConfig

    from holdfast.models.loading import Model


class PTuning(SoftPromptTuner):
    """Embeddings before every sequence, made by a network that is dropped afterwards. [Liu et al. 2021, 2103.10385]

    What: as `prompt`, but p = g(e) with trained e [k, d] and a network g, an MLP or a bidirectional LSTM with an MLP
    behind it, which ties the virtual tokens to each other. After training only p is kept: the same model.

    When it helps: where `prompt` is slow or unsteady: g makes the directions of p depend on one another, and the rate
    need not be so high (ten times that of `lora` is the default).

    When it fails: as `prompt`. The network trains too: its weights are many more than those that are kept.

    Columns needed: none beyond the objective's.

    The authors put virtual tokens anywhere in a template; here, as in PEFT, they stand before the sequence.

    Stored: p as a PEFT adapter, without the network. It cannot be folded into the weights.

    Paper: Liu, Zheng, Du, Ding, Qian, Yang, Tang 2021, arXiv 2103.10385.
    """

    paper: ClassVar[str] = "Liu et al. 2021, arXiv 2103.10385"
    formula: ClassVar[str] = "tokens · d + the network's, of which tokens · d are kept"
    rate_factor: ClassVar[float] = 10.0

    encoder: Literal["mlp", "lstm"] = Field("mlp", description="The network that makes the embeddings.")
    hidden_size: int | None = Field(None, ge=1, description="Its width; default: that of the embeddings.")

    def build_config(self) -> PromptLearningConfig:
        """PEFT's configuration."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.tokens,
            encoder_reparameterization_type=self.encoder.upper(),
            encoder_hidden_size=self.hidden_size,  # type: ignore[arg-type]  # PEFT takes the embeddings' for None
        )

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """Embeddings e, and the maps of the MLP; an LSTM has two layers of two directions with four gates each."""
        d: int = model.get_input_embeddings().embedding_dim  # type: ignore[union-attr, assignment]
        h = self.hidden_size or d
        if self.encoder == "mlp":
            return self.tokens * d + (d * h + h) + (h * h + h) + (h * d + d)
        lstm = sum(2 * (4 * h * (read + h) + 8 * h) for read in (d, 2 * h))
        return self.tokens * d + lstm + (4 * h * h + 2 * h) + (2 * h * d + d)
