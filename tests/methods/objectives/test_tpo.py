"""TPO and TPO-L: golden values, and what they are when two of the three answers coincide or a weight is 0."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.cpo import CPO
from holdfast.methods.objectives.preference.simpo import SimPO
from holdfast.methods.objectives.preference.tpo import TPO
from holdfast.methods.objectives.preference.tpo_l import TPOL
from holdfast.methods.objectives.terms.margin_objective import margin_losses
from holdfast.models.policy import Policy

LENGTHS = torch.tensor([[5.0, 4.0, 3.0], [3.0, 6.0, 4.0], [6.0, 2.0, 5.0]], dtype=torch.float64)


@pytest.fixture
def sums(golden_logps) -> torch.Tensor:
    """s [3, 3] of the golden chosen, rejected and gold answers."""
    three = (
        golden_logps(0.0, (3, 2, 1), (5, 3, 6)),
        golden_logps(0.4, (5, 1, 2), (4, 6, 2)),
        golden_logps(0.8, (1, 4, 3), (3, 4, 5)),
    )
    return torch.stack([torch.stack([one.sum() for one in answers]) for answers in three], 1)


@pytest.mark.parametrize(
    ("key", "objective"),
    [("tpo b=.01 a=1", TPO()), ("tpo-l b=2 g=1.6 a=1", TPOL(beta=2, gamma=1.6, alpha=1))],
)
def test_golden_values(golden, sums, key, objective):
    preference = margin_losses(objective.answer_rewards(sums, LENGTHS), objective.target_margin()).mean()
    nll = -sums[:, objective.nll_role].sum() / LENGTHS[:, objective.nll_role].sum()
    assert math.isclose(preference + objective.alpha * nll, golden[key], abs_tol=1e-7)


def triples(rows_of, gold: int | None = None):
    """Rows with three answers, and the same as pairs; `gold`: this role's answer stands in the gold one's place."""
    rows = rows_of(TPO(), 4)
    if gold is not None:
        for row in rows:
            if row.role == 2:
                twin = next(r for r in rows if r.row == row.row and r.role == gold)
                row.ids, row.label_mask = twin.ids, twin.label_mask
    return rows, [row for row in rows if row.role < 2]


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    ("three", "two"),
    [
        (TPO(beta=0.1, alpha=0.6), CPO(beta=0.1, alpha=0.6)),
        (TPO(nll="sum", alpha=0.6), CPO(beta=0.01, nll="sum", alpha=0.6)),
        (TPOL(alpha=0.6), SimPO(beta=2, gamma=1.6, alpha=0.6)),
    ],
)
def test_with_the_chosen_answer_as_gold_it_is_the_loss_of_pairs(tiny, rows_of, step_of, layout, three, two):
    policy = Policy(tiny("llama")[0])
    triple, pair = triples(rows_of, gold=0)
    loss, grads = step_of(policy, three, [collate_sequences(triple, layout, 0)])
    other, other_grads = step_of(policy, two, [collate_sequences(pair, layout, 0)])
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("three", "two"),
    [(TPO(alpha=0), CPO(beta=0.01, alpha=0)), (TPOL(alpha=0), SimPO(beta=2, gamma=1.6))],
)
def test_without_gold_only_the_preference_is_left(tiny, rows_of, step_of, three, two):
    policy = Policy(tiny("llama")[0])
    triple, pair = triples(rows_of)
    loss, grads = step_of(policy, three, [collate_sequences(triple, "padded", 0)])
    other, other_grads = step_of(policy, two, [collate_sequences(pair, "padded", 0)])
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, other_grads[name], rtol=1e-4, atol=1e-5)


def test_each_answer_is_moved_its_own_way(tiny, rows_of):
    """Gold and chosen up, rejected down: the derivatives by the three log-probabilities."""
    policy = Policy(tiny("llama")[0])
    batch = collate_sequences(rows_of(TPO(), 2, with_weights=False), "padded", 0)
    for objective in (TPO(), TPOL()):
        logps = policy.token_logps(batch).detach().requires_grad_()
        policy.token_logps = lambda batch, logps=logps: logps
        sum(objective.losses(policy, batch).sums.values()).backward()
        del policy.token_logps
        role = batch.roles[batch.sequence]
        assert (logps.grad[role != 1] < 0).all()
        assert (logps.grad[role == 1] > 0).all()
        assert objective.normalizers(batch)["nll"] == (role == 2).sum()


def test_the_metrics_are_those_of_the_pair(tiny, rows_of):
    policy = Policy(tiny("llama")[0])
    triple, pair = triples(rows_of)
    three = TPO(beta=0.1).losses(policy, collate_sequences(triple, "padded", 0)).metrics
    two = CPO().losses(policy, collate_sequences(pair, "padded", 0)).metrics
    assert three.keys() == two.keys()
    for name, (total, count) in three.items():
        np.testing.assert_allclose((total, count), two[name], rtol=1e-5)
