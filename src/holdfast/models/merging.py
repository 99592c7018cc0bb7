"""Adapters folded into the weights beneath them, and the proof that the plain model is the one that was trained."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.axes.registry import name_of
from holdfast.errors import RunError, UserError
from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.loading import eval_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from holdfast.axes.tuner import Tuner
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


def merged_copy(model: Model, tuner: Tuner) -> PreTrainedModel:
    """A copy of `model` with what `tuner` trained folded in and proven (`fold_adapter`)."""
    return fold_adapter(copy.deepcopy(model), tuner)


def fold_adapter(model: Model, tuner: Tuner) -> PreTrainedModel:
    """Fold an adapter into the weights beneath it, in place, and see that the plain model computes what it computed.

    Args:
        tuner: Whose `merge` is asked; a model without adapter is returned as it is.
    Raises:
        UserError: If adapters of this kind cannot be folded in.
        RunError: If this one could not be.
    """
    if tuner.leaves_plain_weights():
        return tuner.merge(model)
    refuse_unmergeable(tuner)
    before, dtype = probe_logps(model), model.dtype
    plain = tuner.merge(model)
    apart = compute_distance(before, probe_logps(plain))
    exact = dtype in SHARE
    if apart.share <= SHARE.get(dtype, SHARE_OF_SHORT_TYPES) and (apart.most <= FARTHEST or not exact):
        return plain
    raise RunError(
        f"the adapter cannot be folded into the weights: log-probabilities of the plain model differ by "
        f"{apart.most:.1e} from those of the model that was trained; use the adapter as it is"
    )


def refuse_unmergeable(tuner: Tuner, why: str = "") -> None:
    """See that what a tuner trains can be folded into the base's weights.

    Args:
        why: What needs it; the beginning of the line.
    Raises:
        UserError: If not.
    """
    if not tuner.leaves_plain_weights() and not tuner.mergeable:
        raise UserError(
            f"{why}what tuner {name_of(tuner)} trains cannot be folded into the weights; use it as it is, or choose "
            "another tuner (lora, full)"
        )


class Distance:
    """How far two models' log-probabilities lie apart.

    Args:
        most: Largest difference of one, in nats; NaN where one is not a number.
        mean: Mean difference of one.
        share: Norm of the difference over the norm of the first.
    """

    def __init__(self, most: float, mean: float, share: float) -> None:
        self.most, self.mean, self.share = most, mean, share


def compute_distance(one: Tensor, other: Tensor) -> Distance:
    """How far apart what `probe_logps` gave of two models is."""
    apart = (one - other).abs()
    return Distance(float(apart.max()), float(apart.mean()), float(torch.dist(one, other) / one.norm()))


def probe_logps(model: Model) -> Tensor:
    """Next-token log-probabilities [PROBES, LENGTH, V] on random prompts, fp32 on the CPU; mode is left as it is."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.get_text_config().vocab_size, (PROBES, LENGTH), generator=generator)
    with pause_compiled(), eval_mode(model):
        return model(input_ids=ids.to(model.device), use_cache=False).logits.float().log_softmax(-1).cpu()
