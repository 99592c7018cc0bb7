"""Hidden states of every layer at the positions that predict a sequence's labels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from holdfast.data.batching.batches import EncodedSequence, collate_on_device
from holdfast.models.compiled_layers import pause_compiled

if TYPE_CHECKING:
    from holdfast.models.policy import Policy

LINES = 8
"""Sequences of a pass: all layers of all their tokens are in memory at once."""


@torch.no_grad()
def collect_layer_states(policy: Policy, sequences: Sequence[EncodedSequence], pad_id: int) -> Tensor:
    """[layers + 1, N, D] fp32 on the CPU: embeddings, then what leaves each layer; the last one after the last norm.

    Args:
        sequences: N labels in all; the state of the token before each is taken.
    """
    parts = []
    for at in range(0, len(sequences), LINES):
        batch = collate_on_device(sequences[at : at + LINES], "padded", pad_id, policy.causal.device)
        lengths = torch.tensor([len(s.ids) for s in sequences[at : at + LINES]], device=policy.causal.device)
        mask = (torch.arange(batch.input_ids.shape[1], device=lengths.device) < lengths[:, None]).long()  # [B, L]
        # Virtual tokens are put before the line by the wrapper; any other adapter is inside the layers.
        body: Any = policy.model if policy.virtual else policy.causal.base_model
        with pause_compiled():
            out = body(input_ids=batch.input_ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        width = batch.input_ids.shape[1]
        states = torch.stack([layer[:, -width:].flatten(0, 1)[batch.label_positions] for layer in out.hidden_states])
        parts.append(states.float().cpu())
    return torch.cat(parts, 1)


@torch.no_grad()
def collect_divergence(
    base: Policy, tuned: Policy, sequences: Sequence[EncodedSequence], pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """KL(base || tuned) [N] in nats of the next-token distribution at every label, and both likeliest tokens [N]."""
    divergences, likeliest = [], ([], [])  # type: ignore[var-annotated]
    for at in range(0, len(sequences), LINES):
        batch = collate_on_device(sequences[at : at + LINES], "padded", pad_id, base.causal.device)
        where = batch.label_positions
        with pause_compiled():
            by_part = [policy.logits_by_part(batch, where) for policy in (base, tuned)]
            for start in range(0, len(where), base.chunk_rows):
                part = slice(start, min(start + base.chunk_rows, len(where)))
                before, after = (logits(part).log_softmax(-1) for logits in by_part)  # [m, V]
                divergences.append((before.exp() * (before - after)).sum(-1).clamp_min(0).cpu())
                for tokens, logps in zip(likeliest, (before, after), strict=True):
                    tokens.append(logps.argmax(-1).cpu())
    return torch.cat(divergences), torch.cat(likeliest[0]), torch.cat(likeliest[1])
