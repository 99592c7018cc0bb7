"""The dial: both ends exact, linear between, adapters included."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from holdfast.errors import UserError
from holdfast.methods.inference.dial import Dial, find_layer_points
from holdfast.methods.tuners.lora import LoRA
from holdfast.models.merging import merged_copy


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_ends_are_exact_and_the_inputs_untouched(tiny, kind):
    base, tuned = tiny(kind, seed=0)[0], tiny(kind, seed=1)[0]
    assert same(Dial(point=0).weights(base, tuned), base)
    assert same(Dial(point=1).weights(base, tuned), tuned)
    assert same(base, tiny(kind, seed=0)[0])
    assert same(tuned, tiny(kind, seed=1)[0])


def test_the_ends_are_exact_in_bf16(tiny):
    base, tuned = tiny("llama", seed=0)[0].bfloat16(), tiny("llama", seed=1)[0].bfloat16()
    assert same(Dial(point=0).weights(base, tuned), base)
    assert same(Dial(point=1).weights(base, tuned), tuned)


@pytest.mark.parametrize("point", [0.25, 0.6])
def test_between_it_is_the_line(tiny, point):
    base, tuned = tiny("llama", seed=0)[0], tiny("llama", seed=1)[0]
    middle = dict(Dial(point=point).weights(base, tuned).named_parameters())
    goal = dict(tuned.named_parameters())
    for name, weight in base.named_parameters():
        expected = weight.double() + point * (goal[name].double() - weight.double())
        assert torch.allclose(middle[name].double(), expected, atol=1e-6), name


def test_a_tied_head_stays_tied(tiny):
    model = Dial(point=0.5).weights(tiny("gpt2", seed=0)[0], tiny("gpt2", seed=1)[0])
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_an_adapter_is_scaled(tiny):
    base, tuner = tiny("llama")[0], LoRA(r=2, alpha=4)
    tuned = tuner.apply(tiny("llama")[0], seed=0)
    layer = tuned.base_model.model.model.layers[1].self_attn.q_proj
    with torch.no_grad():
        layer.lora_B["default"].weight.normal_(generator=torch.Generator().manual_seed(0))
    update = 2.0 * layer.lora_B["default"].weight @ layer.lora_A["default"].weight
    kept = layer.lora_B["default"].weight.clone()
    plain = merged_copy(tuned, tuner)
    model = Dial(point=0.3).weights(base, plain)
    start = base.model.layers[1].self_attn.q_proj.weight
    assert torch.allclose(model.model.layers[1].self_attn.q_proj.weight, start + 0.3 * update, atol=1e-6)
    assert torch.equal(model.model.layers[0].mlp.up_proj.weight, base.model.layers[0].mlp.up_proj.weight)
    assert torch.equal(kept, layer.lora_B["default"].weight)  # the tuned model still has its adapter
    assert same(Dial(point=0).weights(base, plain), base)


def test_models_that_do_not_belong_together_are_refused(tiny):
    with pytest.raises(UserError, match=r"weight .* is not the same in base and tuned"):
        Dial().weights(tiny("llama")[0], tiny("gpt2")[0])
    with pytest.raises(UserError, match=r"weight .* is not the same in base and tuned"):
        Dial().weights(tiny("llama")[0], tiny("llama", intermediate_size=48)[0])


def test_layers_have_points_of_their_own(tiny):
    """(0, 1) from the first layer to the last, and what is in no layer at `point`; ends bit for bit."""
    base, tuned = tiny("llama", seed=0)[0], tiny("llama", seed=1)[0]
    at = dict(Dial(point=1.0, layers=(0.0, 1.0)).weights(base, tuned).named_parameters())
    start, goal = dict(base.named_parameters()), dict(tuned.named_parameters())
    for name, weight in at.items():
        assert torch.equal(weight, (start if ".layers.0." in name else goal)[name]), name
    assert find_layer_points(tuned, (0.2, 0.4, 0.6)) == {n: 0.6 if ".1." in n else 0.2 for n in at if ".layers." in n}
    half = Dial(point=0.0, layers=(0.5,)).weights(base, tuned)
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.allclose(dict(half.named_parameters())[name], (start[name] + goal[name]) / 2, atol=1e-6)
    assert torch.equal(half.model.embed_tokens.weight, base.model.embed_tokens.weight)
    with pytest.raises(ValidationError):
        Dial(layers=(0.0, 1.2))


def test_points_off_the_line_are_refused():
    with pytest.raises(ValidationError):
        Dial(point=1.5)
