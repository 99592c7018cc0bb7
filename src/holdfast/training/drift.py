"""How far the model has moved, whatever is minimised: divergence from the base and entropy on a few fixed positions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.models.compiled_layers import pause_compiled
from holdfast.models.loading import eval_mode

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy

LABELS = 64
"""Positions looked at."""
BYTES = 32 << 20
"""Most memory for the base's distributions: fewer positions where the vocabulary is large."""
SHARE, APART = 0.1, 5
"""How often: after each such share of the run, but with so many steps between at least; and at the end."""


class DriftMonitor:
    """Whole distributions of the untouched model at some positions that predict labels, to compare with.

    Args:
        policy: Before its weights move.
        batch: What the positions are taken from, on the device.
    """

    def __init__(self, policy: Policy, batch: Batch) -> None:
        vocabulary = policy.config.get_text_config().vocab_size
        self.policy, self.batch = policy, batch
        self.where = batch.label_positions[: max(1, min(LABELS, BYTES // (4 * vocabulary)))]
        self.base = self._compute_logps()  # [M, V]

    @torch.no_grad()
    def _compute_logps(self) -> Tensor:
        # A few passes without gradients are not worth code of their own.
        with eval_mode(self.policy.model), pause_compiled():
            return self.policy.logits_at(self.batch, self.where).log_softmax(-1)

    def measure_drift(self) -> dict[str, tuple[float, float]]:
        """`kl`: KL(base || model), and `entropy` of the model, in nats a token over the whole vocabulary."""
        now = self._compute_logps()
        kl = (self.base.exp() * (self.base - now)).sum(-1).mean().item()
        entropy = -(now.exp() * now).sum(-1).mean().item()
        return {"kl": (kl, 1.0), "entropy": (entropy, 1.0)} if math.isfinite(kl + entropy) else {}
