"""Bottlenecks of adapters as modules, and weights beside a base read back from one file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.models.loading import Model

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "swish": F.silu}
STD = 1e-2
"""Of the weights at the start, cut at two deviations, as Houlsby et al. 2019 draw them."""


class Bottleneck(nn.Module):
    """h + s U f(D x), where x is h, or what the module that made h had read.

    Args:
        width: d. size: m.
        activation: Name of f.
        scale: s.
        parallel: Whether x is what the module read. Then U is 0 at the start (He et al. 2021).
    """

    def __init__(self, width: int, size: int, activation: str, scale: float, parallel: bool) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, size), nn.Linear(size, width)
        self.activation, self.scale, self.parallel, self.is_on = activation, scale, parallel, True
        with torch.no_grad():
            nn.init.zeros_(self.up.weight)
            nn.init.zeros_(self.down.bias)
            nn.init.zeros_(self.up.bias)
            if not parallel:  # else the down map is nn.Linear's own Kaiming draw, as in He et al.
                for each in (self.down, self.up):
                    nn.init.trunc_normal_(each.weight, std=STD, a=-2 * STD, b=2 * STD)

    def attach_to(self, module: nn.Module) -> None:
        """Become a part of `module` and change what it puts out from now on.

        A hook, not another module in its place: names and classes of the base stay, and with them what reads them.
        """
        module.bottleneck = self
        module.register_forward_hook(self.change_output)

    def change_output(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        """What the hook gives in place of `output`, [B, T, d] or a tuple that begins with it."""
        if not self.is_on:
            return output
        if isinstance(output, tuple):
            return (self(output[0], args[0]), *output[1:])
        return self(output, args[0])

    def forward(self, hidden: Tensor, source: Tensor) -> Tensor:
        """[B, T, d] to [B, T, d]; in the precision of the bottleneck, which may be higher than the model's."""
        x = (source if self.parallel else hidden).to(self.down.weight.dtype)
        change = self.up(ACTIVATIONS[self.activation](self.down(x)))
        return hidden + (self.scale * change).to(hidden.dtype)


@contextmanager
def switch_off(model: nn.Module) -> Iterator[None]:
    """A context in which the bottlenecks of a model change nothing."""
    bottlenecks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    for one in bottlenecks:
        one.is_on = False
    try:
        yield
    finally:
        for one in bottlenecks:
            one.is_on = True


def load_beside(model: Model, file: Path, names_in: Callable[[Model], set[str]]) -> Model:
    """Copy what a file holds into the parameters of these names, of which none may be missing or of another shape.

    Raises:
        UserError: If the file is of another base or of other settings.
    """
    own = {name: p for name, p in model.named_parameters() if name in names_in(model)}
    state = load_file(file)
    wrong = sorted(own.keys() ^ state.keys()) or sorted(n for n, p in own.items() if p.shape != state[n].shape)
    if wrong:
        raise UserError(
            f"{file}: does not belong to this base: {wrong[0]} is of another shape, or only in one of the two "
            f"({len(wrong)} such); put the base there that tuner.json names"
        )
    with torch.no_grad():
        for name, parameter in own.items():
            parameter.copy_(state[name])
    return model
