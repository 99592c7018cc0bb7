"""ORPO: golden values, SFT as its limit, both likelihoods, and the odds at their ends."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.preference.orpo import ORPO
from holdfast.methods.objectives.terms.pairs import log_odds
from holdfast.models.policy import Policy

LENGTHS = torch.tensor([[5.0, 4.0], [3.0, 6.0], [6.0, 2.0]], dtype=torch.float64)


@pytest.fixture
def means(golden_logps) -> torch.Tensor:
    """a [3, 2] of the golden chosen and rejected answers."""
    both = golden_logps(0.0, (3, 2, 1), (5, 3, 6)), golden_logps(0.4, (5, 1, 2), (4, 6, 2))
    return torch.stack([torch.stack([one.mean() for one in answers]) for answers in both], 1)


def test_golden_values(golden, means):
    odds = log_odds(means)
    ratio = odds[:, 0] - odds[:, 1]
    np.testing.assert_allclose(ratio, golden["orpo log-odds-ratio"], atol=1e-7)
    total = (-means[:, 0] - 0.1 * F.logsigmoid(ratio)).mean()
    assert math.isclose(total, golden["orpo lam=.1 (resp-only NLL, LLaMA-Factory)"], abs_tol=1e-7)


def test_odds_are_odds_and_finite_at_the_ends():
    p = torch.tensor([0.01, 0.3, 0.5, 0.9, 0.999], dtype=torch.float64)
    torch.testing.assert_close(log_odds(p.log()), torch.logit(p))
    ends = torch.tensor([0.0, -1e-30, -1e-7, -50.0, -500.0], requires_grad=True)
    out = log_odds(ends)
    assert torch.isfinite(out).all()
    assert torch.isfinite(torch.autograd.grad(out.sum(), ends)[0]).all()


def chosen_only(rows):
    return [row for row in rows if row.role == 0]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_without_the_ratio_it_is_sft_on_the_chosen_answers(tiny, rows_of, step_of, layout):
    policy = Policy(tiny("llama")[0])
    rows = rows_of(ORPO(), 4)
    wanted, grads = step_of(policy, SFT(reduction="sequence"), [collate_sequences(chosen_only(rows), layout, 0)])
    loss, exact = step_of(policy, ORPO(beta=0), [collate_sequences(rows, layout, 0)])
    assert math.isclose(loss, wanted, rel_tol=1e-6)
    _, close = step_of(policy, ORPO(beta=1e-4), [collate_sequences(rows, layout, 0)])
    _, far = step_of(policy, ORPO(), [collate_sequences(rows, layout, 0)])
    norm = torch.stack([g.norm() for g in grads.values()]).norm()

    def apart(other):
        return (torch.stack([torch.dist(g, other[n]) for n, g in grads.items()]).norm() / norm).item()

    assert apart(exact) < 1e-5
    assert apart(close) < 1e-3
    assert apart(far) > 1e-2


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_everything_trains_prompts_of_chosen_too(tiny, rows_of, layout):
    objective = ORPO(nll="everything", beta=0.2)
    policy = Policy(tiny("llama")[0])
    rows = rows_of(objective, 4)
    batch = collate_sequences(rows, layout, 0)
    out = objective.losses(policy, batch)
    plain = ORPO(beta=0.2).losses(policy, batch)
    torch.testing.assert_close(out.sums["odds_ratio"], plain.sums["odds_ratio"])
    for name, figures in out.metrics.items():
        assert figures == pytest.approx(plain.metrics[name], rel=1e-5)
    whole = chosen_only(rows)
    for row in whole:
        row.label_mask = np.ones_like(row.label_mask)
    read = collate_sequences(whole, layout, 0)
    torch.testing.assert_close(out.sums["nll"], SFT().losses(policy, read).sums["nll"])
    assert math.isclose(objective.normalizers(batch)["nll"], read.weight, rel_tol=1e-6)
    assert not objective.shares_prompts()
    assert ORPO().shares_prompts()


@pytest.mark.parametrize("beta", [0.1, 1.0])
def test_accumulation_changes_nothing_with_prompts_trained(tiny, rows_of, step_of, beta):
    objective = ORPO(nll="everything", beta=beta)
    policy = Policy(tiny("gemma2")[0])
    rows = rows_of(objective, 4)
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    other, other_grads = step_of(
        policy, objective, [collate_sequences(rows[:2], "packed", 0), collate_sequences(rows[2:], "padded", 0)]
    )
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-4, atol=1e-5)


def test_the_ratio_pushes_apart(means):
    means = means.clone().requires_grad_()
    odds = log_odds(means)
    value = -F.logsigmoid(odds[:, 0] - odds[:, 1])
    (grad,) = torch.autograd.grad(value.sum(), means)
    assert (grad[:, 0] < 0).all()
    assert (grad[:, 1] > 0).all()
    # d f / d a = 1 / (1 - P): the paper's gradient has this amplification at both answers.
    sigma = torch.sigmoid(odds[:, 1] - odds[:, 0])
    torch.testing.assert_close(grad[:, 0], -sigma / (1 - means[:, 0].exp()))
    torch.testing.assert_close(grad[:, 1], sigma / (1 - means[:, 1].exp()))
