"""Soft labels: golden values, the identities with DPO and IPO, and what labels below one half mean."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.lab.reproduce.tables import random_policy, train_policy
from holdfast.methods.objectives.preference.dpo import DPO, pair_losses
from holdfast.methods.objectives.preference.geometric import Geometric, geometric_losses

FORMS = ("gdpo", "gipo", "gropo", "cdpo", "cipo")
H = torch.tensor([-2.0, 0.0, 0.3, 4.0], dtype=torch.float64)
SOFT = torch.tensor([0.95, 0.7, 0.55], dtype=torch.float64)


@pytest.fixture
def h(golden) -> torch.Tensor:
    """The margins [3] of the golden pairs."""
    s_w, ref_w, s_l, ref_l = (
        torch.tensor(golden[k], dtype=torch.float64) for k in ("s_w", "s_ref_w", "s_l", "s_ref_l")
    )
    return (s_w - ref_w) - (s_l - ref_l)


def as_pairs(h: torch.Tensor) -> torch.Tensor:
    return torch.stack([h, torch.zeros_like(h)], 1)


def test_golden_values(golden, h):
    for form, key in (("gdpo", "gdpo b=.1 p=(.95,.7,.55)"), ("gipo", "gipo b=.1")):
        np.testing.assert_allclose(geometric_losses(h, SOFT, form, 0.1), golden[key], atol=1e-6)
    # The baseline on labels of 0.9 is conservative DPO with a smoothing of 0.1.
    got = geometric_losses(h, torch.full_like(h, 0.9), "cdpo", 0.1)
    np.testing.assert_allclose(got, golden["cdpo b=.1 eps=.1"], atol=1e-6)


def test_with_certain_labels_it_is_dpo_and_ipo():
    sure, ones = torch.ones_like(H), torch.ones(4, 2)
    dpo, ipo = (pair_losses(as_pairs(H), ones, loss, 0.3) for loss in ("sigmoid", "ipo_sum"))
    for form, wanted in (("gdpo", dpo), ("cdpo", dpo), ("gipo", ipo), ("cipo", ipo)):
        torch.testing.assert_close(geometric_losses(H, sure, form, 0.3), wanted)
    ropo = 0.7 * dpo + 0.4 * (-0.3 * H).sigmoid()
    torch.testing.assert_close(geometric_losses(H, sure, "gropo", 0.3, alpha=0.4, gamma=0.7), ropo)


@pytest.mark.parametrize("p", [0.55, 0.7, 0.95])
def test_a_soft_label_is_a_smaller_beta(p):
    label = torch.full_like(H, p)
    wanted = pair_losses(as_pairs(H), torch.ones(4, 2), "sigmoid", 0.3 * (2 * p - 1))
    torch.testing.assert_close(geometric_losses(H, label, "gdpo", 0.3), wanted)
    h = H.clone().requires_grad_()
    (grad,) = torch.autograd.grad(geometric_losses(h, label, "gdpo", 0.3).sum(), h)
    scale = 0.3 * (2 * p - 1)
    torch.testing.assert_close(grad, -scale * (-scale * H).sigmoid())


def test_it_is_dpo_between_geometric_averages():
    """The definition: averages of the two answers' log-probabilities, whose normalisers cancel in the margin."""
    torch.manual_seed(0)
    s, ref = torch.randn(2, 3, 2, dtype=torch.float64)
    p = SOFT[:, None]
    averaged = p * (s - ref) + (1 - p) * (s - ref).flip(1)
    wanted = pair_losses(averaged, torch.ones(3, 2), "sigmoid", 0.2)
    gains = s - ref
    torch.testing.assert_close(geometric_losses(gains[:, 0] - gains[:, 1], SOFT, "gdpo", 0.2), wanted)


def test_a_toss_up_teaches_nothing():
    known = {"gdpo": math.log(2), "gipo": 25.0, "gropo": 0.1 * math.log(2) + 0.1}
    for form, value in known.items():
        h = H.clone().requires_grad_()
        got = geometric_losses(h, torch.full_like(H, 0.5), form, 0.1)
        np.testing.assert_allclose(got.detach(), value, rtol=1e-12)
        (grad,) = torch.autograd.grad(got.sum(), h)
        assert not grad.any()


