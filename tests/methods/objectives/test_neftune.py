"""NEFTune: the noise, where it is and where it is not."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.neftune import NEFTune, sample_embedding_noise
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.policy import Policy


def per_sequence(values: torch.Tensor, batch, rows) -> list[torch.Tensor]:
    """[B, L, D] cut into the real tokens of each row, and what is left over (padding)."""
    if len(values) == 1:
        return list(values[0].split([len(r.ids) for r in rows]))
    return [line[: len(r.ids)] for line, r in zip(values, rows, strict=True)]


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_bound_and_norm_follow_each_sequences_own_length(make_rows, layout):
    rows = make_rows(6)
    batch = collate_sequences(rows, layout, 0)
    embeds = torch.zeros(*batch.input_ids.shape, 64)
    torch.manual_seed(0)
    draws = [sample_embedding_noise(batch, embeds, 5.0) for _ in range(20)]
    for draw in draws:
        for piece in per_sequence(draw, batch, rows):
            bound = 5.0 / math.sqrt(piece.numel())
            assert piece.abs().max() <= bound
            assert piece.abs().max() > 0.9 * bound
    norms = torch.stack([torch.stack([p.norm() for p in per_sequence(d, batch, rows)]) for d in draws])
    torch.testing.assert_close(norms.mean(0), torch.full((6,), 5 / math.sqrt(3)), rtol=0.03, atol=0)


def test_padding_gets_none(make_rows):
    rows = make_rows(6)
    batch = collate_sequences(rows, "padded", 0)
    draw = sample_embedding_noise(batch, torch.zeros(*batch.input_ids.shape, 8), 5.0)
    assert sum(int((line[len(r.ids) :] != 0).sum()) for line, r in zip(draw, rows, strict=True)) == 0
    assert int((draw != 0).sum()) == 8 * sum(len(r.ids) for r in rows)


def losses(policy, batch, alpha=5.0, objective=None):
    torch.manual_seed(3)
    return (objective or NEFTune(alpha=alpha)).losses(policy, batch).sums["nll"]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
def test_only_in_training_and_not_for_alpha_zero(tiny, make_rows, kind):
    model, _ = tiny(kind)
    policy = Policy(model)
    batch = collate_sequences(make_rows(), "padded", 0)
    plain = losses(policy, batch, objective=SFT())
    assert torch.equal(losses(policy, batch), plain)
    model.train()
    assert torch.equal(losses(policy, batch, 0.0), plain)
    noised = losses(policy, batch)
    assert not torch.isclose(noised, plain, rtol=1e-4)
    assert torch.equal(noised, losses(policy, batch))  # the same generator, the same noise
    torch.manual_seed(4)
    assert not torch.equal(noised, NEFTune().losses(policy, batch).sums["nll"])


def test_same_noise_padded_packed_and_in_smaller_batches(tiny, make_rows):
    model, _ = tiny("llama")
    policy = Policy(model.train())
    rows = make_rows()
    wanted = losses(policy, collate_sequences(rows, "padded", 0))
    torch.testing.assert_close(losses(policy, collate_sequences(rows, "packed", 0)), wanted, rtol=1e-6, atol=0)
    torch.manual_seed(3)
    singly = sum(NEFTune().losses(policy, collate_sequences([row], "padded", 0)).sums["nll"] for row in rows)
    torch.testing.assert_close(singly, wanted, rtol=1e-6, atol=0)


def test_embeddings_still_learn_and_a_tied_head_is_not_noised(tiny, make_rows):
    model, _ = tiny("gemma2")
    policy = Policy(model.train())
    batch = collate_sequences(make_rows(), "padded", 0)
    before = model.get_input_embeddings().weight.clone()
    losses(policy, batch).backward()
    assert torch.equal(model.get_input_embeddings().weight, before)
    assert model.get_input_embeddings().weight.grad.abs().sum() > 0
