"""What a training takes, by what it goes to: counted exactly where it can be, and tried where it cannot."""

from __future__ import annotations

import gc
import weakref

import material
import pytest
import torch

from holdfast.axes.registry import find_method
from holdfast.models.compiled_layers import CompiledLayers
from holdfast.models.policy import Policy
from holdfast.models.quantized_base import count_quantizable
from holdfast.training.compute_plan import describe_compiling, describe_micro_batch, describe_precision
from holdfast.training.memory import describe_memory_shortage
from holdfast.training.memory_estimate import (
    HeldWeights,
    MemoryEstimate,
    activation_bytes,
    count_gradient_bytes,
    count_head_bytes,
    format_size,
    measure_saved_bytes,
    sketch_optimizer_states,
    sum_bytes,
)
from holdfast.training.weight_types import choose_weight_dtypes

BF16 = torch.bfloat16


def sketch(tuner="full", optimizer="adamw", own=torch.float32, weights="auto", autocast=None, bits=None, **knobs):
    """A model as a recipe holds it: its weights, gradients and optimizer states in bytes, and the types in words."""
    model, method = material.model().to(own), find_method("tuners", tuner)(**knobs)
    rule = find_method("optimizers", optimizer)()
    quantized = count_quantizable(model) if bits else 0
    tuned = method.apply(model, 0)
    apart = method.adapter_parameters(tuned)
    dtypes = choose_weight_dtypes(tuned, autocast, weights, rule.in_backward, apart, bits is not None)
    held = HeldWeights(tuned, dtypes, autocast, quantized, bits)
    parameters = held.trained_parameters()
    states = sketch_optimizer_states(rule, parameters)
    gradients = [count_gradient_bytes(parameters.values(), rule.in_backward, sums) for sums in (False, True)]
    return held.count_bytes(), gradients, sum_bytes(states), describe_precision(held, states)


def count_numbers(model) -> tuple[int, int, int]:
    """All weights, those of matrices, and how many tensors there are."""
    every = list(model.parameters())
    return sum(p.numel() for p in every), sum(p.numel() for p in every if p.ndim >= 2), len(every)


def test_full_training_by_type() -> None:
    n, matrices, tensors = count_numbers(material.model())
    adamw = 8 * n + 4 * tensors  # two states, and the steps of each tensor
    fp32 = "weights fp32; computed in {}; optimizer states fp32"
    assert sketch() == (4 * n, [4 * n, 4 * n], adamw, fp32.format("fp32"))
    assert sketch(autocast=BF16) == (4 * n + 2 * matrices, [4 * n, 4 * n], adamw, fp32.format("bf16"))
    assert sketch(own=BF16, autocast=BF16)[0] == 4 * n + 2 * matrices, "masters are fp32"
    words = "weights bf16; computed in bf16; optimizer states fp32, with what fp32 masters have beyond the weights"
    assert sketch(own=BF16, weights="bf16", autocast=BF16) == (2 * n, [2 * n, 4 * n], adamw + 2 * n, words)


def test_updates_inside_the_backward_pass_hold_one_gradient_and_the_weights_as_they_are() -> None:
    n, _, _ = count_numbers(material.model())
    largest = max(p.numel() for p in material.model().parameters())
    weights, gradients, states, words = sketch(optimizer="lomo", own=BF16, autocast=BF16)
    assert (weights, gradients, states) == (2 * n, [2 * largest, 4 * largest], 0)
    assert words == "weights bf16; computed in bf16; optimizer states none before the first step"


def test_adapters_on_a_frozen_base_and_on_one_in_few_bits() -> None:
    n, _, _ = count_numbers(material.model())
    tuned = find_method("tuners", "lora")(r=4).apply(material.model(), 0)
    adapter = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    weights, gradients, _, words = sketch("lora", own=BF16, autocast=BF16, r=4)
    assert (weights, gradients) == (2 * n + 6 * adapter, [4 * adapter, 4 * adapter])
    assert words == "weights bf16 (frozen), fp32 (trained); computed in bf16; optimizer states fp32"
    quantizable = count_quantizable(material.model())
    for bits, per_weight, name in ((4, 0.5 + 1 / 64 + 4 / (64 * 256), "NF4"), (8, 1.0, "LLM.int8()")):
        weights, _, _, words = sketch("lora", own=BF16, autocast=BF16, bits=bits, r=4)
        assert weights == 2 * n + 6 * adapter - int(quantizable * (2 - per_weight))
        assert words.startswith(f"weights {name} and bf16 (frozen), fp32 (trained); computed in bf16; ")


