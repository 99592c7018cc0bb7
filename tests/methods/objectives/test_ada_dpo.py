"""Ada-DPO: the closed form against golden values and a grid, where the published iteration ends, and the optimum."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.methods.objectives.preference.ada_dpo import (
    LN2,
    AdaDPO,
    binary_entropy,
    scaled_losses,
    solve_margin_threshold,
    solve_scales,
)
from holdfast.methods.objectives.preference.dpo import DPO

D = torch.tensor([3.0, 0.8, -1.5], dtype=torch.float64)
LINE = torch.linspace(-1, 1, 2001, dtype=torch.float64)


def test_golden_values(golden):
    for rho in (0.1, 0.2, 0.4):
        assert math.isclose(solve_margin_threshold(rho), golden[f"ada z0(rho0={rho})"], abs_tol=1e-7)
    tau = solve_scales(D, 0.2, False, 0.1, 5.0)
    np.testing.assert_allclose(tau, golden["ada tau* bisect d=(3,.8,-1.5) rho0=.2 [.1,5]"], atol=1e-6)
    for steps in (5, 200):
        got = solve_scales(D, 0.2, False, 0.1, 5.0, steps)
        np.testing.assert_allclose(got, golden[f"ada tau newton{steps}"], atol=1e-6)
    first_part = scaled_losses(D, tau, 0.2) - (0.2 - LN2) * tau
    np.testing.assert_allclose(first_part, golden["ada loss -tau*logsig(d/tau)"], atol=1e-6)


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("rho", [0.05, 0.1, 0.2, 0.4, 0.69, 0.8])
def test_the_closed_form_is_the_minimum_of_a_grid(rho, quadratic):
    d = torch.tensor([-30.0, -3.0, -0.4, -0.01, 0.0, 0.02, 0.9, 5.0, 40.0], dtype=torch.float64)
    high = 8.0 if quadratic else 5.0
    grid = torch.linspace(0.1, high, 20001, dtype=torch.float64)
    values = scaled_losses(d[:, None], grid[None, :].expand(len(d), -1), rho, quadratic)
    tau = solve_scales(d, rho, quadratic, 0.1, math.inf if quadratic else 5.0)
    torch.testing.assert_close(tau, grid[values.argmin(1)], atol=3e-4, rtol=0)
    assert (scaled_losses(d, tau, rho, quadratic) <= values.min(1).values + 1e-12).all()


def test_a_high_price_leaves_the_least_scale():
    assert solve_margin_threshold(LN2) == solve_margin_threshold(1.0) == math.inf
    assert (solve_scales(LINE, 1.0, False, 0.1, 5.0) == 0.1).all()
    assert math.isclose(binary_entropy(torch.zeros(1)).item(), LN2, rel_tol=1e-6)


def test_between_the_bounds_the_loss_is_a_straight_line():
    z = solve_margin_threshold(0.2)
    d = torch.tensor([0.5, 1.0, 5.0, -0.5, -1.0, -5.0], dtype=torch.float64)
    assert (d.abs() / z > 0.1).all()
    assert (d.abs() / z < 5).all()
    got = scaled_losses(d, solve_scales(d, 0.2, False, 0.1, 5.0), 0.2)
    up = 1 / (1 + math.exp(-z))
    torch.testing.assert_close(got, torch.where(d > 0, -d * (1 - up), -d * up))


@pytest.mark.parametrize("quadratic", [False, True])
def test_the_gradient_with_a_constant_scale_is_the_whole_gradient(quadratic):
    d = torch.tensor([-4.0, -0.9, -0.3, 0.35, 1.1, 2.0], dtype=torch.float64, requires_grad=True)
    high = math.inf if quadratic else 5.0
    tau = solve_scales(d.detach(), 0.1, quadratic, 0.1, high)
    (constant,) = torch.autograd.grad(scaled_losses(d, tau, 0.1, quadratic).sum(), d)
    step = 1e-5
    ends = []
    for shift in (step, -step):
        moved = d.detach() + shift
        ends.append(scaled_losses(moved, solve_scales(moved, 0.1, quadratic, 0.1, high), 0.1, quadratic))
    torch.testing.assert_close(constant, (ends[0] - ends[1]) / (2 * step), atol=1e-6, rtol=0)
    torch.testing.assert_close(constant, -(-d.detach() / tau).sigmoid())


@pytest.mark.parametrize(("rho", "wrong"), [(0.1, 0.0), (0.2, 0.18), (0.4, 0.37)])
def test_the_published_iteration_does_not_converge_where_training_starts(rho, wrong):
    best = solve_scales(LINE, rho, False, 0.1, 5.0)
    for steps in (5, 200):
        share = ((solve_scales(LINE, rho, False, 0.1, 5.0, steps) / best - 1).abs() > 0.05).double().mean().item()
        assert math.isclose(share, wrong, abs_tol=0.01)


def test_the_published_iteration_converges_for_the_quadratic_form():
    best = solve_scales(4 * LINE, 0.1, True, 0.1, math.inf)
    torch.testing.assert_close(solve_scales(4 * LINE, 0.1, True, 0.1, math.inf, 30), best, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("solver", ["closed", "newton"])
def test_with_one_scale_it_is_dpo(moved, make_rows, solver):
    policy, batch = moved(make_rows(4, pairs=True))
    objective = AdaDPO(tau_min=1, tau_max=1, solver=solver)
    out, dpo = objective.losses(policy, batch), DPO().losses(policy, batch)
    constant = 4 * (0.1 - LN2)
    torch.testing.assert_close(out.sums["preference"] - constant, dpo.sums["preference"])
    found = []
    for losses in (out, dpo):
        policy.model.zero_grad()
        losses.sums["preference"].backward()
        found.append(torch.cat([p.grad.flatten() for p in policy.model.parameters()]))
    torch.testing.assert_close(*found)
    assert out.metrics["tau"] == (4.0, 4.0)
    assert {k: v for k, v in out.metrics.items() if k != "tau"} == dpo.metrics


def test_the_knobs_reach_the_loss(moved, make_rows):
    policy, batch = moved(make_rows(4, pairs=True))
    settings = [
        AdaDPO(), AdaDPO(beta=0.5), AdaDPO(rho=0.4), AdaDPO(tau_min=0.5), AdaDPO(beta=20, tau_max=0.2), AdaDPO(beta=20),
        AdaDPO(form="quadratic"), AdaDPO(rho=0.4, solver="newton"), AdaDPO(rho=0.2, solver="newton", steps=1),
    ]  # fmt: skip
    values = [o.losses(policy, batch).sums["preference"].item() for o in settings]
    assert len({round(v, 4) for v in values}) == len(settings)


@pytest.mark.parametrize("quadratic", [False, True])
@pytest.mark.parametrize("p", [0.55, 0.7, 0.99])
def test_the_optimum_over_noisy_labels(p, quadratic):
    """Proposition 3.1: tau logit(p), tau one of the bounds; quadratic: tau = (ln 2 - H(p)) / (2 rho) or tau_min."""
    rho, low, high = 0.1, 0.1, math.inf if quadratic else 2.0
    logit = math.log(p / (1 - p))
    unsure = -p * math.log(p) - (1 - p) * math.log(1 - p)
    bound = low if unsure > LN2 - rho else high
    best = logit * (max(low, (LN2 - unsure) / (2 * rho)) if quadratic else bound)
    shares = torch.tensor([0.0, 0.1, 0.5, 0.99, 1.0, 1.01, 2.0, 10.0], dtype=torch.float64)
    d = (best * shares).requires_grad_()
    one = solve_scales(d.detach(), rho, quadratic, low, high)
    loss = p * scaled_losses(d, one, rho, quadratic) + (1 - p) * scaled_losses(-d, one, rho, quadratic)
    (slope,) = torch.autograd.grad(loss.sum(), d)
    assert (slope[shares < 1] < 0).all()
    assert (slope[shares > 1] > 0).all()
    assert slope[shares == 1].abs() < 1e-9


def test_knobs_that_would_do_nothing_are_refused():
    for wrong, message in (
        ({"tau_min": 2, "tau_max": 1}, "above tau_max"),
        ({"form": "quadratic", "tau_max": 3}, "no effect on quadratic"),
        ({"steps": 3}, "no effect on the closed solver"),
    ):
        with pytest.raises(ValidationError, match=message):
            AdaDPO(**wrong)
    assert AdaDPO(**AdaDPO(form="quadratic", solver="newton", steps=3).model_dump()).steps == 3
