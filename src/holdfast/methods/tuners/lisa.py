"""LISA: a few layers at a time move, drawn anew every so many steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from holdfast.axes.tuner import Tuner
from holdfast.methods.tuners.model_parts import ModelParts, count_parameters, train_only

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class LISA(Tuner):
    """A few layers move at a time, drawn anew every n steps; embeddings and head always. [Pan et al. 2024, 2403.17919]

    What: in step t the layers S_k move, k = floor(t / every), S_k drawn uniformly without replacement from the L
    layers; embeddings, final norm and head move in every step. All others are frozen and out of the optimizer.

    Optimizer state of a layer is dropped when it is frozen, and begins empty when it is drawn again: the memory is that
    of `layers` layers at any time (the authors' code and LMFlow's keep the state of every layer ever drawn, and end
    with that of full fine-tuning). What moves on keeps its state. A draw goes by seed and number alone, so that an
    interrupted run ends bit for bit as another. Where weights are held in bf16 the bits below, which the optimizer
    keeps beside them, are dropped with the state.

    When it helps: full fine-tuning's reach at about LoRA's memory; the authors find it at or above both.

    When it fails: many draws are needed for every layer to have its turn (a run of 100 steps has five of two layers);
    vocabularies that outweigh the layers, whose embeddings always train. On one process: gradients are exchanged by a
    plan made once.

    Columns needed: none beyond the objective's. Stored: all weights. Not an adapter.

    Paper: Pan, Liu, Diao, Pi, Zhang, Han, Zhang 2024, arXiv 2403.17919 (NeurIPS 2024). Their claim: 10 to
    35 % above LoRA on MT-Bench at LoRA's memory.
    """

    paper: ClassVar[str] = "Pan et al. 2024, arXiv 2403.17919"
    formula: ClassVar[str] = "embeddings + head + layers · a layer's, at a time"

    layers: int = Field(2, ge=1, description="Layers that move at a time.")
    every: int = Field(20, ge=1, description="Steps after which they are drawn anew.")

    def check(self, model: Model) -> None:
        """See that the model has so many layers.

        Raises:
            UserError: If not.
        """
        ModelParts.from_model(model).refuse_more_layers(self.layers, "layers")

    def apply(self, model: Model, seed: int) -> Model:
        """Every weight may move; which do, `apply_draw` says."""
        self.check(model)
        model.requires_grad_(True)
        return model

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """What is outside of layers, and as many layers as move at a time, which are equally large."""
        parts = ModelParts.from_model(model)
        each = (*parts.embeddings, *parts.head, *(name for layer in parts.layers[: self.layers] for name in layer))
        return count_parameters(model, each)

    def draw_number(self, step: int, steps: int, epoch: int) -> int:
        """One draw for every `every` steps."""
        return step // self.every

    def apply_draw(self, model: Model, seed: int, draw: int) -> None:
        """Let the layers of a draw move, with all that is outside of layers."""
        import numpy as np

        parts = ModelParts.from_model(model)
        chosen = np.random.default_rng([seed, draw]).choice(len(parts.layers), self.layers, replace=False)
        train_only(model, {*parts.embeddings, *parts.head, *(name for i in chosen for name in parts.layers[i])})
