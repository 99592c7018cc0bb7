"""The layers of a model as units that half fine-tuning draws from, and the share of them that moves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from holdfast.models.loading import Model

    Units = list[tuple[nn.Parameter, ...]]
    """What is drawn together: a matrix with its bias, or a norm."""


def units_by_category(layer: nn.Module) -> dict[str, Units]:
    """The layer's units by category: attention, mlp (all that is neither of the others), norm."""
    groups: dict[str, Units] = {}
    for path, module in layer.named_modules():
        own = dict(module.named_parameters(recurse=False))
        lowercase_name = f"{path} {type(module).__name__}".lower()
        name = "norm" if "norm" in lowercase_name else "attention" if "attn" in path or "attention" in path else "mlp"
        # A module's weight and bias belong together; other names (fused experts) are matrices of their own.
        together = tuple(own.pop(key) for key in ("weight", "bias") if key in own)
        groups.setdefault(name, []).extend(([together] if together else []) + [(p,) for p in own.values()])
    return {name: units for name, units in groups.items() if units}


def trainable_share(model: Model) -> float:
    """Realised share of the layers' parameters that move."""
    from holdfast.training.distributed import find_layers

    parameters = [p for layer in find_layers(model) for p in layer.parameters()]
    return sum(p.numel() for p in parameters if p.requires_grad) / max(1, sum(p.numel() for p in parameters))
