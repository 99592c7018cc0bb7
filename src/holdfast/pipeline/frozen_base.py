"""The base that a run trains on: the one that was measured, or for `tuner.base_bits` the same in 4 or 8 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.models.loading import Model
    from holdfast.pipeline.phases import RunContext
    from holdfast.training.callbacks import TrainResult


def load_training_base(work: RunContext) -> Model:
    """The model to train on; where it is a quantized one, the measured base waits on the CPU meanwhile."""
    import torch

    from holdfast.models.loading import move_to_device
    from holdfast.models.placement import GIB, autocast_dtype, count_weight_bytes, give_back_memory
    from holdfast.models.quantized_base import FORMATS, load_quantized_base

    bits, base, train = work.recipe.tuner.frozen_bits(), work.base, work.recipe.train
    if bits is None:
        return base.model
    before = count_weight_bytes(base.model)
    move_to_device(base.model, torch.device("cpu"))
    give_back_memory(base.device)
    dtype = autocast_dtype(train.precision, base.device, train.weights) or torch.float32
    model = load_quantized_base(base.path, bits, dtype, base.device)
    work.ui.write_line(
        f"trained on a frozen base in {bits} bits ({FORMATS[bits]}): {count_weight_bytes(model) / GIB:.2g} GiB instead "
        f"of {before / GIB:.2g}; what is measured before and after, saved and served is the base as it is"
    )
    return model


def restore_base(work: RunContext, result: TrainResult) -> TrainResult:
    """A training with its adapter on the base that was measured, on that one's device."""
    from holdfast.models.loading import move_to_device
    from holdfast.models.merging import compute_distance, probe_logps
    from holdfast.models.placement import give_back_memory
    from holdfast.models.quantized_base import transfer_adapter

    if work.recipe.tuner.frozen_bits() is None:
        return result
    quantized_logps = probe_logps(result.model)
    model = transfer_adapter(result.model, work.base.model, result.tuner)  # type: ignore[arg-type]
    result = replace(result, model=model)
    give_back_memory(work.base.device)
    move_to_device(model, work.base.device).eval()
    apart = compute_distance(probe_logps(model), quantized_logps)
    work.ui.write_line(
        f"the adapter is on the base as it is again: log-probabilities moved by {apart.share:.1%} of their norm"
    )
    return result
