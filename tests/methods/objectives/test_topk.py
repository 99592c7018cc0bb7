"""Kept distributions: what the coarser view of the top tokens says of the whole one."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.errors import UserError
from holdfast.methods.objectives.terms.top_k import (
    check_store_size,
    compute_base_distributions,
    keep_likeliest_tokens,
    top_k_divergence,
)
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.policy import Policy
from holdfast.models.stored_values import PrecomputedStore


@pytest.fixture
def two() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of a kept distribution and of a model, [7, 50] each, float64."""
    random = torch.Generator().manual_seed(0)
    first = 2 * torch.randn(7, 50, dtype=torch.float64, generator=random)
    return first, first + torch.randn(7, 50, dtype=torch.float64, generator=random)


def whole(first: torch.Tensor, second: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """KL(first || second) by torch."""
    p, q = ((x / temperature).log_softmax(-1) for x in (first, second))
    return F.kl_div(q, p, reduction="none", log_target=True).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("reverse", [False, True])
def test_the_whole_vocabulary_gives_the_whole_divergence(two, temperature, reverse):
    first, second = two
    wanted = whole(second, first, temperature) if reverse else whole(first, second, temperature)
    # 49 tokens and a bucket with the last one are the whole as well.
    for top in (0, 49, 50, 1000):
        got = top_k_divergence(
            keep_likeliest_tokens(first, top, temperature), second, top, temperature, reverse=reverse
        )
        torch.testing.assert_close(got, wanted)
    got = top_k_divergence(
        keep_likeliest_tokens(first, 50, temperature), second, 50, temperature, tail=False, reverse=reverse
    )
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_bucket_never_exceeds_the_whole_and_grows_with_the_tokens_kept(two, reverse):
    first, second = two
    coarse = [
        top_k_divergence(keep_likeliest_tokens(first, k), second, k, reverse=reverse) for k in (1, 2, 5, 20, 48, 0)
    ]
    for less, more in pairwise(coarse):
        assert (less <= more + 1e-12).all()
    assert (coarse[0] >= 0).all()
    assert (coarse[0] < 0.9 * coarse[-1]).any()


def test_the_kept_tokens_are_the_likeliest_of_the_kept_distribution(two):
    first, _ = two
    kept = keep_likeliest_tokens(first, 3)
    assert kept.shape == (7, 7)
    logps, rest, ids = kept[:, :3], kept[:, 3], kept[:, 4:].long()
    torch.testing.assert_close(first.log_softmax(-1).gather(-1, ids), logps)
    assert (logps[:, 2] >= first.log_softmax(-1).scatter(-1, ids, -math.inf).max(-1).values).all()
    torch.testing.assert_close(logps.exp().sum(-1) + rest.exp(), torch.ones(7, dtype=torch.float64))


def test_ids_of_a_large_vocabulary_survive_fp32():
    logits = torch.zeros(1, 262_144)
    logits[0, [262_143, 131_071, 77]] = torch.tensor([9.0, 8.0, 7.0])
    assert keep_likeliest_tokens(logits, 3)[0, 4:].tolist() == [262_143, 131_071, 77]


def test_without_tail_both_are_renormalised(two):
    first, second = two
    ids = first.topk(4, -1).indices
    wanted = whole(first.gather(-1, ids), second.gather(-1, ids))
    torch.testing.assert_close(top_k_divergence(keep_likeliest_tokens(first, 4), second, 4, tail=False), wanted)


def test_hot_distributions_differ_by_the_variance_of_their_logits(two):
    """T^2 KL goes to half the variance over the vocabulary of the differences of logits."""
    first, second = two
    got = 1e6 * top_k_divergence(keep_likeliest_tokens(first, 0, 1e3), second, 0, 1e3)
    torch.testing.assert_close(got, (first - second).var(-1, correction=0) / 2, rtol=5e-3, atol=0)


def test_gradients_are_right_and_zero_at_the_kept_distribution(two):
    first, second = two
    for settings in ({}, {"tail": False}, {"reverse": True}, {"temperature": 2.0}):
        kept = keep_likeliest_tokens(first, 5, settings.get("temperature", 1.0))
        second = second.detach().requires_grad_()
        assert torch.autograd.gradcheck(lambda x, kept=kept, s=settings: top_k_divergence(kept, x, 5, **s), second)
        same = first.clone().requires_grad_()
        value = top_k_divergence(kept, same, 5, **settings)
        (grad,) = torch.autograd.grad(value.sum(), same)
        torch.testing.assert_close(value.detach(), torch.zeros(7, dtype=torch.float64))
        torch.testing.assert_close(grad, torch.zeros_like(grad))


def test_a_rest_next_to_nothing_is_neither_lost_nor_a_danger():
    """In fp32 one minus the sum of the top would be rounding; the rest of 48 tokens at e^-40 is known to six digits."""
    logits = torch.full((1, 50), -40.0)
    logits[0, :2] = torch.tensor([1.0, 0.0])
    kept = keep_likeliest_tokens(logits, 2)
    exact = logits.double().log_softmax(-1)[0, 2:].logsumexp(-1)
    assert math.isclose(kept[0, 2].item(), exact.item(), rel_tol=1e-6)
    moved = logits.clone()
    moved[0, 2:] = -30.0
    moved.requires_grad_()
    (grad,) = torch.autograd.grad(top_k_divergence(kept, moved, 2).sum(), moved)
    assert grad.isfinite().all()
    assert grad.abs().max() < 1e-6


def test_what_is_kept_of_a_batch_is_found_in_any_other(tiny, make_rows):
    policy, rows = Policy(tiny("llama")[0]), make_rows()
    padded, packed = collate_sequences(rows, "padded", 0), collate_sequences(rows[::-1], "packed", 0)
    kept = PrecomputedStore()
    with torch.no_grad():
        kept.rows["x"].set_values(padded, compute_base_distributions(policy, padded, 5))
        again = compute_base_distributions(policy, packed, 5)
    torch.testing.assert_close(kept.rows["x"].get_values(packed)[:, :6], again[:, :6], atol=1e-4, rtol=1e-4)


def test_an_adapter_is_off(tiny, make_rows):
    model, _ = tiny("llama")
    batch = collate_sequences(make_rows(), "padded", 0)
    with torch.no_grad():
        plain = compute_base_distributions(Policy(model), batch, 0)
        tuner = LoRA(init="orthogonal")
        adapted = tuner.apply(model, 0)
        for name, p in adapted.named_parameters():
            if "lora_B" in name:
                p.normal_()
        policy = Policy(adapted, base=partial(tuner.base_context, adapted))
        assert torch.equal(compute_base_distributions(policy, batch, 0), plain)
        policy.base = None
        assert torch.dist(compute_base_distributions(policy, batch, 0), plain) > 1


def test_a_store_that_cannot_fit_is_refused(tiny, make_rows, monkeypatch):
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(make_rows(), "padded", 0)
    check_store_size(policy, lambda: [batch], 0, 0)
    monkeypatch.setattr("holdfast.methods.objectives.terms.top_k.MOST_GIB", 1e-5)
    for top in (0, 100):
        with pytest.raises(UserError, match=r"GiB; set objective.top to \d+ or less") as caught:
            check_store_size(policy, lambda: [batch], top, 0)
        fits = int(str(caught.value).split()[-3])
        check_store_size(policy, lambda fits=fits: [batch], fits, 0)
    check_store_size(policy, lambda: [batch], 100, 1)  # nothing of that role
