"""IFT: golden values of the authors' algorithm and of Eq. 21, its limits, and what its two passes read."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.ift import (
    IFT,
    discounted_sum_losses,
    discounted_sums,
    mixed_embeddings,
    scatter_by_position,
    weighted_mean_losses,
)
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.policy import Policy


@pytest.fixture
def table(golden_logps, golden_batch):
    """Errors and mask [3, 6] of the golden sequences."""
    return scatter_by_position(-torch.cat(golden_logps()), golden_batch())


def test_golden_values(golden, table):
    table, mask = table
    assert table.shape == (3, 6)
    got = weighted_mean_losses(table, mask, 0.95)
    np.testing.assert_allclose(got, golden["ift code (g=.95,L1,left) per-seq"], atol=1e-7)
    assert math.isclose(got.mean(), golden["ift code mean"], abs_tol=1e-7)
    np.testing.assert_allclose(
        discounted_sum_losses(table, mask, 1.0), golden["ift paper eq21 (undiscounted) per-seq"], atol=1e-6
    )
    np.testing.assert_allclose(
        discounted_sum_losses(table, mask, 0.95), golden["ift paper eq21 g=.95 per-seq"], atol=1e-6
    )


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.95, 1.0])
@pytest.mark.parametrize("width", [1, 2, 7, 8, 33])
def test_doubling_steps_equal_the_plain_recursion(decay, width):
    errors = torch.rand(3, width, dtype=torch.float64)
    wanted = errors.clone()
    for t in range(width - 2, -1, -1):
        wanted[:, t] += decay * wanted[:, t + 1]
    torch.testing.assert_close(discounted_sums(errors, decay), wanted)


def test_limits_and_identities(table):
    table, mask = table
    lengths = mask.sum(1)
    torch.testing.assert_close(weighted_mean_losses(table, mask, 0.0), table.sum(1) / lengths)
    torch.testing.assert_close(weighted_mean_losses(table, mask, 1e-12), table.square().sum(1) / table.sum(1))
    counts = torch.arange(1, 7, dtype=torch.float64)
    torch.testing.assert_close(discounted_sum_losses(table, mask, 1.0), (table * counts).sum(1))
    for decay in (0.0, 0.5, 0.95, 1.0):
        torch.testing.assert_close(
            weighted_mean_losses(2.5 * mask, mask, decay), torch.full((3,), 2.5, dtype=torch.float64)
        )
    assert torch.equal(weighted_mean_losses(0 * table, mask, 0.95), torch.zeros(3, dtype=torch.float64))


def test_the_gradient_flows_through_the_weights(table):
    table, mask = table
    table.requires_grad_()
    (whole,) = torch.autograd.grad(weighted_mean_losses(table, mask, 0.95).sum(), table)
    carried = (discounted_sums(table, 0.95) * mask).detach()
    (detached,) = torch.autograd.grad(((table * carried).sum(1) / carried.sum(1)).sum(), table)
    share = torch.dist(whole, detached) / whole.norm()
    assert 0.02 < share < 0.5
    assert torch.autograd.gradcheck(
        lambda e: weighted_mean_losses(e, mask, 0.95), table.detach().clamp_min(0.1).requires_grad_()
    )


def test_gaps_between_answers_decay_too(make_rows):
    batch = collate_sequences(make_rows(3), "packed", 0)
    values = torch.rand(len(batch.labels))
    table, mask = scatter_by_position(values, batch)
    last = batch.label_positions[batch.sequence == 2]
    assert (last.diff() > 1).any()  # the last row has several answers
    distance = last - last[0]
    wanted = (0.9**distance * values[batch.sequence == 2]).sum()
    torch.testing.assert_close(discounted_sums(table, 0.9)[2, 0], wanted)
    torch.testing.assert_close(table.sum(1), batch.sum_per_sequence(values))
    assert mask.sum() == len(values)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_inputs_are_mixed_with_the_greedy_guesses(tiny, make_rows, layout):
    model, _ = tiny("llama")
    policy = Policy(model)
    rows = make_rows()
    batch = collate_sequences(rows, layout, 0)
    guesses = policy.greedy_tokens(batch, batch.label_positions)
    fused = batch.input_ids.clone()
    fused.view(-1)[batch.label_positions + 1] = guesses
    assert torch.equal(mixed_embeddings(policy, batch, 1.0), policy.embed_tokens(fused))
    assert torch.equal(mixed_embeddings(policy, batch, 0.0), policy.embed_tokens(batch.input_ids))
    gold, guess = policy.embed_tokens(batch.input_ids), policy.embed_tokens(fused)
    torch.testing.assert_close(mixed_embeddings(policy, batch, 0.2), 0.8 * gold + 0.2 * guess)
    assert not mixed_embeddings(policy, batch, 0.2).requires_grad


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_without_mixing_and_decay_it_is_sft_except_for_the_input_embeddings(tiny, make_rows, kind):
    model, _ = tiny(kind, tie_word_embeddings=False)
    policy = Policy(model)
    batch = collate_sequences(make_rows(), "padded", 0)
    one = SFT(reduction="sequence").losses(policy, batch).sums["nll"]
    one.backward()
    wanted = {n: p.grad.clone() for n, p in model.named_parameters()}
    model.zero_grad()
    two = IFT(form="authors", mix=0, decay=0).losses(policy, batch).sums["nll"]
    torch.testing.assert_close(two, one, rtol=1e-6, atol=0)
    two.backward()
    for name, p in model.named_parameters():
        if p is model.get_input_embeddings().weight:
            assert p.grad is None
        else:
            torch.testing.assert_close(p.grad, wanted[name], rtol=1e-4, atol=1e-5)


def test_a_tied_embedding_learns_as_output_only(tiny, make_rows):
    model, _ = tiny("gemma2")
    batch = collate_sequences(make_rows(), "padded", 0)
    policy = Policy(model)
    embeds = policy.embed_tokens(batch.input_ids).detach()
    (-policy.token_logps(batch, embeds)).sum().backward()
    wanted = model.get_input_embeddings().weight.grad.clone()
    model.zero_grad()
    errors = -policy.token_logps(batch, mixed_embeddings(policy, batch, 0.0))
    errors.sum().backward()
    assert torch.equal(model.get_input_embeddings().weight.grad, wanted)


@pytest.mark.parametrize("form", ["authors", "eq21"])
def test_order_of_the_rows_does_not_matter(tiny, make_rows, form):
    policy = Policy(tiny("qwen2")[0])
    rows = make_rows()
    objective = IFT(form=form)
    one = objective.losses(policy, collate_sequences(rows, "padded", 0)).sums["nll"]
    two = objective.losses(policy, collate_sequences(rows[::-1], "packed", 0)).sums["nll"]
    torch.testing.assert_close(one, two, rtol=1e-6, atol=0)


def test_forms_and_knobs_differ(tiny, make_rows):
    policy = Policy(tiny("llama")[0])
    batch = collate_sequences(make_rows(), "padded", 0)
    settings = [IFT(), IFT(mix=0.5), IFT(decay=0.5), IFT(form="authors"), IFT(form="authors", mix=0, decay=0)]
    assert len({round(o.losses(policy, batch).sums["nll"].item(), 3) for o in settings}) == len(settings)


def test_bf16_autocast_reaches_every_weight(tiny, make_rows):
    """The pass without gradient comes first: its casts must not stand in for those of the pass with."""
    model, _ = tiny("llama")
    policy = Policy(model, autocast=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):  # as a trainer might wrap it once more
        total = IFT().losses(policy, collate_sequences(make_rows(), "padded", 0)).sums["nll"]
    total.backward()
    missing = [n for n, p in model.named_parameters() if p.grad is None]
    assert missing == ["model.embed_tokens.weight"]
