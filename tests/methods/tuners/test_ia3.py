"""(IA)^3: ones are the base, the paper's targets in every family, and the formula of what is scaled."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UserError
from holdfast.methods.tuners.ia3 import IA3
from holdfast.recipe.loader import resolve_any

IDS = torch.arange(3, 30)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gemma2"])
def test_of_ones_it_is_the_base_and_scales_keys_values_and_inner_activations(tiny, kind):
    base = logits(tiny(kind)[0])
    model = IA3().apply(tiny(kind)[0], 0).eval()
    assert torch.equal(logits(model), base)
    moving = [name for name, p in model.named_parameters() if p.requires_grad and "layers.0." in name]
    names = {name.split("layers.0.")[1].split(".ia3")[0] for name in moving}
    assert names == {"self_attn.k_proj", "self_attn.v_proj", "mlp.down_proj"}
    assert IA3().count_trainable(tiny(kind)[0]) == 2 * (16 + 16 + 64)


def test_scaling_what_the_last_map_reads_scales_what_the_up_map_gives(tiny):
    """The authors scale the output of wi_1, the up map of a gated T5."""
    model, plain = IA3().apply(tiny("llama")[0], 0).eval(), tiny("llama")[0]
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, own in zip(plain.model.layers, model.get_base_model().model.layers, strict=True):
            for name, scaled in (
                ("self_attn.k_proj", "self_attn.k_proj"), ("self_attn.v_proj", "self_attn.v_proj"),
                ("mlp.up_proj", "mlp.down_proj"),
            ):  # fmt: skip
                vector = own.get_submodule(scaled).ia3_l["default"]
                vector.copy_(torch.rand(vector.shape, generator=generator) + 0.5)
                layer.get_submodule(name).weight.mul_(vector.reshape(-1, 1))
    torch.testing.assert_close(logits(model), logits(plain), atol=1e-4, rtol=1e-4)


def test_what_it_cannot_scale_apart_is_said(tiny):
    with pytest.raises(UserError, match=r"in one map; set tuner\.target_modules: \[attn\.c_attn\] to scale all three"):
        IA3().check(tiny("gpt2")[0])
    tuner = IA3(target_modules=("attn.c_attn",))
    tuner.check(tiny("gpt2")[0])
    model = tuner.apply(tiny("gpt2")[0], 0)
    moving = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert moving == tuner.count_trainable(tiny("gpt2")[0]) == 2 * (3 * 32 + 4 * 32)
    with pytest.raises(UserError, match=r"tuner\.feedforward_modules: nope not found in LlamaForCausalLM"):
        IA3(feedforward_modules=("nope",)).check(tiny("llama")[0])
    for knobs, said in (
        ({"target_modules": ("foo.k_proj",)}, r"tuner\.target_modules: foo\.k_proj not found"),
        ({"target_modules": ("input_layernorm",)}, "input_layernorm is a LlamaRMSNorm .* linear maps are wanted"),
        ({"feedforward_modules": ("mlp",)}, r"tuner\.feedforward_modules: mlp is a LlamaMLP"),
    ):
        with pytest.raises(UserError, match=said):
            IA3(**knobs).check(tiny("llama")[0])


def test_its_learning_rate_is_the_papers_unless_the_recipe_has_one():
    for changes, rate, said in (
        (["tuner=ia3"], 3e-3, "times 30 for ia3"), (["tuner=lora"], 1e-4, "an adapter's"),
        (["tuner=ia3", "optimizer.learning_rate=1e-5"], 1e-5, ""),
    ):  # fmt: skip
        resolved = resolve_any({"model": "some/model", "data": {"train": "rows.jsonl"}}, changes)
        assert resolved.recipe.optimizer.learning_rate == rate
        assert said in resolved.sources.get("optimizer.learning_rate", "")
