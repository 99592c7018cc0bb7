"""Spectrum and mend: the paper's rule on planted directions, PEFT's own correction, the control of equal norm."""

from __future__ import annotations

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.intruders import reduce_intruder_dimension
from torch import nn

from holdfast.methods.analyses.spectrum import Spectrum, measure_random_cosine
from holdfast.models.singular import (
    compute_effective_rank,
    find_intruders,
    list_layer_matrices,
    scale_intruders,
    shrink_change,
)
from holdfast.testing.analyses import build_context

D = 64


def separate_spectrum(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix with singular values 2, 2 / 1.05, ..., and its left vectors."""
    g = torch.Generator().manual_seed(seed)
    u, v = (torch.linalg.qr(torch.randn(D, D, generator=g))[0] for _ in range(2))
    return u * (2 * 1.05 ** -torch.arange(D)) @ v.T, u


def test_a_planted_direction_is_new_when_it_mixes_enough_of_the_old_ones() -> None:
    base, u = separate_spectrum()
    right = torch.linalg.qr(torch.randn(D, 1, generator=torch.Generator().manual_seed(1)))[0]
    for mixed, count in ((1, 0), (2, 0), (3, 0), (5, 1), (8, 1), (16, 1)):
        spike = u[:, 10 : 10 + mixed].sum(1, keepdim=True) / mixed**0.5
        seen = find_intruders(base, base + 50 * spike @ right.T)
        assert seen.count == count, mixed
        if count:
            assert float(seen.cosines[0]) == pytest.approx(mixed**-0.5, abs=0.02)
            assert seen.share > 0.99
            rotated = torch.linalg.qr(torch.randn(D, D, generator=torch.Generator().manual_seed(2)))[0]
            tuned = base + 50 * spike @ right.T
            for one, other in ((rotated @ base, rotated @ tuned), (base @ rotated, tuned @ rotated)):
                assert find_intruders(one, other).count == count
    assert find_intruders(base, base).count == 0


@pytest.mark.parametrize(("size", "cosine"), [(64, 0.324), (128, 0.249), (256, 0.189)])
def test_a_random_vector_is_near_some_direction_of_few(size: int, cosine: float) -> None:
    """The mean largest |cosine| of a random vector with an orthonormal basis: below 0.5 in any width of use."""
    basis = torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(3)))[0]
    assert measure_random_cosine(basis, 400) == pytest.approx(cosine, abs=0.01)


def test_spikes_and_noise_in_a_random_matrix() -> None:
    """Of rank 1 beside leading values of 2: nothing new while it is small; dense noise of its norm likewise."""
    g = torch.Generator().manual_seed(0)
    base = torch.randn(128, 128, generator=g) / 128**0.5
    u, v = (torch.nn.functional.normalize(torch.randn(128, generator=g), dim=0) for _ in range(2))
    noise = torch.nn.functional.normalize(torch.randn(128 * 128, generator=g), dim=0).view(128, 128)
    counts = [find_intruders(base, base + size * torch.outer(u, v)).count for size in (0.5, 1, 4)]
    assert counts == [0, 0, 1]
    assert [find_intruders(base, base + size * noise).count for size in (0.5, 1, 2)] == [0, 0, 0]


@pytest.mark.parametrize("rank", [1, 3])
def test_a_change_of_some_rank_brings_no_more_directions_than_that(rank: int) -> None:
    base, _ = separate_spectrum()
    g = torch.Generator().manual_seed(rank)
    change = torch.randn(D, rank, generator=g) @ torch.randn(rank, D, generator=g)
    assert find_intruders(base, base + 100 * change / change.norm()).count == rank


def test_effective_rank() -> None:
    assert compute_effective_rank(torch.tensor([1.0, 1, 1, 0])) == pytest.approx(3)
    assert compute_effective_rank(torch.tensor([5.0, 0, 0])) == pytest.approx(1)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(D, D, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


@pytest.mark.parametrize("keep", [0.0, 0.75, 1.0])
def test_peft_makes_the_same_where_it_cuts_nothing_off(keep: float) -> None:
    base, u = separate_spectrum()
    torch.manual_seed(0)
    model = Block()
    model.linear.weight.data = base.clone()
    peft = get_peft_model(model, LoraConfig(r=D, lora_alpha=D, target_modules=["linear"]))  # of full rank
    layer = peft.base_model.model.linear
    spike = u[:, 10:18].sum(1, keepdim=True) / 8**0.5
    layer.lora_B["default"].weight.data = torch.cat([40 * spike, torch.zeros(D, D - 1)], 1)
    tuned = base + layer.get_delta_weight("default").detach()
    reduce_intruder_dimension(peft, mitigation_lambda=keep, logging_sink=None)
    theirs = base + layer.get_delta_weight("intruder_reduced").detach()
    ours = scale_intruders(base, tuned, keep)
    assert find_intruders(base, tuned).count == 1
    assert torch.allclose(ours, theirs, atol=2e-4 * float(tuned.norm()))
    assert keep == 1 or float((ours - tuned).norm()) > 1
    control = shrink_change(base, tuned, keep)
    assert float((control - tuned).norm()) == pytest.approx(float((ours - tuned).norm()), rel=1e-3, abs=1e-4)
    change, shrunk = (tuned - base).flatten(), (control - base).flatten()
    assert torch.allclose(shrunk, change * float(shrunk @ change / change.square().sum()), atol=1e-4)


def test_the_section_counts_planted_directions() -> None:
    context, (_, tuned) = build_context(is_changed=False)
    still = Spectrum().measure(context)
    assert "No matrix" in still.sentence
    assert {y for series in still.figures[0].series for _, y in series.points} == {1.0}, "all directions are the base's"
    name, layer, weight = list(list_layer_matrices(tuned))[-1]
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        left, right = (torch.randn(size, 1, generator=g) for size in weight.shape)
        weight.add_(20 * weight.norm() * left / left.norm() @ (right / right.norm()).T)
    section = Spectrum(epsilon=0.9).measure(context)
    rows = {(row[0], row[1]): row for row in section.table.rows}
    row = rows.pop((name, layer + 1))
    assert row[2] >= 1
    assert row[7] == pytest.approx(1, abs=0.05), "a change of rank one"
    assert row[6] == pytest.approx(2000, rel=1e-3)
    assert all(other[2] == 0 and other[6] == 0 for other in rows.values())
    assert f"in {name} of layer {layer + 1}" in section.sentence
    assert section.figures[0].y == "new directions"


def test_layers_may_be_left_out() -> None:
    context, (base, _) = build_context()
    layers = {number for _, number, _ in list_layer_matrices(copy.deepcopy(base))}
    assert {row[1] for row in Spectrum(every=2).measure(context).table.rows} == {n + 1 for n in layers if n % 2 == 0}
