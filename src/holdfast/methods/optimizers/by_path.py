"""Optimizers of PyTorch and of installed libraries, by their path: `optimizer: torch.optim.RAdam`."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, create_model, model_validator

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.errors import UserError, first_line
from holdfast.methods.optimizers.torch_groups import group_by_decay
from holdfast.methods.optimizers.torch_rule import TorchRule

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer as TorchOptimizer

OURS = ("params", "lr", *Optimizer.model_fields)
"""Arguments that are no knobs of the class: the trainer sets them, or does itself what they are for."""


class LibraryOptimizer(Optimizer):
    """An optimizer class of a library, built with its own arguments. `adopt_optimizer` makes one for each class.

    All of its groups have the rate of the trainer, who also clips. Where it has a `weight_decay`, norms and biases are
    left alone, as `adamw` leaves them.
    """

    library_class: ClassVar[type[Any]]
    """The class of the library; it derives from `torch.optim.Optimizer`."""

    @model_validator(mode="after")
    def _try_arguments(self) -> LibraryOptimizer:
        """Let the class look at its arguments, over two parameters that nobody needs."""
        self._build_over(_make_probe_parameters("cpu"))
        return self

    def check_ready(self) -> None:
        """Take one step on two small parameters, and see that a checkpoint could hold what is kept of them.

        Raises:
            UserError: If not.
        """
        import torch

        from holdfast.models.placement import choose_device

        params = _make_probe_parameters(choose_device())
        try:
            rule = TorchRule(self, params, self._build_over(params))
            for p in params.values():
                p.grad = torch.full_like(p, 1e-3)
            rule.step()
        except UserError:
            raise
        except Exception as error:  # whatever a stranger's step raises
            raise UserError(f"optimizer: {self.from_path} cannot take a step here: {first_line(error)}") from error
        rule.state_tensors()

    def build(self, params: Iterable[tuple[str, Parameter]]) -> UpdateRule:
        """The rule over `(name, parameter)` pairs; what the class keeps it makes in the first step.

        Raises:
            UserError: If the class does not take these parameters.
        """
        parameters = dict(params)
        try:
            return TorchRule(self, parameters, self._build_over(parameters))
        except ValueError as error:
            raise UserError(f"optimizer: {first_line(error)}") from error

    def _build_over(self, params: dict[str, Parameter]) -> TorchOptimizer:
        """The class over parameters, with its arguments.

        Raises:
            ValueError: If it does not take them.
        """
        arguments = self._list_arguments()
        groups: Any = list(params.values())
        if "weight_decay" in arguments:
            groups = group_by_decay(params.values(), arguments["weight_decay"])
        try:
            return self.library_class(groups, **arguments)  # type: ignore[no-any-return]
        except Exception as error:  # whatever a stranger's constructor raises
            raise ValueError(f"{self.from_path} does not take these settings: {first_line(error)}") from error

    def _list_arguments(self) -> dict[str, Any]:
        """Its own arguments, and the learning rate where it has one."""
        own = {name: getattr(self, name) for name in type(self).model_fields if name not in OURS}
        signature = inspect.signature(self.library_class.__init__).parameters
        lists = {name for name, p in signature.items() if isinstance(p.default, tuple)}  # YAML has lists
        own = {name: tuple(v) if name in lists and isinstance(v, list) else v for name, v in own.items()}
        return own | ({"lr": self.learning_rate} if "lr" in signature else {})


@cache
def adopt_optimizer(path: str, cls: type[Any]) -> type[LibraryOptimizer]:
    """The method of an optimizer class: a knob for each of its arguments, with the class's defaults.

    Args:
        path: As it is written in a recipe.
        cls: Derives from `torch.optim.Optimizer`.
    Raises:
        UserError: If it wants what the trainer does not give.
    """
    if "closure" in {name for name, p in _list_parameters(cls.step).items() if p.default is p.empty}:
        raise UserError(f"{path}: its step wants a closure that computes the loss again, which the trainer has none of")
    fields: dict[str, Any] = {}
    for name, p in _list_parameters(cls.__init__).items():
        missing = p.default is p.empty
        if name == "lr":
            rate = p.default if isinstance(p.default, (int, float)) and p.default > 0 else None
            common = Optimizer.model_fields["learning_rate"]
            fields["learning_rate"] = (float, Field(rate or common.default, gt=0, description=common.description))
        elif name not in OURS and (missing or _fits_recipe(p.default)):
            kind: Any = bool if isinstance(p.default, bool) else bool | Any if p.default is None else Any
            fields[name] = (kind, Field(... if missing else p.default, description=f"As {path} says."))
    page = f"{path}, as it is installed. [{cls.__module__}]\n\n{inspect.getdoc(cls) or ''}".strip()
    method = create_model(cls.__name__, __base__=LibraryOptimizer, __module__=__name__, __doc__=page, **fields)
    method.library_class, method.from_path = cls, path
    return method


def _list_parameters(function: Any) -> dict[str, inspect.Parameter]:
    """Arguments by name, without the first (self or params stay out by name) and the open ones."""
    every = inspect.signature(function).parameters
    open_kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in every.items() if name != "self" and p.kind not in open_kinds}


def _fits_recipe(value: Any) -> bool:
    """Whether a default can stand in a recipe."""
    if isinstance(value, tuple):
        return all(map(_fits_recipe, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _make_probe_parameters(device: Any) -> dict[str, Parameter]:
    """A matrix and a vector."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shapes = {"matrix": (4, 4), "vector": (4,)}
    return {
        name: torch.nn.Parameter(torch.randn(shape, generator=generator).to(device)) for name, shape in shapes.items()
    }
