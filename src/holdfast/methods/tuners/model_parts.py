"""A model as what lies before, in and behind its layers: the parts that selective tuners choose from."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import nn

    from holdfast.models.loading import Model


@dataclass(frozen=True, slots=True)
class ModelParts:
    """Names of a model's parameters; a shared weight has the name of the first who owns it.

    Args:
        layers: Of each transformer layer, from the input on.
        embeddings: Of tokens and positions, outside of the layers.
        head: All else: the final norm and the output embedding, where that is not the input's.
        is_tied: Whether head and embedding are one weight.
    """

    layers: tuple[tuple[str, ...], ...]
    embeddings: tuple[str, ...]
    head: tuple[str, ...]
    is_tied: bool

    @classmethod
    def from_model(cls, model: Model) -> ModelParts:
        """The parts of a plain model; it may be without weights."""
        from torch import nn

        from holdfast.training.distributed import find_layers

        names = {id(p): name for name, p in model.named_parameters()}
        layers = tuple(tuple(names[id(p)] for p in layer.parameters()) for layer in find_layers(model))
        in_layers = {name for layer in layers for name in layer}
        before = [m for m in model.modules() if isinstance(m, nn.Embedding)]
        first: nn.Module = model.get_input_embeddings()
        embeddings = {names[id(p)] for m in {*before, first} for p in m.parameters()} - in_layers
        head = model.get_output_embeddings()
        is_tied = head is not None and head.weight is first.weight
        return cls(
            layers,
            tuple(name for name in names.values() if name in embeddings),
            tuple(name for name in names.values() if name not in embeddings | in_layers),
            is_tied,
        )

    def refuse_more_layers(self, count: int, knob: str) -> None:
        """See that the model has so many layers.

        Raises:
            UserError: If not.
        """
        if count > len(self.layers):
            depth = len(self.layers)
            raise UserError(f"tuner.{knob}: {count} layers of a model that has {depth}; set {depth} or fewer")


def train_only(model: Model, names: Collection[str]) -> Model:
    """Let exactly the parameters of these names get gradients, in place."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name in names)
    return model


def count_parameters(model: Model, names: Collection[str]) -> int:
    """How many weights the parameters of these names have."""
    return sum(p.numel() for name, p in model.named_parameters() if name in names)
