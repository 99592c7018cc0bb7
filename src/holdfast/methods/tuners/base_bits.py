"""What `base_bits` asks of a model, and what it comes to."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.models.loading import Model


def check_base_bits(model: Model, bits: int | None) -> None:
    """See that a model can be held in so many bits; `None` asks for nothing.

    Raises:
        UserError: If not.
    """
    from holdfast.models.quantized_base import refuse_unquantizable

    if bits is not None:
        refuse_unquantizable(model, bits)


def describe_base_bits(model: Model, bits: int | None) -> list[str]:
    """A line with the share of the weights that are in so many bits; none for `None`."""
    from holdfast.models.quantized_base import count_quantizable

    if bits is None:
        return []
    share = count_quantizable(model) / sum(p.numel() for p in model.parameters())
    return [f"while it trains {share:.0%} of the weights are in {bits} bits, the rest is as it is"]
