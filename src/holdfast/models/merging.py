"""Adapters folded into the weights beneath them, and the proof that the plain model is the one that was trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from holdfast.errors import RunError
from holdfast.models.loading import adapted, evaluating

if TYPE_CHECKING:
    from peft import PeftModel

    from holdfast.models.loading import Model

PROBES = 32
"""Prompts on which two models are compared."""
LENGTH = 16
"""Tokens of each."""
SHARE = {torch.float32: 1e-4, torch.float64: 1e-4}
"""Largest distance of two models' log-probabilities, as a share of their norm, by the type they are computed in."""
SHARE_OF_SHORT_TYPES = 3e-2
FARTHEST = 1e-2
"""Largest difference of one log-probability in fp32; folding in changes the order of sums, and so the last bits."""


def merged(model: Model) -> PreTrainedModel:
    """Fold adapters into the weights of `model`, in place; a model without adapter is returned as it is.

    The sum is made in fp32 and rounded once, to the type of the weights. Where an adapter sits beside an embedding that
    input and output share, each gets a tensor of its own first: the adapter changes only one of them.
    """
    if not adapted(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer

    _untie(model)
    for layer in model.modules():
        beneath = layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else None
        weight = getattr(beneath, "weight", None)  # layers of experts keep theirs under other names
        if isinstance(layer, BaseTunerLayer) and isinstance(weight, Tensor) and weight.dtype != torch.float32:
            own = weight.dtype
            beneath.float()  # type: ignore[union-attr]
            layer.merge(safe_merge=True)
            beneath.to(own)  # type: ignore[union-attr]
    return model.merge_and_unload(safe_merge=True)


def merged_copy(model: Model) -> PreTrainedModel:
    """A copy of `model`, with its adapter, if it has one, folded in and proven (`fold`)."""
    return fold(copy.deepcopy(model))


def fold(model: Model) -> PreTrainedModel:
    """As `merged`, and see that the plain model computes what the model with its adapter computed.

    Raises:
        RunError: If it does not; an adapter of a kind that cannot be folded in.
    """
    if not adapted(model):
        return model
    before, dtype = probe_logps(model), model.dtype
    plain = merged(model)
    apart = distance(before, probe_logps(plain))
    exact = dtype in SHARE
    if apart.share <= SHARE.get(dtype, SHARE_OF_SHORT_TYPES) and (apart.most <= FARTHEST or not exact):
        return plain
    raise RunError(
        f"the adapter cannot be folded into the weights: log-probabilities of the plain model differ by "
        f"{apart.most:.1e} from those of the model that was trained; use the adapter as it is"
    )


class Distance:
    """How far two models' log-probabilities lie apart.

    Args:
        most: Largest difference of one, in nats; NaN where one is not a number.
        share: Norm of the difference over the norm of the first.
    """

    def __init__(self, most: float, share: float) -> None:
        self.most, self.share = most, share


def distance(one: Tensor, other: Tensor) -> Distance:
    """How far apart what `probe_logps` gave of two models is."""
    return Distance(float((one - other).abs().max()), float(torch.dist(one, other) / one.norm()))


def probe_logps(model: Model) -> Tensor:
    """Next-token log-probabilities [PROBES, LENGTH, V] on random prompts, fp32 on the CPU; mode is left as it is."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROBES, LENGTH), generator=generator)
    with evaluating(model):
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().log_softmax(-1).cpu()


def _untie(model: PeftModel) -> None:
    """Give every weight beside an adapter, or replaced by one, a tensor that no other module shares."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    plain: PreTrainedModel = model.get_base_model()  # type: ignore[assignment]  # PEFT says Module
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in plain.modules():
        for name, parameter in module.named_parameters(recurse=False):
            owners.setdefault(id(parameter), []).append((module, name))
    beneath = {id(layer.get_base_layer()) for layer in plain.modules() if isinstance(layer, BaseTunerLayer)}
    for sharing in owners.values():
        if len(sharing) > 1 and any(id(module) in beneath for module, _ in sharing):
            for module, name in sharing[1:]:
                shared = getattr(module, name)
                setattr(module, name, nn.Parameter(shared.detach().clone(), requires_grad=False))
            for config in (plain.config, plain.config.get_text_config()):
                config.tie_word_embeddings = False
