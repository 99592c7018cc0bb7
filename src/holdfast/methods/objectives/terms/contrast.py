"""How good each token is, by two models that contrast, or one under two prompts; and weights made of that."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.objective import Batches
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import RowValues


def iterate_model_logratios(
    policy: Policy, batches: Batches, models: tuple[str, ...]
) -> Iterator[tuple[Batch, Tensor]]:
    """log p/q [N] of the labels of every batch, p and q being two models by name."""
    good, bad = (compute_model_logps(name, policy, batches) for name in models)
    for batch in batches():
        yield batch, (good.get_values(batch) - bad.get_values(batch))[:, 0]


def iterate_prompt_logratios(policy: Policy, batches: Batches) -> Iterator[tuple[Batch, Tensor]]:
    """The same of pairs, whose batches also hold them under the positive and then under the negative prompt."""
    for batch in batches():
        good, bad = (policy.token_logps(batch.select_roles(*roles)) for roles in ((2, 3), (4, 5)))
        yield batch.select_roles(0, 1), good - bad


def token_weights(ratios: Tensor, mu: Tensor, low: float, high: float) -> Tensor:
    """exp(mu clamp(ratio)) [N]; `mu` is 1 in chosen answers, -1 in rejected ones."""
    return (mu * ratios.clamp(low, high)).exp()


def rank_weights(values: Tensor, lengths: list[int]) -> Tensor:
    """0.7 for the least of each answer's `values` [N] to 1.3 for the greatest; equal ones share their mean rank."""
    import torch

    ranks = [((v[:, None] > v).sum(1) - (v[:, None] < v).sum(1)) / max(1, len(v) - 1) for v in values.split(lengths)]
    return 1 + 0.3 * torch.cat(ranks)  # a rank of -1 to 1


def compute_model_logps(name: str, policy: Policy, batches: Batches) -> RowValues:
    """Log-probabilities of all labels under another model of the same vocabulary, freed afterwards."""
    from holdfast.generation.decoder import refuse_setup
    from holdfast.models.loading import load_model
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import RowValues

    loaded_model = load_model(name, device=policy.causal.device)
    refuse_setup(f"objective: {name}", loaded_model.path)
    model = loaded_model.model
    ours, theirs = policy.config.get_text_config().vocab_size, model.config.get_text_config().vocab_size
    if ours != theirs:
        raise UserError(f"{name} has a vocabulary of {theirs} tokens, the model that is trained {ours}; use its kin")
    other, logps = Policy(model, autocast=policy.autocast), RowValues()
    for batch in batches():
        logps.set_values(batch, other.token_logps(batch))
    return logps
