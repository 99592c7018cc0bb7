"""SimPO: golden values, its relation to CPO, and that length is not rewarded."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.cpo import CPO
from holdfast.methods.objectives.preference.simpo import SimPO
from holdfast.methods.objectives.terms.margin_objective import margin_losses
from holdfast.models.policy import Policy

LENGTHS = torch.tensor([[5.0, 4.0], [3.0, 6.0], [6.0, 2.0]], dtype=torch.float64)


@pytest.fixture
def sums(golden_logps) -> torch.Tensor:
    """s [3, 2] of the golden chosen and rejected answers."""
    both = golden_logps(0.0, (3, 2, 1), (5, 3, 6)), golden_logps(0.4, (5, 1, 2), (4, 6, 2))
    return torch.stack([torch.stack([one.sum() for one in answers]) for answers in both], 1)


def losses(objective: SimPO | CPO, s: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    return margin_losses(
        objective.answer_rewards(s, lengths), objective.target_margin(), objective.loss, objective.label_smoothing
    )


def test_golden_values(golden, sums):
    got = losses(SimPO(beta=2.5, gamma=1.375), sums, LENGTHS)
    np.testing.assert_allclose(got, golden["simpo b=2.5 g=1.375"], atol=1e-7)


def test_without_margin_and_at_equal_lengths_it_is_cpo(sums):
    lengths = torch.full_like(sums, 5.0)
    one, two = losses(SimPO(beta=2.0, gamma=0), sums, lengths), losses(CPO(beta=2.0 / 5), sums, lengths)
    torch.testing.assert_close(one, two)
    assert (losses(SimPO(beta=2.0, gamma=0), sums, LENGTHS) - two).abs().min() > 1e-3


def test_length_is_not_rewarded(sums):
    """An answer twice as long with the same log-probability per token counts the same; the sum of CPO does not."""
    factor = torch.tensor([2.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(losses(SimPO(), sums * factor, LENGTHS * factor), losses(SimPO(), sums, LENGTHS))
    assert (losses(CPO(), sums * factor, LENGTHS * factor) - losses(CPO(), sums, LENGTHS)).abs().min() > 0.05


def test_the_margin_is_where_the_push_is_half():
    a = torch.tensor([[-1.0, -1.5]], dtype=torch.float64, requires_grad=True)
    objective = SimPO(beta=2.0, gamma=1.0)
    got = losses(objective, a, torch.ones(1, 2))
    assert math.isclose(got.item(), math.log(2), rel_tol=1e-12)  # 2 * (a_w - a_l) - 1 = 0
    (grad,) = torch.autograd.grad(got.sum(), a)
    np.testing.assert_allclose(grad, [[-1.0, 1.0]])
    assert losses(SimPO(loss="hinge"), a, torch.ones(1, 2)).item() == 1.0


def test_the_likelihood_is_off_by_default_and_on_with_alpha(tiny, rows_of):
    policy = Policy(tiny("llama")[0])
    batch = collate_sequences(rows_of(SimPO(), 3, with_weights=False), "padded", 0)
    off, on = SimPO().losses(policy, batch), SimPO(alpha=1).losses(policy, batch)
    assert off.sums["nll"].item() == 0
    torch.testing.assert_close(on.sums["nll"], CPO().losses(policy, batch).sums["nll"])
    torch.testing.assert_close(on.sums["preference"], off.sums["preference"])
    means = (batch.sum_per_sequence(policy.token_logps(batch)) / batch.label_counts()).view(3, 2).detach()
    torch.testing.assert_close(off.sums["preference"].detach(), margin_losses(2 * means, 1.0).sum())
    margins = 2 * (means[:, 0] - means[:, 1])
    assert off.metrics["rewards/accuracy"] == ((margins > 0).sum().item(), 3)
