"""Residual dropout: the rates of layers, where elements are dropped, and that nothing is left of it afterwards."""

from __future__ import annotations

import pytest
import torch

from holdfast.errors import UserError
from holdfast.models.residual_dropout import attach_residual_dropout, dropout_rates


def test_rates_rise_linearly_from_the_first_layer_to_the_last():
    assert dropout_rates(4, 0.3) == pytest.approx(torch.linspace(0, 0.3, 4).tolist())
    assert dropout_rates(1, 0.3) == [0]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "gemma2"])
def test_elements_of_what_the_last_layer_adds_are_dropped_while_it_trains(kind, tiny):
    model, _ = tiny(kind)
    layers = model.transformer.h if kind == "gpt2" else model.model.layers
    ids = torch.arange(3, 40)[None]
    before, outputs = model(ids).logits, {}
    assert attach_residual_dropout(layers, 0.0) == []  # without a rate it is plain training, to the bit
    hooks = attach_residual_dropout(layers, 0.5)
    for number, layer in enumerate(layers):  # after the dropout's own hook
        layer.mlp.register_forward_hook(lambda module, inputs, output, number=number: outputs.update({number: output}))
    assert torch.equal(model(ids).logits, before)
    torch.manual_seed(0)
    model.train()(ids)
    zeros = [(outputs[number] == 0).float().mean().item() for number in range(2)]
    assert zeros[0] == 0
    assert zeros[1] == pytest.approx(0.5, abs=0.05)
    for hook in hooks:
        hook.remove()
    model.train()(ids)
    assert (outputs[1] == 0).sum() == 0


def test_layers_of_unknown_parts_are_refused():
    with pytest.raises(UserError, match=r"train\.residual_dropout: Linear has none of self_attn"):
        attach_residual_dropout([torch.nn.Linear(1, 1)], 0.1)
