"""DPO and its relatives: golden values, known points, and a table of actions where the optimum is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.dpo import DPO, pair_losses
from holdfast.models.policy import Policy, precompute_reference

LENGTHS = torch.tensor([[5.0, 4.0], [3.0, 6.0], [6.0, 2.0]], dtype=torch.float64)


@pytest.fixture
def gains(golden_logps) -> torch.Tensor:
    """D [3, 2] of the golden chosen and rejected sequences."""
    kinds = {"chosen": ((0.0, 0.15), (3, 2, 1), (5, 3, 6)), "rejected": ((0.4, 0.52), (5, 1, 2), (4, 6, 2))}
    columns = []
    for (policy, reference), labels, lengths in kinds.values():
        pairs = zip(golden_logps(policy, labels, lengths), golden_logps(reference, labels, lengths), strict=True)
        columns.append(torch.stack([p.sum() - r.sum() for p, r in pairs]))
    return torch.stack(columns, 1)


@pytest.mark.parametrize(
    ("key", "loss", "smoothing"),
    [
        ("dpo b=.1", "sigmoid", 0.0),
        ("cdpo b=.1 eps=.1", "sigmoid", 0.1),
        ("robust b=.1 eps=.1", "robust", 0.1),
        ("hinge b=.1", "hinge", 0.0),
        ("ipo_sum tau=.1", "ipo_sum", 0.0),
        ("ipo_avg tau=.1 (TRL)", "ipo", 0.0),
    ],
)
def test_golden_values(golden, gains, key, loss, smoothing):
    got = pair_losses(gains, LENGTHS, loss, 0.1, smoothing)
    np.testing.assert_allclose(got.numpy(), golden[key], atol=2e-7)


def test_at_the_reference_every_loss_is_a_known_number():
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    lengths = torch.tensor([[3.0, 5.0], [4.0, 1.0]])
    known = {"sigmoid": math.log(2), "sigmoid_norm": math.log(2), "robust": math.log(2), "hinge": 1.0, "ipo": 25.0}
    for loss, value in (known | {"ipo_sum": 25.0}).items():
        got = pair_losses(zero, lengths, loss, 0.1, 0.2 if loss == "robust" else 0.0)
        np.testing.assert_allclose(got.detach().numpy(), value, rtol=1e-12)
        (grad,) = torch.autograd.grad(got.sum(), zero)
        assert (grad[:, 0] < 0).all()
        assert (grad[:, 1] > 0).all()


def test_smoothing_is_the_mixture_of_both_labellings(gains):
    swapped = gains.flip(1)
    plain, wrong = (pair_losses(g, LENGTHS, "sigmoid", 0.3) for g in (gains, swapped))
    mixed = pair_losses(gains, LENGTHS, "sigmoid", 0.3, 0.2)
    torch.testing.assert_close(mixed, 0.8 * plain + 0.2 * wrong)
    # The robust loss is unbiased: averaged over labels flipped with that chance, it is the loss of the true labels.
    noisy, flipped = (pair_losses(g, LENGTHS, "robust", 0.3, 0.2) for g in (gains, swapped))
    torch.testing.assert_close(0.8 * noisy + 0.2 * flipped, plain)
    torch.testing.assert_close(pair_losses(gains, LENGTHS, "robust", 0.3), plain)


def test_length_normalised_is_the_plain_loss_of_averages(gains):
    ones = torch.ones_like(LENGTHS)
    for normalised, plain in (("ipo", "ipo_sum"), ("sigmoid_norm", "sigmoid")):
        want = pair_losses(gains / LENGTHS, ones, plain, 0.2)
        torch.testing.assert_close(pair_losses(gains, LENGTHS, normalised, 0.2), want)


@pytest.mark.parametrize("loss", ["sigmoid", "ipo_sum"])
def test_the_optimum_over_a_table_of_actions(loss):
    """Preferences by Bradley-Terry: DPO ends at reference * exp(reward / beta), IPO at h = (2p - 1) / (2 beta)."""
    torch.manual_seed(0)
    n, beta = 5, 0.7
    rewards, reference = torch.randn(n, dtype=torch.float64), torch.randn(n, dtype=torch.float64).log_softmax(0)
    a, b = torch.meshgrid(torch.arange(n), torch.arange(n), indexing="ij")
    pairs = torch.stack([a, b], -1)[a != b]  # [P, 2]
    chance = torch.sigmoid(rewards[pairs[:, 0]] - rewards[pairs[:, 1]])  # that the first is preferred
    if loss == "ipo_sum":
        pairs, chance = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0.8, 0.2], dtype=torch.float64)
    theta = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([theta], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        gains = (theta.log_softmax(0) - reference)[pairs]
        value = (chance * pair_losses(gains, torch.ones_like(gains), loss, beta)).sum()
        value.backward()
        return value

    optimizer.step(closure)
    final = theta.detach().log_softmax(0)
    if loss == "sigmoid":
        torch.testing.assert_close(final, (reference + rewards / beta).log_softmax(0), atol=1e-6, rtol=0)
    else:
        h = (final - reference)[pairs[0]]
        assert math.isclose(h[0] - h[1], (2 * 0.8 - 1) / (2 * beta), abs_tol=1e-6)


def test_on_a_model(tiny, make_rows):
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(4, pairs=True), "packed", 0)
    policy = Policy(model)
    precompute_reference(policy, [batch])
    objective = DPO(beta=0.5)
    out = objective.losses(policy, batch)
    assert math.isclose(out.sums["preference"].item() / batch.n_rows, math.log(2), rel_tol=1e-6)
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    out = objective.losses(policy, batch)
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(4, 2).detach()
    margins = 0.5 * (gains[:, 0] - gains[:, 1])
    assert math.isclose(out.sums["preference"].item(), -F.logsigmoid(margins).sum().item(), rel_tol=1e-6)
    assert out.metrics["rewards/accuracy"] == ((margins > 0).sum().item(), 4)
    assert math.isclose(out.metrics["rewards/margin"][0], margins.sum().item(), rel_tol=1e-5)
    chosen, rejected = out.metrics["rewards/chosen"][0], out.metrics["rewards/rejected"][0]
    assert math.isclose(chosen - rejected, margins.sum().item(), abs_tol=1e-5)


def test_pair_weights(tiny, make_rows):
    rows = make_rows(3, pairs=True)
    policy = Policy(tiny("llama")[0])
    precompute_reference(policy, [collate_sequences(rows, "padded", 0)])
    for row, weight in zip(rows, (2, 2, 0, 0, 1, 1), strict=True):
        row.weight = float(weight)
    out = DPO().losses(policy, collate_sequences(rows, "padded", 0))
    assert math.isclose(out.sums["preference"].item(), 3 * math.log(2), rel_tol=1e-6)


def test_a_knob_that_would_do_nothing_is_refused():
    with pytest.raises(ValidationError, match="label_smoothing has no effect on hinge"):
        DPO(loss="hinge", label_smoothing=0.1)
