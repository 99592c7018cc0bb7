"""DavIR-DPO: its identities with DPO, its gradient at the reference, and answers the reference was certain of."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.davir_dpo import DavIRDPO, relative_gains
from holdfast.methods.objectives.preference.dpo import DPO, pair_losses
from holdfast.models.policy import Policy, precompute_reference


@pytest.fixture
def sums(golden) -> tuple[torch.Tensor, torch.Tensor]:
    """`(gains, reference)` [3, 2] of the golden pairs."""
    s, ref = (
        torch.stack([torch.tensor(golden[f"{name}_{role}"], dtype=torch.float64) for role in "wl"], 1)
        for name in ("s", "s_ref")
    )
    return s - ref, ref


def losses(gains, reference, beta):
    return pair_losses(relative_gains(gains, reference), torch.ones_like(gains), "sigmoid", beta)


def test_the_formula_on_the_golden_pairs(sums):
    gains, reference = sums
    for row, got in enumerate(losses(gains, reference, 10.0)):
        (chosen, rejected), (s_w, s_l) = gains[row].tolist(), reference[row].tolist()
        margin = 10.0 * (chosen / abs(s_w) - rejected / abs(s_l))
        assert math.isclose(got, math.log1p(math.exp(-margin)), rel_tol=1e-12)


def test_where_the_reference_loss_is_the_same_it_is_dpo(sums):
    gains, _ = sums
    for c in (0.5, 12.0, 300.0):
        reference = torch.full_like(gains, -c)
        wanted = pair_losses(gains, torch.ones_like(gains), "sigmoid", 0.1)
        torch.testing.assert_close(losses(gains, reference, 0.1 * c), wanted)


def test_scale_does_not_matter(sums):
    """Answers k times as long, all sums k times as large: the same loss. And a gain is at most 1."""
    gains, reference = sums
    torch.testing.assert_close(losses(7 * gains, 7 * reference, 10.0), losses(gains, reference, 10.0))
    assert torch.equal(relative_gains(-reference, reference), torch.ones_like(reference))
    assert not relative_gains(torch.zeros_like(gains), reference).any()


def test_the_gradient_at_the_reference_is_that_of_dpo_by_answer(sums):
    _, reference = sums
    zero = torch.zeros_like(reference, requires_grad=True)
    (plain,) = torch.autograd.grad(pair_losses(zero, torch.ones_like(zero), "sigmoid", 3.0).sum(), zero)
    (ours,) = torch.autograd.grad(losses(zero, reference, 3.0).sum(), zero)
    torch.testing.assert_close(ours, plain / reference.abs())


def test_the_same_on_a_model(tiny, make_rows):
    """At the reference, the weights' gradient is -beta / 2 (grad s / |s_ref| of chosen, minus that of rejected)."""
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(4, pairs=True), "packed", 0)
    policy = Policy(model)
    precompute_reference(policy, [batch])
    out = DavIRDPO().losses(policy, batch)
    assert math.isclose(out.sums["preference"].item(), 4 * math.log(2), rel_tol=1e-6)
    out.sums["preference"].backward()
    ours = torch.cat([p.grad.flatten() for p in model.parameters()])
    model.zero_grad()
    s = batch.sum_per_sequence(policy.token_logps(batch)).view(4, 2)
    shares = s / s.detach().abs()
    (-5.0 * (shares[:, 0] - shares[:, 1])).sum().backward()
    torch.testing.assert_close(ours, torch.cat([p.grad.flatten() for p in model.parameters()]), rtol=1e-4, atol=1e-5)


def test_losses_and_metrics_on_a_model_that_moved(moved, make_rows):
    rows = make_rows(4, pairs=True)
    for encoded in rows:
        encoded.weight = 1.0 + encoded.row
    policy, batch = moved(rows, "padded")
    out = DavIRDPO(beta=8.0).losses(policy, batch)
    s, reference = (
        batch.sum_per_sequence(logps).view(4, 2).detach()
        for logps in (policy.token_logps(batch), policy.reference_logps(batch))
    )
    margins = 8.0 * ((s - reference) / reference.abs()).diff(dim=1)[:, 0].neg()
    wanted = -(F.logsigmoid(margins) * torch.arange(1.0, 5.0)).sum()
    torch.testing.assert_close(out.sums["preference"], wanted, rtol=1e-5, atol=1e-6)
    assert out.metrics["rewards/accuracy"] == ((margins > 0).sum().item(), 4)
    assert math.isclose(out.metrics["rewards/margin"][0], margins.sum().item(), abs_tol=1e-4)
    assert not math.isclose(out.sums["preference"].item(), DPO().losses(policy, batch).sums["preference"].item())


def test_the_floor_bounds_answers_the_reference_was_certain_of():
    gains, reference = torch.tensor([[0.0, -2.0]]), torch.tensor([[-1.0, 0.0]])
    assert math.isclose(relative_gains(gains, reference)[0, 1], -2000, rel_tol=1e-6)
    assert relative_gains(gains, reference, floor=1.0)[0, 1] == -2
    assert torch.isfinite(losses(gains, reference, 10.0)).all()
    with pytest.raises(ValidationError):
        DavIRDPO(floor=0)
