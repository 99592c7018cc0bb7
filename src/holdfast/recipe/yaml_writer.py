"""Plain data written as YAML that every reader, of version 1.1 or 1.2, reads back as the same data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.recipe.tree import Path

PLAIN = re.compile(r"([A-Za-z_/]|\.{1,2}/)[\w./{}+-]*(:[\w./-]+)*")
"""Text that needs no quotes under any YAML version, unless it is a word like `yes`."""
YAML_WORDS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null", "~"}


def format_scalar(value: Any) -> str:
    """A scalar or a list of scalars so that `parse`, and any other YAML reader, gives the same value back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        text = repr(value)
        return re.sub(r"^(-?\d+)e", r"\1.0e", text)  # YAML 1.1 takes 1e-05 for text
    if isinstance(value, str):
        plain = PLAIN.fullmatch(value) and value.lower() not in YAML_WORDS
        return value if plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(format_scalar, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{format_scalar(k)}: {format_scalar(v)}" for k, v in value.items()) + "}"
    return str(value)


def format_yaml_lines(
    data: dict[str, Any], comment: Callable[[Path], str], path: Path = (), indent: str = ""
) -> list[str]:
    """Lines of block YAML for nested mappings; `comment(path)` gives the text behind each leaf, or ""."""
    out: list[str] = []
    for key, value in data.items():
        here = (*path, key)
        if isinstance(value, dict) and value:
            out += [f"{indent}{key}:", *format_yaml_lines(value, comment, here, indent + "  ")]
        elif isinstance(value, (list, tuple)) and value and all(isinstance(item, dict) for item in value):
            out.append(f"{indent}{key}:")
            for i, item in enumerate(value):
                block = format_yaml_lines(item, comment, (*here, i), indent + "    ")
                out += [f"{indent}  - {block[0].lstrip()}", *block[1:]]
        else:
            note = comment(here)
            line = f"{indent}{key}: {format_scalar(value)}"
            out.append(f"{line:<40}  # {note}" if note else line)
    return out


def find_leaf_values(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """The values that have a line of their own in block YAML, with their paths."""
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from find_leaf_values(inner, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for i, inner in enumerate(value):
            yield from find_leaf_values(inner, (*path, i))
    else:
        yield path, value
