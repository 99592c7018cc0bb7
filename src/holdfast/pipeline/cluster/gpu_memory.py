"""What a training takes of each GPU at its peak, where its weights are shared out over all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from holdfast.models.lm_head import choose_chunk_rows
from holdfast.models.loading import has_adapter
from holdfast.models.shape import HALF
from holdfast.training.memory import FREE_SHARE, count_fitting_tokens
from holdfast.training.memory_estimate import (
    HeldWeights,
    MemoryEstimate,
    activation_bytes,
    count_chunk_bytes,
    count_gradient_bytes,
    sketch_optimizer_states,
    sum_bytes,
)
from holdfast.training.weight_types import choose_weight_dtypes

if TYPE_CHECKING:
    from holdfast.models.loading import Model
    from holdfast.models.shape import ModelSize
    from holdfast.pipeline.compute_estimate import TargetDevice
    from holdfast.recipe.schema import Recipe

AHEAD = 2
"""Layers whose weights are whole at a time: the one that is computed, and the next."""


@dataclass(frozen=True, slots=True)
class GpuMemory:
    """How a step is cut for a GPU, and what that takes.

    Args:
        estimate: For a micro-batch.
        micro_tokens: Of it.
        passes: Micro-batches of a step on each GPU.
        fits: Whether the longest row does.
        has_room: Whether it leaves what shall stay free.
    """

    estimate: MemoryEstimate
    micro_tokens: int
    passes: int
    fits: bool
    has_room: bool


@dataclass(frozen=True, slots=True)
class TunedShape:
    """A recipe and its model with its tuner, without weights.

    Args:
        n_quantized: Weights of the base that will be in few bits.
    """

    recipe: Recipe
    tuned: Model
    size: ModelSize
    n_quantized: int = 0

    def plan_memory(self, target: TargetDevice, gpus: int, step_tokens: int, longest: int, working: int) -> GpuMemory:
        """Choose the micro-batch of a GPU as training does, and count what it takes.

        Args:
            step_tokens: Of a step, over all GPUs.
            longest: Tokens of the longest row, which is never cut.
            working: GPUs that have something to compute.
        """
        assert target.free is not None
        assert target.total is not None
        train = self.recipe.train
        share = max(longest, math.ceil(step_tokens / working))
        per_token = activation_bytes(self._causal, train.gradient_checkpointing)
        at_rest = self._count_parts(target, gpus, 0, has_several=True, per_token=per_token).total
        in_backward = self.recipe.optimizer.in_backward
        chosen = train.micro_tokens or (share if in_backward else 0)
        micro = chosen or count_fitting_tokens(target.free - at_rest, target.total, per_token, share)
        micro = max(micro, longest)
        passes = math.ceil(share / micro)
        estimate = self._count_parts(target, gpus, micro, has_several=passes > 1, per_token=per_token)
        has_room = estimate.total <= target.free - FREE_SHARE * target.total
        return GpuMemory(estimate, micro, passes, estimate.total <= target.free, has_room)

    @property
    def _causal(self) -> Any:
        return self.tuned.get_base_model() if has_adapter(self.tuned) else self.tuned

    def _count_parts(
        self, target: TargetDevice, gpus: int, tokens: int, *, has_several: bool, per_token: float
    ) -> MemoryEstimate:
        recipe, size = self.recipe, self.size
        weights = self._hold_weights(gpus)
        parameters = weights.trained_parameters()
        head = self._causal.get_output_embeddings()
        vocabulary = self._causal.config.get_text_config().vocab_size
        rows = choose_chunk_rows(target.device, vocabulary, target.total)
        gradients = count_gradient_bytes(parameters.values(), recipe.optimizer.in_backward, has_several or gpus > 1)
        return MemoryEstimate(
            weights=weights.count_bytes() // gpus,
            gradients=gradients // gpus,
            optimizer_states=sum_bytes(sketch_optimizer_states(recipe.optimizer, parameters)) // gpus,
            activations=int(per_token * tokens),
            head=count_chunk_bytes(head, min(rows, tokens or rows), vocabulary, target.device),
            gathered=HALF * (AHEAD * size.largest_layer + size.around) if gpus > 1 else 0,
        )

    def _hold_weights(self, gpus: int) -> HeldWeights:
        """The weights as one process holds them, or in fp32 to be shared out."""
        train, bits = self.recipe.train, self.recipe.tuner.frozen_bits()
        if gpus > 1:
            return HeldWeights(self.tuned, {name: torch.float32 for name, _ in self.tuned.named_parameters()}, None)
        autocast = None if train.precision == "fp32" else torch.bfloat16
        apart = self.recipe.tuner.adapter_parameters(self.tuned)
        dtypes = choose_weight_dtypes(
            self.tuned, autocast, train.weights, self.recipe.optimizer.in_backward, apart, bits is not None
        )
        return HeldWeights(self.tuned, dtypes, autocast, self.n_quantized, bits)
