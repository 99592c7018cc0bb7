"""Prefix tuning: keys and values that every layer finds before every sequence."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.errors import UserError
from holdfast.methods.tuners.soft_prompt import SoftPromptTuner

if TYPE_CHECKING:
    from peft import PromptLearningConfig

    from holdfast.models.loading import Model


class Prefix(SoftPromptTuner):
    """Trained keys and values before every sequence in every layer. [Li and Liang 2021, arXiv 2101.00190]

    What: attention of every layer looks at k trained keys and values beside those of the tokens. While it trains they
    are MLP(e) of trained e [k, d'] (without it, training is unsteady); afterwards only keys and values are kept. For
    one key the attention to the tokens is that of the base times 1 - a, and the output (1 - a) t + a v: it adds a
    direction and cannot change what tokens look at relative to each other (Petrov et al. 2023, arXiv 2310.19698), so
    it calls up what the model can do rather than teach it.

    When it helps: as `prompt`, with more to say: L layers instead of one. Nothing is forgotten without it.

    When it fails: new skills. With `train.gradient_checkpointing`, where layers get no keys of before.

    Columns needed: none beyond the objective's.

    Rows are not packed: each needs the prefix before it. What is sampled goes through transformers' `generate`.

    Stored: keys and values as a PEFT adapter, without the MLP. It cannot be folded into the weights.

    Paper: Li, Liang 2021, arXiv 2101.00190 (ACL 2021).
    """

    paper: ClassVar[str] = "Li and Liang 2021, arXiv 2101.00190"
    formula: ClassVar[str] = "tokens · d' + the MLP's, of which tokens · 2 L d' are kept (d' of keys in a layer)"
    rate_factor: ClassVar[float] = 10.0
    stands_in_cache: ClassVar[bool] = True

    tokens: int = Field(10, ge=1, description="Keys and values in every layer; they take room in the context.")
    projection: bool = Field(True, description="Whether an MLP makes them while they train.")
    hidden_size: int = Field(512, ge=1, description="Its width.")

    def build_config(self) -> PromptLearningConfig:
        """PEFT's configuration."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.tokens,
            prefix_projection=self.projection,
            encoder_hidden_size=self.hidden_size,
        )

    def check(self, model: Model) -> None:
        """See that the prefix leaves room, and that all layers keep keys and values of one width.

        Raises:
            UserError: If not.
        """
        super().check(model)
        kinds = set(getattr(model.config.get_text_config(), "layer_types", None) or ())
        if kinds - {"full_attention", "sliding_attention"}:
            raise UserError(
                f"tuner: prefix trains keys and values, and {type(model).__name__} has layers of "
                f"{', '.join(sorted(kinds))}; choose prompt, or lora"
            )

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """The vectors e and two maps; without the MLP keys and values of every layer."""
        config = model.config.get_text_config()
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = heads * (getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
        both = 2 * config.num_hidden_layers * width
        if not self.projection:
            return self.tokens * both
        return self.tokens * width + (width * self.hidden_size + self.hidden_size) + (self.hidden_size * both + both)
