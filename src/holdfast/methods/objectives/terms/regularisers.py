"""Terms that are added to the cross-entropy: of distributions, token by token, and of the weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.models.policy import Policy


def hinge_losses(logits: Tensor, labels: Tensor) -> Tensor:
    """By how much each wrong token is nearer than 1 to the label, summed: [m] from logits [m, V]."""
    margins = 1 + logits - logits.gather(-1, labels[:, None])  # 1 at the label itself
    return margins.clamp_min(0).sum(-1) - 1


def compute_entropies(logits: Tensor) -> Tensor:
    """Entropy [m] of the distributions of logits [m, V], in nats."""
    logps = logits.log_softmax(-1)
    return -(logps.exp() * logps).sum(-1)


def unlikelihood_losses(logits: Tensor, labels: Tensor, sequence: Tensor, part: slice) -> Tensor:
    """-sum log(1 - p(c)) [m] over the distinct earlier tokens c of each label's own answer that are not the label.

    Args:
        logits: Of a part of the labels; [m, V].
        labels, sequence: All labels and the sequence of each, in order; [N].
        part: Which labels these are.
    """
    import torch

    index = torch.arange(len(labels), device=labels.device)
    begins = torch.searchsorted(sequence, sequence)[part]  # [m] the first label of each label's sequence
    counts = index[part] - begins
    rows = torch.arange(len(counts), device=labels.device).repeat_interleave(counts)
    before = torch.cat([counts.new_zeros(1), counts.cumsum(0)[:-1]])
    earlier = begins[rows] + torch.arange(len(rows), device=labels.device) - before[rows]
    is_candidate = torch.zeros(logits.shape, dtype=torch.bool, device=logits.device)
    is_candidate[rows, labels[earlier]] = True
    is_candidate.scatter_(-1, labels[part, None], False)
    # 1 - p from what is left of it: near p = 1 the difference would be lost to rounding, at p = 1 it would be log 0.
    rest = torch.log1p(-logits.softmax(-1).clamp_max(1 - 1e-6))
    return -(rest * is_candidate).sum(-1)


def trainable_weights(policy: Policy, refusal: str) -> dict[str, Tensor]:
    """The weights that train, by name; refused where each process has only a part of them.

    Args:
        refusal: The message: what needs them whole, and what to do without.
    """
    weights: dict[str, Tensor] = {name: p for name, p in policy.model.named_parameters() if p.requires_grad}
    if any(hasattr(p, "full_tensor") for p in weights.values()):
        raise UserError(refusal)
    return weights


def mean_distance(weights: dict[str, Tensor], begin: dict[str, Tensor] | None, power: int) -> Tensor:
    """Mean over all weights of |w - w0| or (w - w0)^2; differentiable.

    Args:
        begin: w0, by the same names; `None`: zero.
        power: 1 or 2.
    """
    import torch

    costs = []
    for name, weight in weights.items():
        apart = weight.float() if begin is None else weight.float() - begin[name].float()
        costs.append((apart.abs() if power == 1 else apart.square()).sum())
    return torch.stack(costs).sum() / sum(weight.numel() for weight in weights.values())
