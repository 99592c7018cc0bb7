"""The modules of a model that a tuner names: as people write them, looked for, and their shapes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from holdfast.core.bounded import find_slow_pattern
from holdfast.errors import UserError

if TYPE_CHECKING:
    from holdfast.models.loading import Model

NAMES = re.compile(r"\w+(\s*,\s*\w+)*")
"""One name of a module, or several with commas between."""
ALL = "all-linear"


def parse_targets(targets: str | tuple[str, ...]) -> str | list[str]:
    """What PEFT is told: all-linear, a regular expression, or a list of names.

    PEFT takes every text for an expression that must match a module's whole path; one that is only a name, or names
    with commas between, is meant as names.
    """
    if not isinstance(targets, str):
        return list(targets)
    if targets != ALL and NAMES.fullmatch(targets):
        return [name.strip() for name in targets.split(",")]
    return targets


def check_targets(model: Model, targets: str | list[str]) -> None:
    """See that every name is that of a module, and that an expression matches some.

    Raises:
        UserError: If not.
    """
    if isinstance(targets, list):
        check_module_names("target_modules", model, targets)
        return
    names = [name for name, _ in model.named_modules()]
    if find_slow_pattern([targets], names):
        raise UserError(
            f"tuner.target_modules: {targets} does not come to an end on the names of the modules; repeat nothing that "
            "repeats something itself, or name the modules"
        )
    try:
        has_match = targets == ALL or any(re.fullmatch(targets, name) for name in names)
    except re.error as error:
        raise UserError(f"tuner.target_modules: {targets} is not a regular expression ({error})") from None
    if not has_match:
        raise UserError(
            f"tuner.target_modules: {targets} matches no module of {type(model).__name__}; it must match whole paths "
            f"such as {max(names, key=len)}"
        )


def check_module_names(key: str, model: Model, module_names: list[str]) -> None:
    """See that a setting names modules there are.

    Raises:
        UserError: If not.
    """
    names = {name.rsplit(".", 1)[-1] for name, _ in model.named_modules()}
    missing = [name for name in module_names if name.rsplit(".", 1)[-1] not in names]
    if missing:
        some = sorted(n for n in names if n.endswith(("_proj", "c_attn", "c_fc")))[:4]
        raise UserError(
            f"tuner.{key}: {', '.join(missing)} not found in {type(model).__name__}; use "
            f"{'all-linear, or ' * (key == 'target_modules')}names such as {', '.join(some) or 'embed_tokens'}"
        )


def check_parameter_names(model: Model, parameter_names: tuple[str, ...]) -> None:
    """See that every name is the end of a parameter's path.

    Raises:
        UserError: If not.
    """
    names = [name for name, _ in model.named_parameters()]
    missing = [name for name in parameter_names if not any(path == name or path.endswith(f".{name}") for path in names)]
    if missing:
        some = sorted({name.split(".", 3)[-1] for name in names if ".experts." in name})[:2]
        raise UserError(
            f"tuner.target_parameters: {', '.join(missing)} not found in {type(model).__name__}; "
            + (f"use names such as {', '.join(some)}" if some else "it keeps no experts as tensors: leave it out")
        )


def linear_shapes(model: Model, targets: str | list[str]) -> list[tuple[int, int]]:
    """Shapes of the linear maps that `targets` names."""
    from torch import nn

    head = model.get_output_embeddings()
    out = []
    for name, module in model.named_modules():
        # GPT-2's linear maps are of a class of their own.
        linear = isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"
        if linear and _is_adapted(targets, name, module is head):
            rows, columns = module.weight.shape  # type: ignore[union-attr]
            out.append((int(rows), int(columns)))
    return out


def _is_adapted(targets: str | list[str], name: str, head: bool) -> bool:
    """Whether PEFT puts an adapter beside the module of this name."""
    if targets == ALL:
        return not head
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
