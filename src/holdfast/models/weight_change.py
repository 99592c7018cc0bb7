"""How far a weight moved, in double precision, without a second copy of it."""

from __future__ import annotations

from torch import Tensor

PART = 2**22
"""Numbers in double precision at a time: an embedding may be a third of a model."""


def measure_change(before: Tensor, after: Tensor) -> tuple[float, float]:
    """The sums of squares of `after - before` and of `before`, two tensors of one shape.

    Returns:
        Both as they would be of float64 copies, up to the order of summation.
    """
    change, size = 0.0, 0.0
    starts, ends = before.detach().reshape(-1).split(PART), after.detach().reshape(-1).split(PART)
    for start, end in zip(starts, ends, strict=True):
        origin = start.double()
        size += float(origin.square().sum())
        change += float((end.to(origin.device).double() - origin).square_().sum())
    return change, size
