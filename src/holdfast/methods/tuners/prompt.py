"""Prompt tuning: embeddings before every sequence are all that trains."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.errors import UserError
from holdfast.methods.tuners.soft_prompt import SoftPromptTuner

if TYPE_CHECKING:
    from peft import PromptLearningConfig

    from holdfast.models.loading import Model


class Prompt(SoftPromptTuner):
    """Trained embeddings before every sequence, the model frozen. [Lester et al. 2021, arXiv 2104.08691]

    What: the sequence x_1 .. x_T is read as p_1 .. p_k x_1 .. x_T, where the k embeddings p [k, d] train and have no
    token. They start as embeddings of tokens drawn from the vocabulary, or of the words of `text`.

    When it helps: one base for many tasks, each a few kilobytes; formats that the model knows and must only be asked
    for. Without the prompt the model is the base, bit for bit, so nothing can be forgotten elsewhere.

    When it fails: small models (the paper: as good as full fine-tuning at 10 billion parameters, far below it at 100
    million), anything that no prompt could ask for, and long training: it is slow to learn. The paper trains with a
    rate of 0.3 by Adafactor; the default here is 300 times that of `lora`, 0.03 for `sft`.

    Columns needed: none beyond the objective's.

    Rows are not packed: each needs the prompt before it. What is sampled goes through transformers' `generate`.

    Stored: the embeddings as a PEFT adapter. It cannot be folded into the weights.

    Paper: Lester, Al-Rfou, Constant 2021, arXiv 2104.08691 (EMNLP 2021).
    """

    paper: ClassVar[str] = "Lester et al. 2021, arXiv 2104.08691"
    formula: ClassVar[str] = "tokens · d"
    rate_factor: ClassVar[float] = 300.0

    tokens: int = Field(100, ge=1, description="Virtual tokens before every sequence; they take room in the context.")
    init: Literal["vocabulary", "random", "text"] = Field(
        "vocabulary", description="Start: embeddings of tokens drawn from the vocabulary, of `text`, or random."
    )
    text: str = Field("", description="With init: text, the words whose embeddings are the start, again and again.")

    def build_config(self) -> PromptLearningConfig:
        """PEFT's configuration; a start from words is made in `apply`, with the base's own tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.tokens,
            prompt_tuning_init="SAMPLE_VOCAB" if self.init == "vocabulary" else "RANDOM",
        )

    def check(self, model: Model) -> None:
        """See that the prompt leaves room, and that there is a text where it is to start from one.

        Raises:
            UserError: If not.
        """
        super().check(model)
        if (self.init == "text") != bool(self.text.strip()):
            raise UserError('tuner: prompt: init: text and text: "..." go together; set both, or neither')

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """An embedding for every virtual token."""
        return self.tokens * model.get_input_embeddings().embedding_dim  # type: ignore[union-attr, operator, return-value]

    def apply(self, model: Model, seed: int) -> Model:
        """A `PeftModel` around `model`, which is frozen."""
        tuned = super().apply(model, seed)
        if self.init == "text" and model.device.type != "meta":
            self._start_from_text(tuned, model)
        return tuned

    def _start_from_text(self, tuned: Model, base: Model) -> None:
        import torch

        from holdfast.models.loading import load_tokenizer

        ids = load_tokenizer(str(base.name_or_path)).encode(self.text, add_special_tokens=False)
        if not ids:
            raise UserError(f"tuner.text: {self.text!r} has no tokens; give words")
        start_ids = torch.tensor((ids * (self.tokens // len(ids) + 1))[: self.tokens], device=base.device)
        with torch.no_grad():
            start = base.get_input_embeddings()(start_ids).float()  # [k, d]
            tuned.prompt_encoder["default"].embedding.weight.copy_(start)  # type: ignore[union-attr, index, operator]
