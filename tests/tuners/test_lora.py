"""LoRA: starts as the base, seeded, comes off without a trace, merges, and names what it cannot find."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UserError
from holdfast.tuners.lora import LoRA


def logits(model, tokenizer):
    ids = torch.tensor([tokenizer.encode("What is the capital of France?")])
    with torch.no_grad():
        return model(input_ids=ids).logits


def disturb(model):
    """Give every B something to say."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_B" in name:
                p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2", "gemma2"])
def test_it_starts_as_exactly_the_base(tiny, kind):
    model, tokenizer = tiny(kind)
    before = logits(model, tokenizer)
    tuned = LoRA().apply(model, seed=0).eval()
    assert torch.equal(before, logits(tuned, tokenizer))


def test_only_a_and_b_train_and_the_head_is_left_alone(tiny):
    model, _ = tiny("llama")
    tuned = LoRA(r=4).apply(model, seed=0)
    names = [name for name, p in tuned.named_parameters() if p.requires_grad]
    assert len(names) == 2 * 2 * 7
    assert all("lora_" in n and "lm_head" not in n for n in names)


def test_the_seed_alone_decides_the_start_and_the_global_generator_is_left_alone(tiny):
    state = torch.get_rng_state()
    starts = []
    for seed in (0, 0, 1):
        tuned = LoRA().apply(tiny("llama")[0], seed)
        starts.append(torch.cat([p.flatten() for n, p in tuned.named_parameters() if "lora_A" in n]))
    assert torch.equal(starts[0], starts[1])
    assert not torch.equal(starts[0], starts[2])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("knobs", [{}, {"rslora": True}, {"dora": True}, {"init": "orthogonal"}, {"alpha": 32.0}])
def test_switched_off_is_the_base_and_merged_is_the_tuned(tiny, knobs):
    model, tokenizer = tiny("llama")
    before = logits(model, tokenizer)
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    tuner = LoRA(r=4, **knobs)
    tuned = tuner.apply(model, seed=0).eval()
    disturb(tuned)
    moved = logits(tuned, tokenizer)
    assert not torch.allclose(moved, before, atol=1e-3)
    with tuner.base(tuned):
        assert torch.equal(logits(tuned, tokenizer), before)
    assert torch.equal(logits(tuned, tokenizer), moved)
    inside = {n.replace(".base_layer", "").removeprefix("base_model.model."): t for n, t in tuned.state_dict().items()}
    assert all(torch.equal(weights[name], inside[name]) for name in weights)
    assert torch.allclose(logits(tuner.merge(tuned), tokenizer), moved, atol=1e-4)


def test_the_update_is_alpha_over_r_times_b_a(tiny):
    model, _ = tiny("llama")
    weight = model.model.layers[0].mlp.up_proj.weight.detach().clone()
    tuner = LoRA(r=4, alpha=12)
    tuned = tuner.apply(model, seed=0)
    disturb(tuned)
    layer = tuned.base_model.model.model.layers[0].mlp.up_proj
    update = 3.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    merged = tuner.merge(tuned).model.layers[0].mlp.up_proj.weight
    assert torch.allclose(merged, weight + update, atol=1e-6)


def test_unknown_modules_are_named(tiny):
    with pytest.raises(UserError, match=r"tuner\.target_modules: q_porj not found in LlamaForCausalLM"):
        LoRA(target_modules=("q_porj", "v_proj")).apply(tiny("llama")[0], 0)
