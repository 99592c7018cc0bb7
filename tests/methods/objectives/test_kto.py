"""KTO: golden values, known points, and the reference point of a whole step."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.scored.kto import KTO, answer_gains, utility_losses
from holdfast.models.policy import Policy, precompute_reference


def test_golden_values(golden, golden_logps):
    chosen = [
        p.sum() - r.sum()
        for p, r in zip(golden_logps(), golden_logps(0.15), strict=True)
    ]  # fmt: skip
    rejected = [
        p.sum() - r.sum()
        for p, r in zip(golden_logps(0.4, (5, 1, 2), (4, 6, 2)), golden_logps(0.52, (5, 1, 2), (4, 6, 2)), strict=True)
    ]
    gains = torch.stack([chosen[0], rejected[1], chosen[2]])
    got = utility_losses(gains, torch.tensor([1.0, 0.0, 1.0]), 0.25, 0.1)
    np.testing.assert_allclose(got, golden["kto b=.1 z0=.25 (w0,l1,w2)"], atol=1e-7)


def test_at_the_reference_it_is_one_half_and_saturates_both_ways():
    good = torch.tensor([1.0, 0.0])
    np.testing.assert_allclose(utility_losses(torch.zeros(2), good, 0.0, 0.3), 0.5)
    np.testing.assert_allclose(utility_losses(torch.full((2,), 1e3), good, 0.0, 0.3), [0, 1], atol=1e-7)
    np.testing.assert_allclose(utility_losses(torch.full((2,), -1e3), good, 0.0, 0.3), [1, 0], atol=1e-7)


@pytest.mark.parametrize("z0", [0.0, 0.7])
def test_the_gradient_with_a_fixed_reference_point(z0):
    gains = torch.tensor([-2.0, 0.5, 3.0, -2.0, 0.5, 3.0], dtype=torch.float64, requires_grad=True)
    good = torch.tensor([1.0, 1, 1, 0, 0, 0])
    (grad,) = torch.autograd.grad(utility_losses(gains, good, z0, 0.4).sum(), gains)
    sigma = torch.sigmoid(0.4 * (gains.detach() - z0))
    torch.testing.assert_close(grad, (1 - 2 * good.double()) * 0.4 * sigma * (1 - sigma))


@pytest.fixture
def moved(tiny, rows_of):
    """`(policy, rows)`: a model moved away from its reference by this much, and six labelled rows."""

    def make(far: float = 0.1, **knobs):
        model, _ = tiny("llama")
        rows = rows_of(KTO(**knobs), 6, with_weights=False)
        policy = Policy(model)
        precompute_reference(policy, [collate_sequences(rows, "padded", 0)])
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(far * torch.randn_like(p))
        return policy, rows

    return make


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_the_reference_point_is_that_of_the_whole_step(moved, looked_over, layout):
    policy, rows = moved()
    objective = KTO(beta=0.5)
    whole = collate_sequences(rows, layout, 0)
    shifted = answer_gains(policy, whole.select_roles(1)).detach()
    assert len(shifted) == 6
    z0 = shifted.mean().clamp_min(0)
    gains, good = answer_gains(policy, whole.select_roles(0)).detach(), whole.select_roles(0).values["label"]
    wanted = utility_losses(gains, good, z0, 0.5)
    cuts = [collate_sequences(rows[i : i + 4], layout, 0) for i in (0, 4, 8)]  # two rows of two sequences each
    batches = looked_over(policy, objective, cuts)
    got = [objective.losses(policy, batch).sums["utility"] for batch in batches]
    torch.testing.assert_close(torch.stack(got).detach(), wanted.view(3, 2).sum(1))
    alone = looked_over(policy, objective, cuts[:1])[0]  # a step of its own has a point of its own
    assert alone.step_values["divergence"].all.shape == (2,)


def test_a_negative_estimate_counts_as_zero(moved):
    from dataclasses import replace

    from holdfast.data.batching.batches import StepValues

    policy, rows = moved()
    batch = collate_sequences(rows, "padded", 0)
    objective = KTO()

    def loss(value: float) -> float:
        step = {"divergence": StepValues(torch.full((6,), value), slice(0, 6))}
        return objective.losses(policy, replace(batch, step_values=step)).sums["utility"].item()

    assert loss(-3.0) == loss(0.0)
    assert loss(3.0) != loss(0.0)


def test_no_gradient_through_the_reference_point(moved, looked_over, step_of):
    """The gradient is that of the answers with the point held fixed."""
    policy, rows = moved()
    objective = KTO(beta=0.5)
    batch = collate_sequences(rows, "padded", 0)
    _, grads = step_of(policy, objective, [batch])
    (batch,) = looked_over(policy, objective, [batch])
    z0 = batch.step_values["divergence"].all.mean().clamp_min(0)
    mine = batch.select_roles(0)
    (utility_losses(answer_gains(policy, mine), mine.values["label"], z0, 0.5).sum() / 6).backward()
    for name, p in policy.model.named_parameters():
        torch.testing.assert_close(grads[name], p.grad, rtol=1e-4, atol=1e-6)


def test_weights_by_label_and_metrics(moved, looked_over):
    policy, rows = moved()
    (batch,) = looked_over(policy, KTO(), [collate_sequences(rows, "padded", 0)])
    good = batch.select_roles(0).values["label"]
    assert good.sum() == 3
    both, only_good, only_bad = (
        KTO(desirable=d, undesirable=u).losses(policy, batch).sums["utility"] for d, u in ((1, 1), (1, 0), (0, 2))
    )
    torch.testing.assert_close(both, only_good + only_bad / 2)
    metrics = KTO().losses(policy, batch).metrics
    gains = 0.1 * answer_gains(policy, batch.select_roles(0)).detach()
    assert metrics["rewards/desirable"][1] == metrics["rewards/undesirable"][1] == 3
    assert math.isclose(metrics["rewards/desirable"][0], gains[good > 0].sum(), rel_tol=1e-5)
    assert math.isclose(metrics["rewards/undesirable"][0], gains[good == 0].sum(), rel_tol=1e-5)
    point = 0.1 * batch.step_values["divergence"].all.mean().clamp_min(0)
    assert metrics["rewards/accuracy"] == (((gains > point) == (good > 0)).sum().item(), 6)
    assert KTO().normalizers(batch) == {"utility": 6}


def test_a_rows_weight_does_not_move_the_reference_point(moved, looked_over):
    policy, rows = moved()
    (plain,) = looked_over(policy, KTO(), [collate_sequences(rows, "padded", 0)])
    for row in rows:
        row.weight = float(row.row)
    (weighted,) = looked_over(policy, KTO(), [collate_sequences(rows, "padded", 0)])
    torch.testing.assert_close(plain.step_values["divergence"].all, weighted.step_values["divergence"].all)
    mine = plain.select_roles(0)
    z0 = plain.step_values["divergence"].all.mean().clamp_min(0)
    values = utility_losses(answer_gains(policy, mine), mine.values["label"], z0, 0.1)
    wanted = (values * torch.arange(6)).sum()
    torch.testing.assert_close(KTO().losses(policy, weighted).sums["utility"], wanted)
