"""The list of a model's transformer layers; and a few of them on a device, to try there what all of them will do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from holdfast.errors import UserError
from holdfast.models.eyes import language_part
from holdfast.models.loading import move_to_device
from holdfast.models.placement import give_back_memory

if TYPE_CHECKING:
    from holdfast.models.loading import Model


def find_layer_list(model: Model) -> nn.ModuleList:
    """The transformer layers: the first `ModuleList` as long as the configuration says.

    Raises:
        UserError: If there is none.
    """
    depth = model.config.get_text_config().num_hidden_layers
    for module in language_part(model).modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return module
    raise UserError(f"{type(model).__name__}: its layers are in no list; use tuner: full or lora, on one process")


@contextmanager
def shorten_on_device(model: Model, device: torch.device) -> Iterator[None]:
    """A model with the first layer of each kind and no more, on a device, inside; whole and where it was after it.

    What lies around the layers comes along: embeddings and head. A model that is to be sharded need not fit on one
    device, and attention is the same in all layers of a kind.

    Args:
        model: On the CPU, whole; its weights stay the same objects.
    """
    layers, home = find_layer_list(model), model.device
    whole = list(layers)
    kinds: Any = getattr(model.config.get_text_config(), "layer_types", None) or [type(layer) for layer in whole]
    first_of_kind = dict(zip(reversed(kinds), reversed(whole), strict=True))  # the last to be written is the first
    _replace_layers(layers, [layer for layer in whole if any(layer is one for one in first_of_kind.values())])
    try:
        move_to_device(model, device)
        yield
    finally:
        move_to_device(model, home)
        _replace_layers(layers, whole)
        give_back_memory(device)


def _replace_layers(layers: nn.ModuleList, others: list[nn.Module]) -> None:
    del layers[:]
    layers.extend(others)