@pytest.mark.parametrize("form", FORMS)
def test_a_label_below_one_half_is_the_swapped_pair(form):
    label = torch.tensor([0.0, 0.1, 0.3, 0.45], dtype=torch.float64)
    got = geometric_losses(H, label, form, 0.3)
    torch.testing.assert_close(got, geometric_losses(-H, 1 - label, form, 0.3))
    h = H.clone().requires_grad_()
    (grad,) = torch.autograd.grad(geometric_losses(h, torch.full_like(H, 0.1), "gdpo", 0.3).sum(), h)
    assert (grad > 0).all()  # rejected is raised above chosen


@pytest.mark.parametrize("p", [0.55, 0.9])
def test_where_each_form_ends(p):
    """cdpo at logit(p) / beta, cipo at (2p - 1) / (2 beta), gipo wider the weaker the label; gdpo and gropo nowhere."""
    beta = 0.5
    ends = {
        "cdpo": math.log(p / (1 - p)) / beta,
        "cipo": (2 * p - 1) / (2 * beta),
        "gipo": 1 / (2 * beta * (2 * p - 1)),
    }

    def slope(form, *margins):
        h = torch.tensor(margins, dtype=torch.float64, requires_grad=True)
        (grad,) = torch.autograd.grad(geometric_losses(h, torch.full_like(h, p), form, beta).sum(), h)
        return grad

    for form, end in ends.items():
        below, there, above = slope(form, 0.99 * end, end, 1.01 * end)
        assert below < 0 < above, form
        assert abs(there) < 1e-12, form
    for form in ("gdpo", "gropo"):
        assert (slope(form, -50.0, 0.0, 5.0, 50.0, 200.0) < 0).all()


def test_on_a_table_gdpo_goes_on_and_conservative_dpo_stops():
    reference = random_policy(2, seed=0)

    def margin(form, steps):
        def loss(logps):
            gains = logps - reference
            return geometric_losses(gains[:1] - gains[1:], torch.tensor([0.7]), form, 1.0).sum()

        gains = train_policy(reference, loss, steps=steps, rate=0.1) - reference
        return (gains[0] - gains[1]).item()

    assert margin("gdpo", 300) > margin("gdpo", 150) + 1
    assert math.isclose(margin("cdpo", 300), math.log(0.7 / 0.3), abs_tol=1e-3)


def make(moved, make_rows, labels):
    rows = make_rows(len(labels), pairs=True)
    for encoded in rows:
        encoded.values = {"preference": labels[encoded.row]}
    return moved(rows)


@pytest.mark.parametrize("form", FORMS)
def test_on_a_model(moved, make_rows, form):
    labels = [1.0, 0.8, 0.5, 0.2]
    policy, batch = make(moved, make_rows, labels)
    objective = Geometric(form=form, beta=0.5)
    out = objective.losses(policy, batch)
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(4, 2).detach()
    h = gains[:, 0] - gains[:, 1]
    wanted = geometric_losses(h, torch.tensor(labels), form, 0.5).sum()
    torch.testing.assert_close(out.sums["preference"], wanted)
    # The fourth pair stands the wrong way round, and is watched the right way round.
    h[3] = -h[3]
    assert out.metrics["rewards/accuracy"] == ((h > 0).sum().item(), 4)
    assert math.isclose(out.metrics["rewards/margin"][0], 0.5 * h.sum().item(), abs_tol=1e-5)


def test_gradients_with_certain_labels_are_those_of_dpo(moved, make_rows):
    policy, batch = make(moved, make_rows, [1.0, 1.0, 1.0])
    found = []
    for objective in (Geometric(), DPO()):
        policy.model.zero_grad()
        objective.losses(policy, batch).sums["preference"].backward()
        found.append([p.grad.clone() for p in policy.model.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_the_label_is_asked_of_every_row():
    (column,) = Geometric().value_columns()
    row = Row([{"role": "user", "content": "?"}], chosen="a", rejected="b", meta={"preference": 0.25})
    assert column.value_of(row, 1) == 0.25
    row.meta = {}
    with pytest.raises(UserError, match="preference"):
        column.value_of(row, 1)
    row.meta = {"preference": 1.5}
    with pytest.raises(UserError, match="not between"):
        column.value_of(row, 1)


def test_knobs():
    with pytest.raises(ValidationError, match="no effect on gdpo"):
        Geometric(alpha=1.0)
    values = {geometric_losses(H, SOFT[:1], "gropo", 0.1, a, g).sum().item() for a in (0.2, 2.0) for g in (0.1, 1.0)}
    assert len(values) == 4
    assert Geometric(form="gropo", alpha=2.0).alpha == 2.0
