"""A base in 4 or 8 bits: read from the files, differentiable after any pass, and off again without a trace."""

from __future__ import annotations

import pytest
import torch

pytest.importorskip("bitsandbytes", reason="the extra quant")

from holdfast.axes.registry import find_method
from holdfast.errors import UserError
from holdfast.models.loading import eval_mode, load_model
from holdfast.models.quantized_base import (
    count_quantizable,
    count_weight_bytes,
    is_quantized,
    load_quantized_base,
    refuse_unquantizable,
    transfer_adapter,
)
from holdfast.training.distributed import Machine

CPU = torch.device("cpu")
IDS = torch.arange(2, 26).view(2, 12)


def adapt(model, seed=0, **knobs):
    """With an LoRA whose B is not zero, placed as a run would."""
    tuner = find_method("tuners", "lora")(r=2, target_modules="all-linear", **knobs)
    model = tuner.apply(model, seed)
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if "lora_B" in name:
            p.data = torch.randn(p.shape, generator=generator) * 0.05
    return Machine("fp32", CPU).place_model(model, False, tuner.adapter_parameters(model))


def gradients(model):
    loss = model(input_ids=IDS, labels=IDS).loss
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize(("kind", "bits"), [("llama", 4), ("llama", 8), ("gpt2", 4), ("gpt2", 8)])
def test_the_gradient_is_that_of_the_weights_it_stands_for(tiny_dir, kind, bits):
    path = tiny_dir(kind)
    model = load_quantized_base(path, bits, torch.float32, CPU)
    assert is_quantized(model)
    plain = load_quantized_base(path, bits, torch.float32, CPU).dequantize()
    plain = plain.float()
    quantized, dequantized = adapt(model), adapt(plain)
    with eval_mode(quantized):  # as whoever looks at the model before it trains
        quantized(input_ids=IDS)
    ours, own = gradients(quantized.train()), gradients(dequantized.train())
    assert ours.keys() == own.keys()
    allowed = 1e-3 if bits == 4 else 0.1  # in 8 bits what goes into a linear map is rounded too
    for name, gradient in own.items():
        assert torch.dist(ours[name], gradient) <= allowed * gradient.norm() + 1e-7, name


def test_the_adapter_comes_off_for_the_base_as_it_is(tiny_dir):
    path, tuner = tiny_dir("llama"), find_method("tuners", "qlora")(r=2, modules_to_save=("lm_head",))
    trained = tuner.apply(load_quantized_base(path, 4, torch.float32, CPU), 3)
    for name, p in trained.named_parameters():
        if p.requires_grad:
            p.data = p.data + 0.01 * len(name)
    plain = load_model(path, device="cpu").model
    before = {name: p.clone() for name, p in plain.named_parameters()}
    out = transfer_adapter(trained, plain, tuner)
    own = dict(trained.named_parameters())
    assert not is_quantized(out)
    for name, p in out.named_parameters():
        if p.requires_grad:
            assert torch.equal(p, own[name])
    with out.disable_adapter():
        for name, p in before.items():
            stem, _, leaf = f"base_model.model.{name}".rpartition(".")
            paths = (f"{stem}.{leaf}", f"{stem}.base_layer.{leaf}", f"{stem}.original_module.{leaf}")
            now = next(value for key, value in out.named_parameters(remove_duplicate=False) if key in paths)
            assert torch.equal(now, p), name


def test_it_is_smaller_and_says_what_it_cannot(tiny_dir):
    path = tiny_dir("llama", hidden_size=64, intermediate_size=256)
    plain = load_model(path, device="cpu").model
    share = count_quantizable(plain) / plain.num_parameters()
    assert 0.3 < share < 1
    for bits in (4, 8):
        held = count_weight_bytes(load_quantized_base(path, bits, torch.float32, CPU))
        assert held == pytest.approx(count_weight_bytes(plain) * (1 - share + share * bits / 32), rel=0.02)
        refuse_unquantizable(plain, bits)
    bare = torch.nn.Module()
    bare.register_parameter("weight", torch.nn.Parameter(torch.ones(2)))
    bare.device, bare.get_output_embeddings = CPU, lambda: None
    with pytest.raises(UserError, match="has no linear maps that bitsandbytes quantizes"):
        refuse_unquantizable(bare, 4)
