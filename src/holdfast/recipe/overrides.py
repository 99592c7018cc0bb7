"""`a.b=value` texts of the command line, laid over the mapping that a recipe file holds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.axes.axis import AXES
from holdfast.errors import UserError
from holdfast.recipe import yaml_reader
from holdfast.recipe.shorthand import Path, dotted
from holdfast.recipe.stages import stage_key

COMMAND_LINE = "command line"


def override(
    data: dict[str, Any], overrides: Sequence[str], labels: dict[Path, str], problems: list[tuple[Path, str]]
) -> dict[str, Any]:
    """Apply `a.b=value` texts to a copy of `data`; what they replace loses its label."""
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{COMMAND_LINE}: {text} is not setting=value, as in optimizer.learning_rate=3e-5")
        path: Path = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        if path[0] == "stages" and len(path) > 1:
            try:
                path = ("stages", stage_key(data, path[1]), *path[2:])
            except UserError as error:
                raise UserError(f"{COMMAND_LINE}: {error}") from None
        parsed, _, wrong = yaml_reader.parse(value, f"{COMMAND_LINE}: {key}")
        problems += [(path + where, what) for where, what in wrong]
        data = replaced(data, path, parsed, path)
        for old in [p for p in labels if p[: len(path)] == path]:
            del labels[old]
        labels[path] = COMMAND_LINE
    return data


def replaced(here: Any, path: Path, value: Any, whole: Path) -> Any:
    """A copy of `here` with `value` at `path`, made of mappings where there was nothing or only a name."""
    if not path:
        return value
    step, rest, above = path[0], path[1:], whole[: len(whole) - len(path)]
    if isinstance(here, str) and any(axis.key in above for axis in AXES if axis.plural != "presets"):
        here = {"name": here}
    elif isinstance(here, str) and above[:1] == ("stages",) and len(above) == 2:
        here = {"method": here}
    if isinstance(here, list):
        if not isinstance(step, int) and len(here) == 1:  # curate.paraphrase=true, the list holding one curator
            return [replaced(here[0], path, value, whole)]
        if not isinstance(step, int) or step > len(here):
            raise UserError(
                f"{COMMAND_LINE}: {dotted(whole)}: {step} is not one of its {len(here)} items; count from 0"
            )
        return [
            *here[:step],
            replaced(here[step] if step < len(here) else None, rest, value, whole),
            *here[step + 1 :],
        ]
    if here is not None and not isinstance(here, dict):
        raise UserError(f"{COMMAND_LINE}: {dotted(whole)} is not a setting: {here!r} holds no {step}")
    return {**(here or {}), str(step): replaced((here or {}).get(str(step)), rest, value, whole)}
