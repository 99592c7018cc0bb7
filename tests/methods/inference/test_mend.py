"""Mend: new directions are taken out of a model, and nothing else moves."""

from __future__ import annotations

import copy

import pytest
import torch

from holdfast.errors import UserError
from holdfast.methods.inference.mend import Mend
from holdfast.models.singular import find_intruders, list_layer_matrices


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_what_was_planted_is_taken_out(kind: str, tiny) -> None:
    base = tiny(kind)[0]
    tuned = copy.deepcopy(base)
    _, _, weight = next(iter(list_layer_matrices(tuned)))
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        left, right = (torch.randn(size, 1, generator=g) for size in weight.shape)
        weight.add_(50 * weight.norm() * left / left.norm() @ (right / right.norm()).T)
        tuned.get_input_embeddings().weight.mul_(1.5)
    planted = {name: p.clone() for name, p in tuned.named_parameters()}
    knobs = {"epsilon": 0.9}
    mended = Mend(keep=0.0, **knobs).weights(base, tuned)
    pairs = list(zip(list_layer_matrices(base), list_layer_matrices(tuned), list_layer_matrices(mended), strict=True))
    (_, _, start), (_, _, before), (_, _, after) = pairs[0]
    assert find_intruders(start, before, epsilon=0.9).count >= 1
    assert (after - start).norm() < 0.1 * (before - start).norm()
    assert all(torch.equal(b, c) for (_, _, b), (_, _, c) in [pair[1:] for pair in pairs[1:]])
    assert torch.equal(mended.get_input_embeddings().weight, tuned.get_input_embeddings().weight)
    half = next(iter(list_layer_matrices(Mend(keep=0.5, **knobs).weights(base, tuned))))[2]
    assert torch.allclose(half, (before + after) / 2, atol=1e-3 * float(before.norm()))
    control = next(iter(list_layer_matrices(Mend(keep=0.5, control=True, **knobs).weights(base, tuned))))[2]
    assert float((control - before).norm()) == pytest.approx(float((half - before).norm()), rel=1e-3)
    assert all(torch.equal(p, planted[name]) for name, p in tuned.named_parameters()), "the tuned model stays"


def test_another_model_is_refused(tiny) -> None:
    with pytest.raises(UserError, match=r"inference\.mend: weight"):
        Mend().weights(tiny("llama")[0], tiny("gpt2")[0])
