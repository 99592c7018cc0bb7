"""The text `holdfast init` writes: a minimal recipe and every other setting in comments, made from the schema."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic.fields import FieldInfo

from holdfast.axes.method import Method
from holdfast.axes.registry import find
from holdfast.recipe.data_section import Section
from holdfast.recipe.messages import section_of
from holdfast.recipe.schema import Recipe
from holdfast.recipe.shorthand import expand
from holdfast.recipe.stages import fill_in
from holdfast.recipe.tree import Node, Path, dotted
from holdfast.recipe.yaml_writer import write_scalar

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


def template(
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
    expand(method)
    given: dict[str, Any] = {
        "model": model,
        "method": method,
        "data": {"train": train, **({"columns": dict(columns)} if columns else {})},
        "evaluate": {"target": "test", "keep": ["auto"]},
        "output": Recipe.model_fields["output"].default,
    }
    if judge:
        find("judges", judge)
        given["judge"] = judge
    lines: list[str] = []
    for left, description in _lines(Recipe, given, fill_in(Node.of(given, file), []).plain(), (), ""):
        first, *more = textwrap.wrap(description, width=116 - COLUMN)
        # In YAML a # is a comment only behind a space: a path that reaches the column must not run into it.
        lines += [f"{left:<{COLUMN - 1}} # {first}", *(" " * COLUMN + f"#   {text}" for text in more)]
    return "\n".join([HEAD.format(file=file), *lines, ""])


def _lines(section: type[Section], given: Any, filled: Any, path: Path, indent: str) -> Iterator[tuple[str, str]]:
    """`(setting, description)` of each line; what is not in `given` is commented out, its default from `filled`."""
    for name, info in section.model_fields.items():
        key = dotted((*path, name))
        on = isinstance(given, dict) and name in given
        mark = "" if on or "#" in indent else "# "
        inner = section_of(info.annotation)
        whole = inner is not None and (info.annotation is inner or isinstance(info.default, Section))
        if whole and inner is not None and issubclass(inner, Section) and key not in EXAMPLES:
            yield f"{indent}{mark}{name}:", info.description or ""
            below = indent + "  " if on or "#" in indent else indent + "#   "
            yield from _lines(inner, given.get(name) if on else None, _part(filled, name), (*path, name), below)
        else:
            yield (
                f"{indent}{mark}{name}: {write_scalar(given[name]) if on else _default(key, info, filled)}",
                info.description or "",
            )


def _part(filled: Any, name: str) -> Any:
    return filled.get(name) if isinstance(filled, dict) else None


def _default(key: str, info: FieldInfo, filled: Any) -> str:
    """The default in YAML, with derived defaults as they will be."""
    name = key.rpartition(".")[2]
    if key in EXAMPLES:
        return EXAMPLES[key]
    default = info.get_default(call_default_factory=True)
    if isinstance(info.annotation, type) and issubclass(info.annotation, Method):
        return filled[name]["name"]
    return write_scalar(filled[name] if isinstance(filled, dict) and name in filled else default)
