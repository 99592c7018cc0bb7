"""Half fine-tuning: the draw is the paper's, exact, seeded, and what is frozen stays frozen."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from holdfast.methods.tuners.full import Full
from holdfast.methods.tuners.half import Half
from holdfast.methods.tuners.matrix_units import trainable_share, units_by_category
from holdfast.training.distributed import find_layers


def moving(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_category_level_follows_the_papers_counts(tiny):
    model, _ = tiny("llama", num_hidden_layers=4, num_key_value_heads=4)
    Half().apply(model, seed=3)
    counts = Counter()
    for layer in find_layers(model):
        for name, units in units_by_category(layer).items():
            counts[name, sum(unit[0].requires_grad for unit in units), len(units)] += 1
    assert counts == {("attention", 2, 4): 4, ("norm", 1, 2): 4, ("mlp", 1, 3): 2, ("mlp", 2, 3): 2}


@pytest.mark.parametrize("seed", range(5))
def test_exactly_half_of_a_llama_with_full_attention(tiny, seed):
    model, _ = tiny("llama", num_hidden_layers=4, num_key_value_heads=4)
    Half().apply(model, seed)
    assert trainable_share(model) == 0.5


@pytest.mark.parametrize("seed", range(3))
def test_exactly_half_of_the_matrices_of_gpt2_whose_attention_is_fused(tiny, seed):
    model, _ = tiny("gpt2", n_layer=4)
    Half().apply(model, seed)
    matrices = [p for layer in find_layers(model) for p in layer.parameters() if p.ndim == 2]
    assert sum(p.numel() for p in matrices if p.requires_grad) * 2 == sum(p.numel() for p in matrices)


def test_biases_go_with_their_matrices(tiny):
    model, _ = tiny("qwen2")
    Half().apply(model, seed=0)
    for module in model.modules():
        own = dict(module.named_parameters(recurse=False))
        if {"weight", "bias"} <= own.keys():
            assert own["weight"].requires_grad == own["bias"].requires_grad


def test_embeddings_head_and_final_norm_move_unless_told_otherwise(tiny):
    names = {"model.embed_tokens.weight", "lm_head.weight", "model.norm.weight"}
    model, _ = tiny("llama")
    assert names <= moving(Half().apply(model, 0))
    assert not names & moving(Half(embeddings=False).apply(model, 0))


def test_share_one_is_full_and_share_zero_without_embeddings_is_nothing(tiny):
    model, _ = tiny("llama")
    everything = moving(Full().apply(model, 0))
    assert moving(Half(share=1).apply(model, 0)) == everything
    assert moving(Half(share=0, embeddings=False).apply(model, 0)) == set()


def test_a_draw_and_its_complement_make_the_whole(tiny):
    model, _ = tiny("llama", num_hidden_layers=4)
    blocks = {name for name, _ in model.named_parameters() if ".layers." in name}
    one = moving(Half(embeddings=False).apply(model, 7))
    other = moving(Half(embeddings=False, complement=True).apply(model, 7))
    assert one | other == blocks
    assert not one & other


def test_seed_and_round_each_change_the_draw_and_nothing_else_does(tiny):
    model, _ = tiny("llama", num_hidden_layers=8)
    first = moving(Half().apply(model, 1))
    assert first == moving(Half().apply(model, 1))
    assert first != moving(Half().apply(model, 2))
    assert first != moving(Half(round=1).apply(model, 1))


@pytest.mark.parametrize("level", ["layer", "model"])
def test_other_levels_move_half_of_the_matrices_they_draw_from(tiny, level):
    model, _ = tiny("llama", num_hidden_layers=4)
    Half(level=level).apply(model, 0)
    per_layer = [
        [u[0].requires_grad for us in units_by_category(layer).values() for u in us] for layer in find_layers(model)
    ]
    assert sum(map(sum, per_layer)) * 2 == sum(map(len, per_layer))
    if level == "layer":  # 9 units a layer: 4 or 5
        assert {sum(flags) for flags in per_layer} == {4, 5}


def test_grouped_heads_change_the_realised_share(tiny):
    model, _ = tiny("llama", num_hidden_layers=4, num_key_value_heads=1)
    shares = set()
    for seed in range(6):
        model.requires_grad_(True)
        shares.add(trainable_share(Half().apply(model, seed)))
    assert len(shares) > 1
    assert all(0.3 < s < 0.7 for s in shares)


def test_gradient_descent_on_half_is_the_masked_gradient(tiny):
    full, tokenizer = tiny("llama")
    half, _ = tiny("llama")
    Half().apply(half, 0)
    ids = torch.tensor([tokenizer.encode("the capital of France is Paris")])
    for model in (full, half):
        model(input_ids=ids, labels=ids).loss.backward()
    for (name, p), q in zip(full.named_parameters(), half.parameters(), strict=True):
        assert q.grad is None if not q.requires_grad else torch.equal(p.grad, q.grad), name
