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


PARTS = ("attention", "mlp", "all")
"""Words for the linear maps of the layers that belong to one part, and for all of them."""


def resolve_targets(model: Model, targets: str | tuple[str, ...]) -> str | list[str]:
    """As `parse_targets`, and for `attention` or `mlp` the names of the maps of that part in this model.

    Raises:
        UserError: If a part has no linear maps, as where experts are tensors.
    """
    from holdfast.methods.tuners.layer_maps import find_paths, shorten_paths
    from holdfast.models.eyes import has_eyes

    if has_eyes(model.config):
        return _list_language_maps(model, targets)
    if not isinstance(targets, str) or targets not in PARTS:
        return parse_targets(targets)
    if targets == "all":
        return ALL
    paths = find_paths(model, "attention" if targets == "attention" else "mlp")
    if not paths:
        raise UserError(
            f"tuner.target_modules: {targets} has no linear maps in {type(model).__name__}; name modules, or all"
        )
    return shorten_paths(model, paths)


def _list_language_maps(model: Model, targets: str | tuple[str, ...]) -> str | list[str]:
    """The same of a model that sees: whole paths of maps in its language part, whose names its eyes may have too.

    An expression is taken as it stands; it may name eyes.
    """
    from holdfast.methods.tuners.layer_maps import is_linear_map, is_of_attention
    from holdfast.models.eyes import language_part

    meant = parse_targets(targets)
    if isinstance(meant, str) and meant not in (ALL, *PARTS):
        return meant
    part = language_part(model)
    prefix = next(name for name, module in model.named_modules() if module is part)
    paths = [f"{prefix}.{path}" for path, module in part.named_modules() if is_linear_map(module)]
    if meant in ("attention", "mlp", ["attention"], ["mlp"]):
        return [path for path in paths if is_of_attention(path) == ("attention" in meant)]
    if isinstance(meant, list) and meant not in (["all"], [ALL]):
        return [path for path in paths if _is_adapted(meant, path)] or meant
    return paths


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
    """See that a setting names modules there are, each by the end of its path.

    Raises:
        UserError: If not.
    """
    paths = [f".{name}" for name, _ in model.named_modules()]
    names = {path.rsplit(".", 1)[-1] for path in paths}
    missing = [name for name in module_names if not any(path.endswith(f".{name}") for path in paths)]
    if missing:
        some = sorted(n for n in names if n.endswith(("_proj", "c_attn", "c_fc")))[:4]
        raise UserError(
            f"tuner.{key}: {', '.join(missing)} not found in {type(model).__name__}; use "
            f"{'all-linear, or ' * (key == 'target_modules')}names such as {', '.join(some) or 'embed_tokens'}"
        )


def check_linear_names(key: str, model: Model, module_names: list[str]) -> None:
    """See that a setting names linear maps there are, and nothing else.

    Raises:
        UserError: If not.
    """
    from holdfast.methods.tuners.layer_maps import is_linear_map

    check_module_names(key, model, module_names)
    for path, module in model.named_modules():
        for name in module_names:
            if f".{path}".endswith(f".{name}") and not is_linear_map(module):
                raise UserError(
                    f"tuner.{key}: {name} is a {type(module).__name__} in {type(model).__name__}, and linear maps are "
                    "wanted; name some that are inside of it or beside it"
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
    """Shapes (out, in) of the linear maps and embeddings that `targets` names."""
    from torch import nn

    head = model.get_output_embeddings()
    out = []
    for name, module in model.named_modules():
        # GPT-2's linear maps are of a class of their own, which keeps weights as [in, out], as embeddings do.
        in_first = isinstance(module, nn.Embedding) or type(module).__name__ == "Conv1D"
        if (in_first or isinstance(module, nn.Linear)) and _is_adapted(targets, name):
            if targets == ALL and (module is head or isinstance(module, nn.Embedding)):
                continue
            rows, columns = module.weight.shape  # type: ignore[union-attr]
            out.append((int(columns), int(rows)) if in_first else (int(rows), int(columns)))
    return out


def count_low_rank(shapes: list[tuple[int, int]], r: int, with_magnitudes: bool) -> int:
    """Parameters of A [r, in] and B [out, r] beside matrices of these shapes, and of a magnitude for each output."""
    return sum(r * (rows + columns) + with_magnitudes * rows for rows, columns in shapes)


def count_copies(model: Model, module_names: tuple[str, ...]) -> int:
    """Parameters of the modules of these names, of which each is trained as a copy of its own."""
    return sum(
        p.numel() for name, module in model.named_modules() if name.endswith(module_names) for p in module.parameters()
    )


def count_expert_ranks(model: Model, parameter_names: tuple[str, ...], r: int) -> int:
    """Parameters of A and B beside tensors of experts [E, ., .]: rank r for each of the experts."""
    tensors = [p for name, p in model.named_parameters() if name.endswith(parameter_names)]
    return sum(r * (p.shape[0] if p.ndim > 2 else 1) * (p.shape[-1] + p.shape[-2]) for p in tensors)


def refuse_high_rank(model: Model, shapes: list[tuple[int, int]], r: int, key: str = "tuner.r") -> None:
    """See that a rank is one that some matrix of these shapes can have.

    Raises:
        UserError: If it is above the smaller side of all of them.
    """
    if shapes and r > (most := max(map(min, shapes))):
        raise UserError(
            f"{key} {r:,} is above the rank of every matrix it would update in {type(model).__name__}, {most:,} at "
            f"most; set {key} to {most:,} or fewer, or tuner: full"
        )


def describe_high_rank(shapes: list[tuple[int, int]], r: int) -> list[str]:
    """A line when the rank is above that of matrices of these shapes: more parameters than the whole matrix has."""
    smaller = [shape for shape in shapes if min(shape) < r]
    if not smaller:
        return []
    least = min(smaller, key=min)
    return [
        f"tuner.r {r:,} is larger than {len(smaller):,} of the matrices it updates (the smallest is "
        f"{least[0]:,} by {least[1]:,}): beyond {min(least):,} it adds parameters and no freedom; set a smaller r, "
        "or tuner: full"
    ]


def _is_adapted(targets: str | list[str], name: str) -> bool:
    """Whether `targets` names the module of this name."""
    if targets == ALL:
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, name) is not None
    return any(name == target or name.endswith(f".{target}") for target in targets)
