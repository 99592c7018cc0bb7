"""Torch's own kernel for attention by lengths: what the slow function of the same signature gives, on a card."""

from __future__ import annotations

import inspect

import pytest
import torch

from holdfast.models.policy import Policy
from holdfast.models.varlen_attention import find_kernel
from varlen_reference import reference_varlen

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="flash attention needs a card")]


def run_attention(kernel, tensors, grad, bounds, **options):
    """Output and gradients, as fp32 on the CPU."""
    leaves = [x.detach().requires_grad_() for x in tensors]
    word = {"enable_gqa": True} if "enable_gqa" in inspect.signature(kernel).parameters else {}
    out = kernel(*leaves, *bounds, **options, **word)
    return [x.float().cpu() for x in (out.detach(), *torch.autograd.grad(out, leaves, grad))]


def test_outputs_and_gradients_are_those_of_the_definition():
    device = torch.device("cuda", torch.cuda.current_device())
    kernel, why = find_kernel(device, torch.bfloat16)
    assert kernel is not None, why
    generator = torch.Generator().manual_seed(0)
    queries, keys = [0, 5, 6, 40, 60], [0, 5, 6, 40, 80]  # the last sequence has 20 keys before its first query
    for head, window in ((64, (-1, 0)), (128, (-1, 0)), (64, (7, 0))):
        shapes = ((60, 4, head), (80, 2, head), (80, 2, head), (60, 4, head))
        *tensors, grad = (torch.randn(shape, generator=generator).bfloat16() for shape in shapes)
        options = {"scale": 0.3 * head**-0.5, "window_size": window}
        results = []
        for function, place in ((reference_varlen, torch.device("cpu")), (kernel, device)):
            offsets = [torch.tensor(bounds, dtype=torch.int32, device=place) for bounds in (queries, keys)]
            dtype = torch.float32 if place.type == "cpu" else torch.bfloat16
            inputs = [x.to(place, dtype) for x in tensors]
            results.append(run_attention(function, inputs, grad.to(place, dtype), (*offsets, 34, 40), **options))
        for wanted, got in zip(*results, strict=True):
            assert torch.dist(got, wanted) <= 0.02 * wanted.norm(), (head, window)


@pytest.mark.parametrize("kind", ["llama", "qwen2", "gpt2"])
def test_a_policy_in_bf16_takes_it(tiny, kind):
    model = tiny(kind)[0].to("cuda")
    assert Policy(model, autocast=torch.bfloat16).attention.is_varlen
    assert Policy(model).attention.refusal == "varlen attention computes in bf16 or fp16, not float32"
