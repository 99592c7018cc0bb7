"""What every layer's tokens look at: attention weights of a model, read one sequence at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.data.batching.batches import EncodedSequence
from holdfast.models.compiled_layers import pause_compiled

if TYPE_CHECKING:
    from holdfast.models.policy import Policy

SMALLEST = 1e-30
"""Of a weight in single precision whose digits can be trusted: exp gives up at 1e-38."""


@contextmanager
def eager_attention(policy: Policy) -> Iterator[None]:
    """Let a model compute its attention in the one way that gives its weights; afterwards as before."""
    causal: Any = policy.causal
    before = causal.config.get_text_config()._attn_implementation
    causal.set_attn_implementation("eager")
    try:
        yield
    finally:
        causal.set_attn_implementation(before)


@torch.no_grad()
def read_attention(policy: Policy, sequence: EncodedSequence) -> list[Tensor]:
    """The attention weights [H, T, k + T] of the T tokens of a sequence, of each layer; k virtual tokens come first.

    Call it inside `eager_attention`. Layers that have no attention are left out.
    """
    ids = torch.as_tensor(sequence.ids, dtype=torch.long, device=policy.causal.device)[None]
    # Virtual tokens are put before the line by the wrapper; any other adapter is inside the layers.
    body: Any = policy.model if policy.virtual else policy.causal.base_model
    with pause_compiled():
        out = body(
            input_ids=ids, attention_mask=torch.ones_like(ids), output_attentions=True, use_cache=False,
        )  # fmt: skip
    return [layer[0, :, -ids.shape[1] :].float() for layer in out.attentions if layer is not None]


def compare_attention(base: Tensor, tuned: Tensor) -> tuple[float, float]:
    """How much the tokens give to what stands before them, and how far what they look at among themselves moved.

    Args:
        base: [H, T, T].
        tuned: [H, T, k + T]; the first k are virtual tokens.
    Returns:
        The mean weight of these; the mean total variation, from 0 to 1, between the weights of the tokens alone, scaled
        to add up to 1: what one key before them cannot change (Petrov et al. 2023).
    """
    before = tuned.shape[-1] - base.shape[-1]
    among = tuned[..., before:].double()
    rest = among.sum(-1)  # [H, T]
    # Where a head gives all but nothing to the tokens, rounding decides which: there is no pattern to compare.
    is_clear = rest > SMALLEST
    change = (among / rest.clamp_min(SMALLEST)[..., None] - base).abs().sum(-1) / 2
    return float(1 - rest.mean()), float(change[is_clear].mean()) if is_clear.any() else 0.0


def mean_over(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """The means of pairs of numbers."""
    first, second = zip(*pairs, strict=True)
    return sum(first) / len(first), sum(second) / len(second)
