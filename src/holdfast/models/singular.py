"""Singular vectors that training brought into a weight, and how much of its change they hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from holdfast.models.layer_list import find_layer_list

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Intruders:
    """The leading singular directions of a tuned weight that are unlike any of the base's.

    Args:
        left, values, right: U [m, j], S [j], V [j, n] of those j directions.
        cosines: [k] largest |cosine| of each leading left vector with any left vector of the base.
        tuned_values, base_values: All singular values of the two, largest first.
        share: Of the squared Frobenius norm of the change, what lies in the span of `left`.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    cosines: Tensor
    tuned_values: Tensor
    base_values: Tensor
    share: float

    @property
    def count(self) -> int:
        return len(self.values)

    def build_part(self) -> Tensor:
        """What these directions are of the weight: sum of s u v', [m, n]."""
        return (self.left * self.values) @ self.right


def decompose_base(base: Tensor) -> tuple[Tensor, Tensor]:
    """The left singular vectors [m, k] and the singular values [k] of a weight, in fp32."""
    u, s, _ = torch.linalg.svd(base.detach().float(), full_matrices=False)
    return u, s


def find_intruders(
    base: Tensor,
    tuned: Tensor,
    top: int = 10,
    epsilon: float = 0.5,
    base_vectors: tuple[Tensor, Tensor] | None = None,
) -> Intruders:
    """Intruder dimensions by the rule of Shuttleworth et al. 2024 (arXiv 2410.21228), in fp32.

    Of the `top` left singular vectors of the tuned weight those whose |cosine| with every left singular vector of the
    base is below `epsilon`. Bases are the reduced ones, as in PEFT: of a tall weight a vector outside the base's column
    space is unlike all of them.

    Args:
        base, tuned: [m, n].
        base_vectors: What `decompose_base` gives, for who asks of several changes of one base.
    """
    before, after = base.detach().float(), tuned.detach().float()
    u0, s0 = base_vectors or decompose_base(base)
    u, s, v = torch.linalg.svd(after, full_matrices=False)
    cosines = (u[:, :top].T @ u0).abs().amax(1)  # [k]
    chosen = torch.nonzero(cosines < epsilon)[:, 0]
    change = after - before
    inside = (u[:, chosen].T @ change).square().sum() / change.square().sum().clamp_min(1e-30)
    return Intruders(u[:, chosen], s[chosen], v[chosen], cosines, s, s0, float(inside))


def scale_intruders(base: Tensor, tuned: Tensor, keep: float, top: int = 10, epsilon: float = 0.5) -> Tensor:
    """The tuned weight with its intruders' singular values times `keep`: W + (keep - 1) sum s u v', fp32 [m, n]."""
    found_part = find_intruders(base, tuned, top, epsilon)
    return tuned.detach().float() + (keep - 1) * found_part.build_part()


def shrink_change(base: Tensor, tuned: Tensor, keep: float, top: int = 10, epsilon: float = 0.5) -> Tensor:
    """The control: the whole change shrunk by as much, in Frobenius norm, as `scale_intruders` takes away."""
    lost_norm = (1 - keep) * find_intruders(base, tuned, top, epsilon).values.norm()
    change = tuned.detach().float() - base.detach().float()
    return base.detach().float() + (1 - float(lost_norm / change.norm().clamp_min(1e-30))) * change


def compute_effective_rank(values: Tensor) -> float:
    """exp of the entropy of singular values as shares of their sum. [Roy and Vetterli 2007]"""
    shares = values.double() / values.double().sum().clamp_min(1e-300)
    return float(torch.special.entr(shares).sum().exp())


def list_layer_matrices(model: PreTrainedModel) -> Iterator[tuple[str, int, Tensor]]:
    """Every weight matrix in a layer: its name, its layer from 0, and itself as [out, in].

    One at a time, so that whoever decomposes them holds the vectors of one.
    """
    layers = find_layer_list(model)
    for number, layer in enumerate(layers):
        for name, module in layer.named_modules():
            if isinstance(module, nn.Linear):
                yield name, number, module.weight
            elif isinstance(module, Conv1D):
                yield name, number, module.weight.T
