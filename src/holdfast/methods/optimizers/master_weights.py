"""fp32 master weights of parameters in bf16, kept as the 16 bits that rounding takes from them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Parameter

NAME = "remainder"
"""What the 16 bits of a parameter are called in an optimizer's state."""

BUCKET = 1 << 26
"""Weights whose masters are in fp32 at a time: all of them at once would be the memory that is saved."""


class MasterWeights:
    """For each parameter a stand-in that an optimizer updates: in fp32 for one in bf16, else the parameter itself.

    A step in bf16 loses every update below a 256th of the weight. So the weight is an fp32 number, cut in two: the
    parameter holds it rounded to bf16, as the model computes with it, and `remainders` the difference of the bits (as
    int16), from which it comes back bit for bit. Both together take the 4 bytes of an fp32 weight, nothing twice.
    [Zamirai et al. 2020, arXiv 2010.06192, on what rounding loses and on keeping it apart]

    A stand-in has its parameter's shape always, but memory and a gradient only inside `open_bucket`.

    Args:
        params: The trained parameters by name, on one device.
    """

    def __init__(self, params: Mapping[str, Parameter]) -> None:
        import torch
        from torch import nn

        self.params = dict(params)
        self.remainders: dict[str, Tensor] = {}
        self.stand_ins: dict[str, Parameter] = {}
        for name, p in self.params.items():
            self.stand_ins[name] = p
            if p.dtype == torch.bfloat16:
                self.remainders[name] = torch.zeros(p.shape, dtype=torch.int16, device=p.device)
                self.stand_ins[name] = nn.Parameter(_shape_only(p))

    def list_buckets(self) -> list[list[str]]:
        """Names of the parameters that have a gradient, cut into lists of about `BUCKET` weights."""
        buckets: list[list[str]] = []
        room = 0
        for name, p in self.params.items():
            if p.grad is None:
                continue
            if p.numel() > room or not buckets:
                buckets.append([])
                room = BUCKET
            buckets[-1].append(name)
            room -= p.numel()
        return buckets

    @contextmanager
    def hide_gradients(self) -> Iterator[dict[str, Tensor]]:
        """No parameter has its gradient inside: an optimizer passes over all but those of the open bucket."""
        gradients = {name: p.grad for name, p in self.params.items() if p.grad is not None}
        for p in self.params.values():
            p.grad = None
        try:
            yield gradients
        finally:
            for name, gradient in gradients.items():
                self.params[name].grad = gradient

    @contextmanager
    def open_bucket(self, bucket: list[str], gradients: Mapping[str, Tensor], scale: Tensor | None) -> Iterator[None]:
        """The stand-ins of `bucket` have values and gradients inside; what they are after it is kept.

        Args:
            scale: Of the gradients, as clipping wants it; `None` for 1.
        """
        import torch

        for name in bucket:
            stand_in, gradient = self.stand_ins[name], gradients[name].to(torch.float32)
            if name in self.remainders:
                stand_in.data = join_halves(self.params[name].detach(), self.remainders[name])
            stand_in.grad = gradient if scale is None else gradient * scale
        yield
        for name in bucket:
            stand_in = self.stand_ins[name]
            stand_in.grad = None
            if name in self.remainders:
                weight, remainder = split_master(stand_in.detach())
                self.params[name].detach().copy_(weight)
                self.remainders[name].copy_(remainder)
                stand_in.data = _shape_only(stand_in)

    def state_tensors(self) -> dict[str, Tensor]:
        """`PARAMETER.remainder`; empty where no parameter is in bf16."""
        return {f"{name}.{NAME}": tensor for name, tensor in self.remainders.items()}


def join_halves(weight: Tensor, remainder: Tensor) -> Tensor:
    """The fp32 master of a weight in bf16 and its remainder in int16, all of one shape."""
    import torch

    high = weight.contiguous().view(torch.int16).to(torch.int32)
    return ((high << 16) + remainder.to(torch.int32)).view(torch.float32)


def split_master(master: Tensor) -> tuple[Tensor, Tensor]:
    """An fp32 master as the nearest weight in bf16 and the remainder of its bits in int16, all of one shape.

    A master half way between two goes to the one that is farther from zero: only then the remainder is never 2^15,
    which int16 does not have. What is not finite is cut instead, and stays so: rounded up, its bits could become zero.
    """
    import torch

    bits = master.contiguous().view(torch.int32)
    high = torch.where(master.isfinite(), (bits + 0x8000) >> 16, bits >> 16)
    return high.to(torch.int16).view(torch.bfloat16), (bits - (high << 16)).to(torch.int16)


def _shape_only(p: Tensor) -> Tensor:
    """A tensor in fp32 that has a shape and the memory of one number."""
    import torch

    return torch.zeros((), dtype=torch.float32, device=p.device).expand(p.shape)
