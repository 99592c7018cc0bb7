"""The first or the last layers move, the rest stays what it was."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError
from holdfast.methods.tuners.model_parts import ModelParts, count_parameters, train_only

if TYPE_CHECKING:
    from holdfast.models.loading import Model

QUARTER = 4


class Freeze(Tuner):
    """The last (or first) layers move, the others are frozen. [Lee, Tang and Lin 2019, arXiv 1911.03090]

    What: of L layers n train, counted from the head (`side: last`) or from the input; embeddings, final norm and head
    stay as they are unless asked for. Frozen weights are out of the optimizer: no decay, no momentum, bit-identical
    afterwards.

    When it helps: gradients and optimizer state of a part of the layers only; with `side: last` no pass backwards below
    the lowest layer that trains. The last layers carry what an answer looks like.

    When it fails: knowledge or reasoning that sits deeper than the layers that move; then `half` spreads the same
    number of weights over all layers. A tied embedding is the head as well and moves with it, so both or neither.

    Columns needed: none beyond the objective's. Stored: all weights. Not an adapter.

    Paper: Lee, Tang, Lin 2019, arXiv 1911.03090. Numbers there (BERT and RoBERTa, GLUE): a quarter of the layers, the
    last, reaches 90 % of the quality of all; so the default is a quarter.
    """

    paper: ClassVar[str] = "Lee et al. 2019, arXiv 1911.03090"
    formula: ClassVar[str] = "layers · a layer's, and embeddings, head where asked for"

    layers: int | None = Field(None, ge=0, description="Layers that move; default: a quarter of them, rounded up.")
    side: Literal["last", "first"] = Field("last", description="Whether they are counted from the head or the input.")
    embeddings: bool = Field(False, description="Whether the embeddings of tokens and positions move.")
    head: bool = Field(False, description="Whether the final norm and the head move.")

    def check(self, model: Model) -> None:
        """See that the model has so many layers, that something moves, and that a tied head is not asked for alone.

        Raises:
            UserError: If not.
        """
        self._list_names(model)

    def apply(self, model: Model, seed: int) -> Model:
        """Freeze all but the chosen layers, in place; `seed` is not used."""
        return train_only(model, self._list_names(model))

    def count_trainable(self, model: Model, seed: int = 0) -> int:
        """All weights of the chosen layers and of what else was asked for."""
        return count_parameters(model, self._list_names(model))

    def _list_names(self, model: Model) -> set[str]:
        parts = ModelParts.from_model(model)
        if parts.is_tied and self.embeddings != self.head:
            raise UserError(
                f"tuner: the head of {type(model).__name__} is its embedding, which moves as one; set both "
                "tuner.embeddings and tuner.head, or neither"
            )
        count = math.ceil(len(parts.layers) / QUARTER) if self.layers is None else self.layers
        parts.refuse_more_layers(count, "layers")
        chosen = parts.layers[:count] if self.side == "first" else parts.layers[len(parts.layers) - count :]
        names = {name for layer in chosen for name in layer}
        names |= {*(parts.embeddings if self.embeddings else ()), *(parts.head if self.head else ())}
        if not names:
            raise UserError("tuner: freeze with layers 0 leaves nothing to train; set tuner.layers, head or embeddings")
        return names
