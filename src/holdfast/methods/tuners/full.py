"""Full fine-tuning: every weight moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.tuner import Tuner

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class Full(Tuner):
    """Every weight moves. [the usual practice since Howard and Ruder 2018, arXiv 1801.06146]

    What: theta_t = theta_{t-1} - update(grad L(theta_{t-1})) for all parameters, embeddings and head included.

    When it helps: the most capacity, the baseline every other tuner is measured against; with self-generated answers
    (`s3ft`, `sdft`) it often forgets no more than an adapter.

    When it fails: gold answers in a style foreign to the model move everything, and old skills go first. Try `half`,
    `lora`, or a smaller learning rate (1e-5 to 5e-5 for models of several billion parameters). Memory: 16 bytes per
    parameter with `adamw` in fp32, 2 with `lomo` in bf16.

    Columns needed: none beyond the objective's.

    Stored: all weights. The base is gone from memory, so an objective that needs a reference gets cached
    log-probabilities, computed before the first step.

    Paper: Howard and Ruder 2018, arXiv 1801.06146 (fine-tuning all layers of a language model).
    """

    paper: ClassVar[str] = "Howard and Ruder 2018, arXiv 1801.06146"
    formula: ClassVar[str] = "P"

    def apply(self, model: Model, seed: int) -> Model:
        """All parameters get gradients; `seed` is not used."""
        model.requires_grad_(True)
        return model

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """All of them; weights that two modules share count once."""
        return sum(p.numel() for p in model.parameters())

    def memory_class(self) -> str:
        """Gradients and optimizer state of all weights."""
        return "all"
