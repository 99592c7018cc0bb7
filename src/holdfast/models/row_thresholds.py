"""A trained threshold for each row of a matrix: the row counts while its mean magnitude is above it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SUFFIX = ".parametrizations.weight.0.thresholds"
"""How the name of thresholds ends."""
WEIGHT = ".parametrizations.weight.original"
"""How the name of the weight beside them ends."""


class StraightThroughStep(torch.autograd.Function):
    """1 where a margin is above 0, else 0; the gradient goes through as it is, or only where the margin is large."""

    @staticmethod
    def forward(ctx: Any, margin: Tensor, only_beyond_one: bool) -> Tensor:
        ctx.save_for_backward(margin)
        ctx.only_beyond_one = only_beyond_one
        return (margin > 0).to(margin.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (margin,) = ctx.saved_tensors
        return (grads[0] * (margin.abs() > 1) if ctx.only_beyond_one else grads[0]), None


class RowThresholds(nn.Module):
    """Masks rows of a weight [out, in] whose mean magnitude is not above their threshold; thresholds [out] start at 0.

    With g the gradient of the masked weight: dL/dthreshold_i = -sum_j g_ij w_ij, and the weight gets beside g_ij m_i
    also sign(w_ij) / in * sum_j g_ij w_ij, because its magnitude is in the mask.

    Args:
        rows: `out`.
        like: A tensor whose device and type the thresholds have.
        only_beyond_one: Let the gradient through only where |mean |w| - threshold| > 1.
        reset_density: At this share of rows or less all thresholds go back to 0 before the weight is used in training.
    """

    def __init__(self, rows: int, like: Tensor, only_beyond_one: bool, reset_density: float) -> None:
        super().__init__()
        self.thresholds = nn.Parameter(torch.zeros(rows, dtype=like.dtype, device=like.device))
        self.only_beyond_one, self.reset_density = only_beyond_one, reset_density

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its masked rows at 0."""
        size = weight.abs().mean(1)  # [out]
        if self.training:
            self._reset_if_empty(size)
        rows = StraightThroughStep.apply(size - self.thresholds, self.only_beyond_one)
        return weight * rows[:, None]

    @torch.no_grad()
    def _reset_if_empty(self, size: Tensor) -> None:
        if size.device.type != "meta" and float((size > self.thresholds).float().mean()) <= self.reset_density:
            self.thresholds.zero_()


def add_thresholds(linear: nn.Linear, only_beyond_one: bool, reset_density: float) -> None:
    """Give a linear map thresholds, in place; `linear.weight` is the masked weight from now on."""
    masks = RowThresholds(linear.out_features, linear.weight, only_beyond_one, reset_density)
    parametrize.register_parametrization(linear, "weight", masks)


def list_thresholds(model: nn.Module) -> Iterator[tuple[nn.Module, RowThresholds]]:
    """The maps with thresholds, and what masks them."""
    for module in model.modules():
        if parametrize.is_parametrized(module, "weight"):
            masks = module.parametrizations.weight[0]  # type: ignore[union-attr,index]
            if isinstance(masks, RowThresholds):
                yield module, masks


def fold_thresholds(model: nn.Module) -> None:
    """Make the masked weights plain weights again, in place: rows that do not count are 0."""
    for module, masks in list(list_thresholds(model)):
        masks.eval()  # nothing is reset any more
        masked_weight: Tensor = module.weight  # type: ignore[assignment]
        weight = nn.Parameter(masked_weight.detach().clone(), requires_grad=masked_weight.requires_grad)
        parametrize.remove_parametrizations(module, "weight", leave_parametrized=False)
        module.weight = weight  # the trained one stays what it is, its masked rows included


def compute_density(parameters: Mapping[str, Tensor]) -> float:
    """The share of rows with thresholds that count, of parameters by name; 1 where there are none."""
    with torch.no_grad():
        counts = [
            (parameters[find_weight_name(name)].abs().mean(1) > thresholds).float()
            for name, thresholds in parameters.items()
            if name.endswith(SUFFIX)
        ]
        return float(torch.cat(counts).mean()) if counts else 1.0


def find_weight_name(thresholds: str) -> str:
    """The name of the weight beside thresholds."""
    return thresholds.removesuffix(SUFFIX) + WEIGHT
