"""SFT: golden values, the reductions, and transformers' own loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.sft import SFT, label_weights
from holdfast.models.policy import Policy


def test_golden_values(golden, golden_logps, golden_batch):
    pieces, batch = golden_logps(), golden_batch()
    np.testing.assert_allclose([p.sum().item() for p in pieces], golden["s_w"], atol=1e-7)
    logps = torch.cat(pieces)
    assert math.isclose(
        -(logps * label_weights(batch, "token")).sum().item() / 14, golden["sft_token_mean(w)"], abs_tol=1e-7
    )
    assert math.isclose(
        -(logps * label_weights(batch, "sequence")).sum().item() / 3, golden["sft_seq_mean(w)"], abs_tol=1e-7
    )


def test_equals_the_loss_of_transformers(tiny, make_rows):
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(), "padded", 0)
    labels = torch.full_like(batch.input_ids, -100)
    labels.view(-1)[batch.label_positions + 1] = batch.labels
    wanted = model(input_ids=batch.input_ids, labels=labels).loss
    got = SFT().losses(Policy(model), batch).sums["nll"] / batch.weight
    torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("reduction", ["token", "sequence"])
def test_a_row_of_weight_two_counts_twice_and_of_weight_zero_never(tiny, make_rows, reduction):
    policy = Policy(tiny("llama")[0])
    objective = SFT(reduction=reduction)
    rows = make_rows(3)

    def total(*chosen):
        batch = collate_sequences(list(chosen), "padded", 0)
        return objective.losses(policy, batch).sums["nll"].item(), batch.weight

    one, two, three = (total(row) for row in rows)
    rows[0].weight, rows[1].weight = 2.0, 0.0
    loss, tokens = total(*rows)
    assert math.isclose(loss, 2 * one[0] + three[0], rel_tol=1e-6)
    assert tokens == 2 * one[1] + three[1]
    assert two[0] > 0
