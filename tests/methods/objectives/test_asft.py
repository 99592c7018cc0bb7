"""ASFT: golden values, its closed forms, its relation to ORPO and SFT, and which way it moves both answers."""

from __future__ import annotations

import math
from copy import deepcopy

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.preference.asft import ASFT, alignment_losses
from holdfast.methods.objectives.terms.pairs import log1m_exp, log_odds
from holdfast.models.policy import Policy


@pytest.fixture
def means(golden_logps) -> torch.Tensor:
    """a [3, 2] of the golden chosen and rejected answers."""
    both = golden_logps(0.0, (3, 2, 1), (5, 3, 6)), golden_logps(0.4, (5, 1, 2), (4, 6, 2))
    return torch.stack([torch.stack([one.mean() for one in answers]) for answers in both], 1)


def test_golden_values(golden, means):
    np.testing.assert_allclose(-means[:, 0] + alignment_losses(means), golden["asft lam=1 (avg)"], atol=1e-7)


@pytest.mark.parametrize("weight", [0.1, 1.0, 3.0])
def test_both_closed_forms(means, weight):
    chosen, rejected = means.T
    total = -chosen + weight * alignment_losses(means)
    wanted = -(1 + weight) * chosen - weight * log1m_exp(rejected)
    np.testing.assert_allclose(total, wanted, atol=1e-9)
    f = torch.logit(means.exp())
    np.testing.assert_allclose(alignment_losses(means), -F.logsigmoid(f[:, 0]) - F.logsigmoid(-f[:, 1]), atol=1e-9)
    tempered = alignment_losses(means, 0.3)
    np.testing.assert_allclose(tempered, -F.logsigmoid(0.3 * f[:, 0]) - F.logsigmoid(-0.3 * f[:, 1]), atol=1e-9)


@pytest.mark.parametrize("weight", [0.1, 1.0])
def test_it_bounds_orpo_from_above(means, weight):
    p, odds = means.exp(), log_odds(means)
    orpo = -means[:, 0] - weight * F.logsigmoid(odds[:, 0] - odds[:, 1])
    asft = -means[:, 0] + weight * alignment_losses(means)
    between = weight * torch.log(p[:, 0] * (1 - p[:, 1]) + p[:, 1] * (1 - p[:, 0]))
    np.testing.assert_allclose(orpo, asft + between, atol=1e-9)
    assert (orpo <= asft).all()


def test_the_push_on_rejected_fades_with_its_probability():
    p = torch.tensor([[0.5, 1e-6], [0.5, 0.1], [0.5, 0.9]], dtype=torch.float64)
    means = p.log().requires_grad_()
    (grad,) = torch.autograd.grad(alignment_losses(means).sum(), means)
    np.testing.assert_allclose(grad[:, 1], p[:, 1] / (1 - p[:, 1]), rtol=1e-9)
    np.testing.assert_allclose(grad[:, 0], -1.0, rtol=1e-9)


def test_the_ends_are_finite():
    means = torch.tensor([[0.0, 0.0], [-1e-9, -1e-9], [-90.0, -90.0]], requires_grad=True)
    out = alignment_losses(means)
    assert torch.isfinite(out).all()
    assert torch.isfinite(torch.autograd.grad(out.sum(), means)[0]).all()


def test_without_alignment_it_is_sft_by_sequence(tiny, rows_of, step_of):
    policy = Policy(tiny("llama")[0])
    rows = rows_of(ASFT(), 4)
    chosen = [row for row in rows if row.role == 0]
    wanted, grads = step_of(policy, SFT(reduction="sequence"), [collate_sequences(chosen, "padded", 0)])
    loss, mine = step_of(policy, ASFT(weight=0), [collate_sequences(rows, "padded", 0)])
    assert math.isclose(loss, wanted, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(mine[name], grad, rtol=1e-4, atol=1e-5)


def test_knobs_scale_their_terms(tiny, rows_of):
    policy = Policy(tiny("llama")[0])
    batch = collate_sequences(rows_of(ASFT(), 3), "packed", 0)
    one = ASFT().losses(policy, batch).sums
    two = ASFT(alpha=0, weight=0.5).losses(policy, batch).sums
    assert two["nll"].item() == 0
    torch.testing.assert_close(two["alignment"], 0.5 * one["alignment"])
    assert not torch.isclose(ASFT(beta=0.2).losses(policy, batch).sums["alignment"], one["alignment"])


@pytest.mark.parametrize("seed", range(5))
def test_chosen_rises_and_rejected_falls_from_an_sft_start(tiny, rows_of, seed):
    """Answers that differ in one token, once SFT has taught the chosen ones; more of SFT lowers the rejected ones less.

    (Before that, whatever teaches a chosen answer raises one that shares all but a token with it.)
    """
    policy = Policy(tiny("llama", seed=seed)[0])
    rows = rows_of(ASFT(), 4, seed=seed, with_weights=False)
    for chosen, rejected in zip(rows[::2], rows[1::2], strict=True):
        rejected.ids, rejected.label_mask = chosen.ids.copy(), chosen.label_mask
        rejected.ids[-1] = 3 + (rejected.ids[-1] + 1) % 300
    batch, gold = collate_sequences(rows, "padded", 0), collate_sequences(rows[::2], "padded", 0)

    def train(objective, batch, steps):
        optimizer = torch.optim.Adam(policy.model.parameters(), lr=3e-3)
        for _ in range(steps):
            optimizer.zero_grad()
            sums, counts = objective.losses(policy, batch).sums, objective.normalizers(batch)
            sum(sums[term] / counts[term] for term in sums).backward()
            optimizer.step()

    def probabilities():
        with torch.no_grad():
            return batch.sum_per_sequence(policy.token_logps(batch)).view(-1, 2).mean(0)

    train(SFT(), gold, 30)
    before, start = probabilities(), deepcopy(policy.model.state_dict())
    train(SFT(), gold, 10)
    more = probabilities()
    policy.model.load_state_dict(start)
    train(ASFT(), batch, 10)
    after = probabilities()
    assert after[0] > before[0]
    assert after[1] < before[1] - 1
    assert after[1] < more[1]
