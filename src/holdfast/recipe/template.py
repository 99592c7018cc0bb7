"""The text `holdfast init` writes: a minimal recipe and every other setting in comments, made from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from holdfast.axes.method import Method
from holdfast.axes.registry import find_method
from holdfast.recipe.data_section import RecipeSection
from holdfast.recipe.messages import section_of
from holdfast.recipe.schema import Recipe
from holdfast.recipe.shorthand import expand_method
from holdfast.recipe.stages import fill_recipe
from holdfast.recipe.tree import Node, Path, format_path
from holdfast.recipe.yaml_writer import format_scalar

HEAD = """\
# A Holdfast recipe. What is not commented out is all that is needed; the commented settings show their defaults.
# Look before training:  holdfast check {file}
# Then:                  holdfast train {file}
"""

EXAMPLES = {
    "judge": "number",
    "curate": "{name: s3ft}",
    "data.replay": "{path: general.jsonl, share: 0.1}",
    "stages": "[sft, dpo]",
}
"""What to show for settings whose default says nothing."""

COLUMN = 46
"""Where the descriptions start."""


def build_template(
    model: str = "lab",
    train: str = "lab:story",
    method: str = "s3ft",
    file: str = "run.yaml",
    *,
    columns: Mapping[str, str] | None = None,
    judge: str = "",
) -> str:
    """A commented recipe that trains and measures.

    Args:
        columns: Role to column, if their names do not say it.
        judge: Name of the judge; "" leaves the choice to the rows.
    Raises:
        UserError: If there is no such method or judge.
    """
    expand_method(method)
    own_settings: dict[str, Any] = {
        "model": model,
        "method": method,
        "data": {"train": train, **({"columns": dict(columns)} if columns else {})},
        "evaluate": {"target": "test", "keep": ["auto"]},
        "output": Recipe.model_fields["output"].default,
    }
    if judge:
        find_method("judges", judge)
        own_settings["judge"] = judge
    lines: list[str] = []
    for setting_text, description in _format_lines(
        Recipe, own_settings, fill_recipe(Node.from_data(own_settings, file), []).plain_data(), (), ""
    ):
        first, *more = textwrap.wrap(description, width=116 - COLUMN)
        # In YAML a # is a comment only behind a space: a path that reaches the column must not run into it.
        lines += [f"{setting_text:<{COLUMN - 1}} # {first}", *(" " * COLUMN + f"#   {text}" for text in more)]
    return "\n".join([HEAD.format(file=file), *lines, ""])


def _format_lines(
    section: type[RecipeSection], own_settings: Any, full_settings: Any, path: Path, indent: str
) -> Iterator[tuple[str, str]]:
    """`(setting, description)` of each line; what is not in `given` is commented out, its default from `filled`."""
    for name, info in section.model_fields.items():
        key = format_path((*path, name))
        on = isinstance(own_settings, dict) and name in own_settings
        mark = "" if on or "#" in indent else "# "
        inner = section_of(info.annotation)
        whole = inner is not None and (info.annotation is inner or isinstance(info.default, RecipeSection))
        if whole and inner is not None and issubclass(inner, RecipeSection) and key not in EXAMPLES:
            yield f"{indent}{mark}{name}:", info.description or ""
            below = indent + "  " if on or "#" in indent else indent + "#   "
            yield from _format_lines(
                inner, own_settings.get(name) if on else None, _part_of(full_settings, name), (*path, name), below
            )
        else:
            yield (
                f"{indent}{mark}{name}: "
                f"{format_scalar(own_settings[name]) if on else _format_default(key, info, full_settings)}",
                info.description or "",
            )


def _part_of(full_settings: Any, name: str) -> Any:
    return full_settings.get(name) if isinstance(full_settings, dict) else None


def _format_default(key: str, info: FieldInfo, full_settings: Any) -> str:
    """The default in YAML, with derived defaults as they will be."""
    name = key.rpartition(".")[2]
    if key in EXAMPLES:
        return EXAMPLES[key]
    default = info.get_default(call_default_factory=True)
    if isinstance(info.annotation, type) and issubclass(info.annotation, Method):
        return full_settings[name]["name"]
    return format_scalar(full_settings[name] if isinstance(full_settings, dict) and name in full_settings else default)
