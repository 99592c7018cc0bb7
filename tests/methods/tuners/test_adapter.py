"""Bottleneck adapters: where they stand, what they compute, that they begin as the base, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

import holdfast
from holdfast.errors import UserError
from holdfast.methods.tuners.adapter import Adapter
from holdfast.models import loading, saving
from holdfast.models.bottleneck import Bottleneck
from holdfast.testing.examples import tiny_model

IDS = torch.arange(3, 30)[None]


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def set_up_maps(model, value=None):
    """Up maps of all bottlenecks drawn anew, or all the same."""
    generator = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, Bottleneck):
            for p in module.up.parameters():
                p.data.normal_(0, 0.3, generator=generator) if value is None else p.data.fill_(value)
    return model


@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer", "parallel"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_with_up_maps_of_zero_it_is_the_base_bit_for_bit(tiny, placement, kind):
    base = logits(tiny(kind)[0])
    model = Adapter(placement=placement, size=8).apply(tiny(kind)[0], 0).eval()
    assert torch.equal(logits(set_up_maps(model, 0.0)), base)
    assert not torch.allclose(logits(set_up_maps(model)), base, atol=1e-2)
    with Adapter().base_context(model):
        assert torch.equal(logits(model), base)


def test_the_layer_computes_what_the_papers_say(tiny):
    """One Llama layer written out, with the bottleneck in each of the three places."""
    for placement in ("houlsby", "pfeiffer", "parallel"):
        model = set_up_maps(Adapter(placement=placement, size=8).apply(tiny("llama")[0], 0).eval())
        layer = model.model.layers[0]
        x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(2))
        positions = model.model.rotary_emb(x, torch.arange(5)[None])
        own = {name: module for name, module in layer.named_modules() if isinstance(module, Bottleneck)}

        def bend(name, h, f, own=own):
            maps = own[name]
            inner = f(h @ maps.down.weight.T + maps.down.bias)
            return inner @ maps.up.weight.T + maps.up.bias

        for one in own.values():
            one.is_on = False
        with torch.no_grad():
            wanted = layer.self_attn(
                hidden_states=layer.input_layernorm(x), position_embeddings=positions, attention_mask=None
            )[0]
            if placement == "houlsby":
                wanted = wanted + bend("self_attn.o_proj.bottleneck", wanted, F.gelu)
            wanted = x + wanted
            read = layer.post_attention_layernorm(wanted)
            mlp = layer.mlp(read)
            if placement == "houlsby":
                mlp = mlp + bend("mlp.down_proj.bottleneck", mlp, F.gelu)
            if placement == "parallel":
                mlp = mlp + 4 * bend("mlp.bottleneck", read, F.relu)
            wanted = wanted + mlp
            if placement == "pfeiffer":
                wanted = wanted + bend("bottleneck", wanted, F.relu)
            for one in own.values():
                one.is_on = True
            torch.testing.assert_close(layer(x, position_embeddings=positions, attention_mask=None), wanted)


OF_THE_LIBRARY = {
    "houlsby": [-0.19818, 0.4059, 0.61358, 0.22204, -0.38634, -0.61743, -0.24554, 0.36614, 0.62025, 0.26863, -0.34534],
    "pfeiffer": [0.58674, 0.40959, -0.16756, -0.58108, -0.42711, 0.14397, 0.57445, 0.44393, -0.12013, -0.56687, -0.46],
}
"""Last logits by adapters 1.3.0 on transformers 4.57.6: DoubleSeqBnConfig and SeqBnConfig of reduction factor 4."""


@pytest.mark.parametrize("placement", OF_THE_LIBRARY)
def test_it_computes_what_the_library_adapters_does(placement):
    """With the same weights, filled in by a formula, in a Llama of two layers with grouped heads."""
    sizes = {"hidden_size": 8, "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1}
    model = tiny_model("llama", vocab_size=11, tie_word_embeddings=False, **sizes)
    fills = {
        name: (number, 1.0 * ("norm" in name)) for number, (name, _) in enumerate(sorted(model.named_parameters()))
    }
    activation = "swish" if placement == "houlsby" else None
    model = Adapter(placement=placement, size=2, activation=activation).apply(model, 0).eval()
    places = {"houlsby": ("self_attn.o_proj.", "mlp.down_proj."), "pfeiffer": (None, "")}[placement]
    for layer in range(2):
        for part, place in enumerate(places):
            for end, name in enumerate(("down.weight", "down.bias", "up.weight", "up.bias")):
                fills[f"model.layers.{layer}.{place}bottleneck.{name}"] = (100 + 10 * (2 * layer + part) + end, 0.0)
    with torch.no_grad():
        for name, p in model.named_parameters():
            phase, shift = fills[name]
            p.copy_((0.4 * torch.sin(1.7 * torch.arange(p.numel()).double() + phase) + shift).reshape(p.shape))
        last = model(input_ids=torch.arange(6)[None]).logits[0, -1]
    torch.testing.assert_close(last, torch.tensor(OF_THE_LIBRARY[placement]), rtol=0, atol=2e-5)


def test_the_formula_counts_two_matrices_and_two_biases(tiny):
    model = tiny("llama")[0]
    assert Adapter(size=8).count_trainable(model) == 2 * 2 * (2 * 8 * 32 + 8 + 32)
    assert Adapter(size=8, placement="pfeiffer").count_trainable(model) == 2 * (2 * 8 * 32 + 8 + 32)
    assert "no bottleneck in a model of hidden size 32" in Adapter(size=32).list_warnings(model)[0]
    assert not Adapter(size=31).list_warnings(model)


def test_a_linear_one_behind_a_linear_map_multiplies_it_from_the_left():
    bottleneck = Bottleneck(6, 2, "relu", 1.0, parallel=False).double()
    bottleneck.down.bias.data.fill_(100.0)  # so that relu lets everything through
    bottleneck.up.bias.data.copy_(-(bottleneck.up.weight @ bottleneck.down.bias))
    w, x = torch.randn(6, 6, dtype=torch.float64), torch.randn(3, 6, dtype=torch.float64)
    whole = (torch.eye(6) + bottleneck.up.weight @ bottleneck.down.weight) @ w
    torch.testing.assert_close(bottleneck(x @ w.T, x), x @ whole.T)


def test_saved_without_pickles_it_is_loaded_by_name_and_refused_on_another_base(tiny_dir, tmp_path: Path):
    base = loading.load_model(tiny_dir("llama"))
    tuner = Adapter(size=8, placement="pfeiffer")
    model = set_up_maps(tuner.apply(base.model, 0).eval())
    saving.save_model(model, base.tokenizer, tmp_path / "out", tuner=tuner, base=base.fingerprint)
    assert not [*tmp_path.rglob("*.bin"), *tmp_path.rglob("*.pt")]
    assert json.loads((tmp_path / "out/tuner.json").read_text())["tuner"]["placement"] == "pfeiffer"
    loaded = holdfast.load(tmp_path / "out")
    assert torch.equal(logits(loaded.model), logits(model))
    file = tmp_path / "out/bottlenecks.safetensors"
    save_file({name.replace("layers.1", "layers.7"): t for name, t in load_file(file).items()}, file)
    with pytest.raises(UserError, match=r"bottlenecks\.safetensors: does not belong to this base: .*layers\.1"):
        holdfast.load(tmp_path / "out")
    (tmp_path / "out/base_fingerprint.txt").write_text("another\n")
    with pytest.raises(UserError, match="this adapter was trained on other weights"):
        holdfast.load(tmp_path / "out")
