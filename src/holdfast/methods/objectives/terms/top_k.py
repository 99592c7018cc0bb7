"""Distributions kept as their likeliest tokens and one bucket for all others, and how far a model is from them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy

MOST_GIB = 16
"""Largest store of distributions that is made."""


def keep_likeliest_tokens(logits: Tensor, top: int, temperature: float = 1.0) -> Tensor:
    """What is kept of the distributions of `logits` [m, V]: [m, 2 top + 1].

    The log-probabilities of the `top` likeliest tokens, that of all others together, and the ids of the likeliest
    (exact in fp32 up to 16 million). With `top` 0, or V and more: all log-probabilities [m, V].
    """
    import torch

    logps = (logits / temperature).log_softmax(-1)
    if not 0 < top < logits.shape[-1]:
        return logps
    top_logps, ids = logps.topk(top, -1)
    return torch.cat([top_logps, logsumexp_of_rest(logps, ids), ids.to(logps.dtype)], -1)


def top_k_divergence(
    reference: Tensor, logits: Tensor, top: int, temperature: float = 1.0, tail: bool = True, reverse: bool = False
) -> Tensor:
    """KL(kept || model) [m], differentiable in `logits` [m, V]; `kept` is what `keep_likeliest_tokens` made.

    Args:
        tail: All other tokens count as one: exact for this coarser view, so never above the whole divergence. Without,
            both distributions are renormalised over the kept tokens.
        reverse: KL(model || kept).
    """
    theirs, ours = _bucket_logps(reference, logits / temperature, top, tail)
    p, q = (ours, theirs) if reverse else (theirs, ours)
    return (p.exp() * (p - q)).sum(-1)


def label_and_divergence(logits: Tensor, labels: Tensor, reference: Tensor, top: int) -> Tensor:
    """Log-probability of the label, and KL(kept || model), [m, 2], from logits [m, V]."""
    import torch

    logps = logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)
    return torch.stack([logps, top_k_divergence(reference, logits, top)], -1)


def _bucket_logps(reference: Tensor, logits: Tensor, top: int, tail: bool) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the kept distribution and of the model over the same events, [m, events] each."""
    import torch

    if not 0 < top < logits.shape[-1]:
        return reference, logits.log_softmax(-1)
    ids = reference[:, top + 1 :].long()
    top_logits = logits.gather(-1, ids)
    if not tail:
        return reference[:, :top].log_softmax(-1), top_logits.log_softmax(-1)
    whole = logits.logsumexp(-1, keepdim=True)
    return reference[:, : top + 1], torch.cat([top_logits, logsumexp_of_rest(logits, ids)], -1) - whole


def logsumexp_of_rest(logits: Tensor, ids: Tensor) -> Tensor:
    """log sum exp over all tokens but `ids`, [m, 1]: not 1 - sum, which loses a small rest to rounding."""
    return logits.scatter(-1, ids, -math.inf).logsumexp(-1, keepdim=True)


def compute_base_distributions(policy: Policy, batch: Batch, top: int, temperature: float = 1.0) -> Tensor:
    """`keep_likeliest_tokens` of the untouched model at every label, [N, 2 top + 1] or [N, V]; gradients are off."""
    with policy.use_base_model():
        return policy.over_vocabulary(batch, lambda logits, part: keep_likeliest_tokens(logits, top, temperature))


def check_store_size(policy: Policy, batches: Batches, top: int, *roles: int) -> None:
    """Refuse to keep more than memory is likely to hold.

    Args:
        roles: The sequences whose labels have distributions.
    Raises:
        UserError: If it is more than `MOST_GIB`.
    """
    import torch

    size = policy.config.get_text_config().vocab_size
    width = 2 * top + 1 if 0 < top < size else size
    labels = 0
    for batch in batches():
        labels += int(torch.isin(batch.roles, batch.roles.new_tensor(roles))[batch.sequence].sum())
    gib = 4 * labels * width / 2**30
    if gib > MOST_GIB:
        fits = max(1, int(MOST_GIB * 2**28 / labels - 1) // 2)
        raise UserError(
            f"distributions of {labels:,} answer tokens with {width:,} numbers each take {gib:.0f} GiB; "
            f"set objective.top to {fits} or less"
        )
