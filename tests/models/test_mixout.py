"""Mixout: the printed formula with the mask it drew, its gradient, its mean, and nothing where nothing moved."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from holdfast.errors import UserError
from holdfast.models.mixout import attach_mixout

SHARE = 0.25


def moved_layer() -> tuple[torch.nn.Module, torch.nn.Linear, torch.Tensor, list]:
    """A layer whose linear map was moved after mixout was attached; the map, its first weights, the hooks."""
    torch.manual_seed(0)
    linear = torch.nn.Linear(6, 5, dtype=torch.float64)
    layer = torch.nn.Sequential(torch.nn.LayerNorm(6, dtype=torch.float64), linear)
    start, hooks = linear.weight.detach().clone(), attach_mixout([layer], SHARE)
    with torch.no_grad():
        linear.weight.add_(torch.randn(5, 6, dtype=torch.float64))
    return layer, linear, start, hooks


def test_it_is_the_printed_formula_with_its_gradient() -> None:
    layer, linear, start, hooks = moved_layer()
    x = torch.randn(7, 6, dtype=torch.float64)
    torch.manual_seed(1)
    layer(x).square().sum().backward()
    torch.manual_seed(1)
    mask = F.dropout(torch.ones_like(start), SHARE)  # M / (1 - p)
    assert set(mask.unique().tolist()) == {0.0, 1 / (1 - SHARE)}
    weight = linear.weight.detach().clone().requires_grad_()
    (layer[0](x) @ (start + mask * (weight - start)).T + linear.bias).square().sum().backward()
    assert torch.allclose(linear.weight.grad, weight.grad, atol=1e-12)
    assert (linear.weight.grad[mask == 0] == 0).all(), "what is the base's in this pass does not move"
    layer.eval()
    plain = F.linear(layer[0](x), linear.weight, linear.bias)
    assert torch.equal(layer(x), plain)
    for hook in hooks:
        hook.remove()
    assert torch.equal(layer.train()(x), plain)


def test_its_mean_is_the_plain_weight_and_before_the_first_step_it_is_that() -> None:
    layer, linear, start, _ = moved_layer()
    x = torch.randn(3, 6, dtype=torch.float64)
    with torch.no_grad():
        draws = torch.stack([layer(x) for _ in range(1500)])
        plain = layer.eval()(x)
        assert torch.allclose(draws.mean(0), plain, atol=5 * float(draws.std(0).max()) / 1500**0.5)
        assert float(draws.std(0).min()) > 0.01
        linear.weight.copy_(start)
        plain = layer(x)
        assert torch.equal(layer.train()(x), plain)


def test_maps_that_do_not_train_are_left_alone() -> None:
    layer = torch.nn.Sequential(torch.nn.LayerNorm(6), torch.nn.Linear(6, 5)).requires_grad_(False)
    with pytest.raises(UserError, match=r"train\.mixout: no linear map of the layers trains here"):
        attach_mixout([layer], SHARE)
