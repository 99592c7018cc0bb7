"""IPO: golden values, its target and its optimum; and what of DPO's relatives `test_dpo.py` leaves open."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.lab.reproduce.tables import random_policy, train_policy
from holdfast.methods.objectives.preference.dpo import DPO, pair_losses
from holdfast.methods.objectives.preference.ipo import IPO
from holdfast.models.policy import Policy, precompute_reference

ONES = torch.ones(1, 2, dtype=torch.float64)


@pytest.fixture
def moved_pairs(moved, make_rows):
    """A policy moved away from its reference, and a batch of four pairs."""
    return moved(make_rows(4, pairs=True))


def test_the_methods_losses_are_the_golden_ones(golden, golden_logps):
    """Through the class: batch, reference and division by length included."""
    policies = (golden_logps(), golden_logps(0.4, (5, 1, 2), (4, 6, 2)))
    references = (golden_logps(0.15), golden_logps(0.52, (5, 1, 2), (4, 6, 2)))
    rows = []
    for row, (chosen, rejected) in enumerate(((5, 4), (3, 6), (6, 2))):
        for role, n in enumerate((chosen, rejected)):
            rows.append(EncodedSequence(np.zeros(n + 1, dtype=np.int32), np.arange(n + 1) > 0, row, role))
    batch = collate_sequences(rows, "padded", 0)
    mixed = [torch.cat([x for pair in zip(*side, strict=True) for x in pair]) for side in (policies, references)]

    class Given:
        def token_logps(self, batch, states=None):
            return mixed[0]

        def reference_logps(self, batch):
            return mixed[1]

    for form, key in (("sum", "ipo_sum tau=.1"), ("average", "ipo_avg tau=.1 (TRL)")):
        got = IPO(form=form).losses(Given(), batch).sums["preference"].item()
        assert math.isclose(got, sum(golden[key]), rel_tol=1e-6)


@pytest.mark.parametrize(("form", "loss"), [("average", "ipo"), ("sum", "ipo_sum")])
def test_it_is_the_same_loss_as_dpo_offers(moved_pairs, form, loss):
    policy, batch = moved_pairs
    one = IPO(form=form, tau=0.3).losses(policy, batch)
    two = DPO(loss=loss, beta=0.3).losses(policy, batch)
    assert torch.equal(one.sums["preference"], two.sums["preference"])
    assert one.metrics["rewards/accuracy"][1] == 4
    assert IPO().normalizers(batch) == {"preference": 4}


def test_the_forms_differ_and_the_margin_shown_is_the_one_compared(moved_pairs):
    policy, batch = moved_pairs
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(4, 2).detach()
    lengths = batch.label_counts().view(4, 2)
    for form, compared in (("sum", gains), ("average", gains / lengths)):
        out = IPO(form=form, tau=0.25).losses(policy, batch)
        h = compared[:, 0] - compared[:, 1]
        torch.testing.assert_close(out.sums["preference"], (h - 2).square().sum())
        assert math.isclose(out.metrics["rewards/margin"][0], h.sum().item(), abs_tol=1e-5)
    with pytest.raises(ValidationError):
        IPO(tau=0)


def test_at_the_reference_the_loss_is_one_over_four_tau_squared(tiny, make_rows):
    batch = collate_sequences(make_rows(3, pairs=True), "padded", 0)
    policy = Policy(tiny("llama")[0])
    precompute_reference(policy, [batch])
    for tau in (0.1, 0.5, 2.0):
        for form in ("average", "sum"):
            value = IPO(tau=tau, form=form).losses(policy, batch).sums["preference"].item()
            assert math.isclose(value / 3, 1 / (4 * tau**2), rel_tol=1e-5)


def test_row_weights(moved_pairs):
    policy, batch = moved_pairs
    weights = torch.tensor([2.0, 0.0, 1.0, 0.5])
    each = pair_losses(
        batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(4, 2),
        batch.label_counts().view(4, 2), "ipo", 0.1,
    )  # fmt: skip
    batch.weights = weights[batch.sequence // 2]
    torch.testing.assert_close(IPO().losses(policy, batch).sums["preference"], (weights * each).sum())


@pytest.mark.parametrize("tau", [0.2, 1.0])
def test_the_optimum_is_2p_minus_1_over_2_tau(tau):
    """Over a table of four prompts with two answers each, of which the first is preferred with chance p."""
    chance = torch.tensor([0.5, 0.6, 0.95, 1.0], dtype=torch.float64)
    reference = random_policy(4, 2, seed=3)

    def loss(logps):
        gains = logps - reference
        right, wrong = (pair_losses(g, torch.ones_like(g), "ipo_sum", tau) for g in (gains, gains.flip(1)))
        return (chance * right + (1 - chance) * wrong).sum()

    gains = train_policy(reference, loss, steps=500) - reference
    torch.testing.assert_close(gains[:, 0] - gains[:, 1], (2 * chance - 1) / (2 * tau), atol=1e-6, rtol=0)


def test_certain_labels_drive_dpo_on_but_not_ipo():
    reference = random_policy(2, seed=0)

    def margin(loss, steps):
        def objective(logps):
            return pair_losses((logps - reference)[None], ONES, loss, 1.0).sum()

        gains = train_policy(reference, objective, steps=steps) - reference
        return (gains[0] - gains[1]).item()

    assert margin("sigmoid", 600) > margin("sigmoid", 150) + 1
    assert math.isclose(margin("ipo_sum", 150), 0.5, abs_tol=1e-2)
    assert math.isclose(margin("ipo_sum", 600), 0.5, abs_tol=1e-6)


def test_gradients_of_the_relatives():
    """With respect to the margin: DPO -beta sigmoid(-beta h), IPO 2 (h - 1 / (2 tau)), hinge -beta until 1 / beta."""
    h = torch.tensor([-3.0, -0.2, 0.0, 1.0, 7.0], dtype=torch.float64)
    beta, e = 0.4, 0.2
    known = {
        "sigmoid": -beta * (-beta * h).sigmoid(),
        "ipo_sum": 2 * (h - 1 / (2 * beta)),
        "hinge": torch.where(h < 1 / beta, -beta, 0.0),
        "robust": -beta * ((1 - e) * (-beta * h).sigmoid() + e * (beta * h).sigmoid()) / (1 - 2 * e),
    }
    for loss, wanted in known.items():
        gains = torch.stack([h, torch.zeros_like(h)], 1).requires_grad_()
        value = pair_losses(gains, torch.ones_like(gains), loss, beta, e if loss == "robust" else 0.0)
        (grad,) = torch.autograd.grad(value.sum(), gains)
        torch.testing.assert_close(grad[:, 0], wanted.to(torch.float64))
        # What chosen gains, rejected loses: nothing but the margin counts.
        torch.testing.assert_close(grad.sum(1), torch.zeros_like(h))


def test_the_robust_gradient_is_that_of_clean_labels_in_the_mean():
    torch.manual_seed(0)
    gains = torch.randn(6, 2, dtype=torch.float64, requires_grad=True)
    ones, e = torch.ones(6, 2), 0.3
    (clean,) = torch.autograd.grad(pair_losses(gains, ones, "sigmoid", 0.5).sum(), gains)
    right, wrong = (pair_losses(g, ones, "robust", 0.5, e).sum() for g in (gains, gains.flip(1)))
    (noisy,) = torch.autograd.grad((1 - e) * right + e * wrong, gains)
    torch.testing.assert_close(noisy, clean)


def test_dpo_over_all_pairs_recovers_the_tilted_reference():
    """Bradley-Terry preferences between all actions: the optimum is reference * exp(reward / beta), to rounding."""
    torch.manual_seed(0)
    beta, rewards, reference = 0.5, torch.randn(4, dtype=torch.float64), random_policy(4, seed=1)
    optimum = (reference + rewards / beta).log_softmax(0).requires_grad_()
    pairs = torch.combinations(torch.arange(4))
    chance = (rewards[pairs[:, 0]] - rewards[pairs[:, 1]]).sigmoid()
    gains = (optimum.log_softmax(0) - reference)[pairs]
    right, wrong = (pair_losses(g, torch.ones_like(g), "sigmoid", beta) for g in (gains, gains.flip(1)))
    (grad,) = torch.autograd.grad((chance * right + (1 - chance) * wrong).sum(), optimum)
    assert grad.abs().max() < 1e-14


@pytest.mark.parametrize(
    "objective",
    [DPO(), DPO(loss="hinge"), DPO(loss="robust", label_smoothing=0.1), IPO(tau=1.0), IPO(form="sum")],
    ids=lambda o: f"{type(o).__name__}-{getattr(o, 'loss', None) or o.form}",
)
def test_pairs_that_differ_in_one_token_are_told_apart(tiny, objective):
    rng = np.random.default_rng(0)
    rows = []
    for row in range(12):
        ids = rng.integers(3, 320, size=9).astype(np.int32)
        for role in range(2):
            ids = ids.copy()
            ids[6] = 3 + (ids[6] - 3 + role) % 317
            rows.append(EncodedSequence(ids, np.arange(9) >= 5, row, role))
    batch = collate_sequences(rows, "padded", 0)
    model, _ = tiny("llama")
    policy = Policy(model)
    precompute_reference(policy, [batch])
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        out = objective.losses(policy, batch)
        optimizer.zero_grad()
        (out.sums["preference"] / 12).backward()
        optimizer.step()
    right, count = objective.losses(policy, batch).metrics["rewards/accuracy"]
    assert right / count > 0.95
