"""The text `holdfast init` writes: a minimal recipe and every other setting in comments, made from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.axes.method import Method
from holdfast.axes.registry import find_method
from holdfast.recipe.messages import describe_settings, find_field
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
    "data.train": "train.jsonl",
    "evaluate.target": "test",
    "data.replay": "{path: general.jsonl, share: 0.1}",
    "stages": "[sft, dpo]",
}
"""What to show for settings whose default says nothing; their own settings are not listed."""

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
    own_tree = Node.from_data(own_settings, file)
    lines: list[str] = []
    for setting_text, description in _format_lines(own_tree, fill_recipe(own_tree, [])):
        first, *more = textwrap.wrap(description, width=116 - COLUMN)
        # In YAML a # is a comment only behind a space: a path that reaches the column must not run into it.
        lines += [f"{setting_text:<{COLUMN - 1}} # {first}", *(" " * COLUMN + f"#   {text}" for text in more)]
    return "\n".join([HEAD.format(file=file), *lines, ""])


def _format_lines(own_tree: Node, full_tree: Node) -> Iterator[tuple[str, str]]:
    """`(setting, description)` of each line; what is not in `own_tree` is commented out."""
    settings = describe_settings()
    for key, description in settings.items():
        path = tuple(key.split("."))
        if format_path(path[:-1]) in EXAMPLES:
            continue
        n_on, depth = len(own_tree.nodes_along(path)) - 1, len(path) - 1
        mark = "  " * depth if n_on > depth else "  " * n_on + "# " + "  " * (depth - n_on)
        if key not in EXAMPLES and any(other.startswith(f"{key}.") for other in settings):
            yield f"{mark}{path[-1]}:", description
        else:
            text = format_scalar(own_tree.plain_data(*path)) if n_on > depth else _format_default(path, full_tree)
            yield f"{mark}{path[-1]}: {text}", description


def _format_default(path: Path, full_tree: Node) -> str:
    """The default in YAML, with derived defaults as they will be."""
    if (key := format_path(path)) in EXAMPLES:
        return EXAMPLES[key]
    info = find_field(key)
    if isinstance(info.annotation, type) and issubclass(info.annotation, Method):
        return str(full_tree.plain_data(*path, "name"))
    value = full_tree.plain_data(*path)
    return format_scalar(info.get_default(call_default_factory=True) if value is None else value)
