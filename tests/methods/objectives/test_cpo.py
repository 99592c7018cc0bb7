"""CPO: golden values, its relation to DPO, both likelihoods, and what its knobs do on a model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.cpo import CPO
from holdfast.methods.objectives.preference.dpo import pair_losses
from holdfast.methods.objectives.terms.margin_objective import margin_losses
from holdfast.models.policy import Policy


@pytest.fixture
def sums(golden_logps) -> torch.Tensor:
    """s [3, 2] of the golden chosen and rejected answers."""
    both = golden_logps(0.0, (3, 2, 1), (5, 3, 6)), golden_logps(0.4, (5, 1, 2), (4, 6, 2))
    return torch.stack([torch.stack([one.sum() for one in answers]) for answers in both], 1)


def test_golden_values(golden, sums):
    preference = margin_losses(0.1 * sums, 0.0)
    np.testing.assert_allclose(preference, golden["cpo b=.1 (pref part)"], atol=1e-7)
    total = preference.mean() - sums[:, 0].sum() / 14
    assert math.isclose(total, golden["cpo total alpha=1"], abs_tol=1e-7)


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("hinge", 0.0)])
def test_the_preference_is_dpo_with_a_uniform_reference(sums, loss, smoothing):
    # log p_ref is the same for every token, and answers of one length lose the same.
    lengths = torch.full_like(sums, 4.0)
    gains = sums - lengths * math.log(1 / 7)
    wanted = pair_losses(gains, lengths, loss, 0.3, smoothing)
    torch.testing.assert_close(margin_losses(0.3 * sums, 0.0, loss, smoothing), wanted)


def test_known_points():
    zero = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    for loss, value, slope in (("sigmoid", math.log(2), 0.5), ("hinge", 1.0, 1.0)):
        got = margin_losses(zero, 0.0, loss)
        np.testing.assert_allclose(got.detach(), value)
        (grad,) = torch.autograd.grad(got.sum(), zero)
        np.testing.assert_allclose(grad, [[-slope, slope]] * 2)
    far = torch.tensor([[3.0, 1.0], [1.0, 3.0]])
    torch.testing.assert_close(margin_losses(far, 0.0, "hinge"), torch.tensor([0.0, 3.0]))
    torch.testing.assert_close(margin_losses(far, 1.5, "hinge"), torch.tensor([0.5, 4.5]))


@pytest.mark.parametrize("nll", ["token", "sum"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_on_a_model(tiny, rows_of, nll, layout):
    objective = CPO(beta=0.3, alpha=0.7, nll=nll, label_smoothing=0.1)
    policy = Policy(tiny("llama")[0])
    batch = collate_sequences(rows_of(objective, 4, with_weights=False), layout, 0)
    out = objective.losses(policy, batch)
    s = batch.sum_per_sequence(policy.token_logps(batch)).view(4, 2).detach()
    wanted = margin_losses(0.3 * s, 0.0, "sigmoid", 0.1).sum()
    torch.testing.assert_close(out.sums["preference"].detach(), wanted)
    torch.testing.assert_close(out.sums["nll"].detach(), -0.7 * s[:, 0].sum())
    tokens = sum(len(labels) for labels in (batch.labels[batch.roles[batch.sequence] == 0],))
    assert objective.normalizers(batch) == {"preference": 4, "nll": tokens if nll == "token" else 4}
    margin = 0.3 * (s[:, 0] - s[:, 1])
    assert out.metrics["rewards/accuracy"] == ((margin > 0).sum().item(), 4)
    assert math.isclose(out.metrics["rewards/margin"][0], margin.sum().item(), rel_tol=1e-5)


def test_weights_reach_both_terms(tiny, rows_of):
    objective = CPO()
    policy = Policy(tiny("llama")[0])
    rows = rows_of(objective, 3, with_weights=False)
    alone = objective.losses(policy, collate_sequences(rows[2:4], "padded", 0)).sums
    for row in rows:
        row.weight = 2.0 * (row.row == 1)
    batch = collate_sequences(rows, "padded", 0)
    together = objective.losses(policy, batch).sums
    for term in ("preference", "nll"):
        torch.testing.assert_close(together[term], 2 * alone[term])
    assert objective.normalizers(batch)["nll"] == 2 * len(rows[2].label_mask[rows[2].label_mask])


@pytest.mark.parametrize("knobs", [{"nll": "sum"}, {"loss": "hinge"}, {"alpha": 0.0, "label_smoothing": 0.2}])
def test_accumulation_changes_nothing_with_other_knobs(tiny, rows_of, step_of, knobs):
    objective = CPO(**knobs)
    policy = Policy(tiny("llama")[0])
    rows = rows_of(objective, 4)
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    other, other_grads = step_of(
        policy, objective, [collate_sequences(rows[:2], "packed", 0), collate_sequences(rows[2:], "packed", 0)]
    )
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-4, atol=1e-5)


def test_a_knob_that_would_do_nothing_is_refused():
    with pytest.raises(ValidationError, match="label_smoothing has no effect on hinge"):
        CPO(loss="hinge", label_smoothing=0.1)
