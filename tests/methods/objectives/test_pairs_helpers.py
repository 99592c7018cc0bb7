"""Sums by row and role, and log(1 - e^x) where it is hard."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.methods.objectives.terms.pairs import answer_logps_and_lengths, log1m_exp, reshape_by_row, row_weights
from holdfast.models.policy import Policy


def test_log1mexp_is_accurate_at_both_ends():
    x = torch.tensor([-1e-12, -1e-6, -0.1, -math.log(2), -1.0, -30.0], dtype=torch.float64, requires_grad=True)
    wanted = torch.tensor(
        [math.log(-math.expm1(v)) if v > -1 else math.log1p(-math.exp(v)) for v in x.tolist()], dtype=torch.float64
    )
    torch.testing.assert_close(log1m_exp(x), wanted, rtol=1e-12, atol=0)
    log1m_exp(x).sum().backward()
    torch.testing.assert_close(x.grad, -torch.exp(x - wanted).detach(), rtol=1e-9, atol=0)


def test_log1mexp_of_nought_is_finite_in_fp32():
    x = torch.zeros(3, requires_grad=True)
    log1m_exp(x).sum().backward()
    assert torch.isfinite(log1m_exp(x)).all()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_sums_stand_by_row_and_role(tiny, rows_of, layout):
    rows = rows_of(DPO(), 4)
    batch = collate_sequences(rows, layout, 0)
    policy = Policy(tiny("llama")[0])
    s, n = answer_logps_and_lengths(policy, batch)
    assert s.shape == n.shape == (4, 2)
    assert n.tolist() == [[e.label_mask.sum() for e in rows if e.row == r] for r in range(4)]
    alone = collate_sequences([rows[5]], layout, 0)
    torch.testing.assert_close(s[2, 1], policy.token_logps(alone).sum())
    torch.testing.assert_close(row_weights(batch), torch.tensor([e.weight for e in rows[::2]]))
    assert reshape_by_row(batch.rows, batch).tolist() == [[r, r] for r in range(4)]