def test_what_is_said_of_types_is_what_training_makes_of_them() -> None:
    """`choose_weight_dtypes` is what `Machine.place_model` applies; a base in bf16 below an adapter stays as it is."""
    for tuner, own, autocast, weights, wanted in (
        ("full", BF16, BF16, "auto", {torch.float32}), ("lora", BF16, BF16, "auto", {BF16, torch.float32}),
        ("lora", BF16, None, "auto", {torch.float32}), ("lora", BF16, BF16, "bf16", {BF16, torch.float32}),
        ("full", BF16, BF16, "bf16", {BF16}), ("half", BF16, BF16, "auto", {torch.float32}),
    ):  # fmt: skip
        method = find_method("tuners", tuner)()
        tuned = method.apply(material.model().to(own), 0)
        dtypes = choose_weight_dtypes(tuned, autocast, weights, False, method.adapter_parameters(tuned))
        assert set(dtypes.values()) == wanted, (tuner, weights)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_saved_bytes_are_those_of_each_layer_and_each_token(kind) -> None:
    """Two more layers keep exactly as much as the two before, and nothing else is counted twice."""
    depth = "n_layer" if kind == "gpt2" else "num_hidden_layers"

    def measure(layers: int, dtype=torch.float32, autocast=None) -> float:
        policy = Policy(material.model(kind, **{depth: layers}).to(dtype), autocast=autocast)
        policy.compiled_layers = CompiledLayers(print)  # the model's own layers, as on a GPU
        return measure_saved_bytes(policy)

    two, four, six = (measure(layers) for layers in (2, 4, 6))
    assert two > 0
    assert six - four == four - two > 0.5 * two
    assert 0.4 * two < measure(2, torch.bfloat16) < 0.7 * two
    everything = activation_bytes(material.model(kind), "off", two)
    assert everything == int(two)
    assert activation_bytes(material.model(kind), "full", two) < activation_bytes(
        material.model(kind), "selective", two
    )


def test_trying_what_a_model_keeps_holds_nothing_of_it() -> None:
    policy = Policy(material.model())
    assert measure_saved_bytes(policy)
    weights = [weakref.ref(p) for p in policy.model.parameters()]
    del policy
    gc.collect()
    assert {ref() for ref in weights} == {None}


def test_the_head_takes_a_chunk_and_the_sum_of_its_gradient() -> None:
    policy = Policy(material.model(), chunk=16)
    embedding = policy.causal.get_output_embeddings().weight.numel()
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert count_head_bytes(policy, 1000, cpu) == 16 * material.VOCABULARY * 4 + 4 * embedding
    assert count_head_bytes(policy, 1000, cuda) == 16 * material.VOCABULARY * 12 + 4 * embedding
    assert count_head_bytes(policy, 10, cpu) == 10 * material.VOCABULARY * 4 + 4 * embedding
    policy.causal.requires_grad_(False)
    assert count_head_bytes(policy, 10, cpu) == 10 * material.VOCABULARY * 4


def test_lines() -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert describe_compiling("auto", cuda) == describe_compiling("on", cpu) == "on, layer by layer"
    assert describe_compiling("auto", cpu) == "off: train.compile auto is for CUDA, this is cpu"
    assert describe_compiling("off", cuda) == "off"
    assert describe_compiling("on", cpu, has_failed=True) == "off: the layers cannot be compiled here"
    assert describe_micro_batch(2048, 1000) == "1,000 tokens, a whole step"
    assert describe_micro_batch(512, 1000) == "512 tokens"
    assert describe_micro_batch(512, 1000, is_searched=True).startswith("at most 512 tokens: the smallest that is as")
    assert [format_size(size) for size in (2.25 * 2**30, 0.1 * 2**30, 2**26, 2**20)] == [
        "2.25 GiB", "0.10 GiB", "64 MiB", "1 MiB"
    ]  # fmt: skip
    estimate = MemoryEstimate(weights=2**30, gradients=2**26, optimizer_states=0, activations=2**31, head=0)
    assert estimate.total == 2**30 + 2**26 + 2**31
    assert estimate.describe_total() == "about 3.06 GiB: weights 1.00 GiB, gradients 64 MiB, activations 2.00 GiB"
    assert describe_memory_shortage(estimate, 1, 8192) == (
        "not enough memory even for 1 row(s) of 8192 tokens together. It goes to: activations 2.00 GiB, weights 1.00 "
        "GiB, gradients 64 MiB. Try: train.gradient_checkpointing: full, or a smaller train.max_length; a smaller "
        "model; tuner: lora, or optimizer: lomo"
    )
