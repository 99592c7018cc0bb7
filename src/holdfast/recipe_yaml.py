"""YAML with line numbers: the plain data of a recipe, and where each value stands.

Scalars follow YAML 1.2: `1e-4` is a number, `no`, `off` and `12:30` are text, and nothing becomes a date.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from holdfast.errors import UserError
from holdfast.shorthand import Path

INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def parse(text: str, file: str) -> tuple[Any, dict[Path, int], list[tuple[Path, str]]]:
    """The data of a YAML text, the 1-based line of every key and list item, and what is wrong (keys given twice).

    Raises:
        UserError: If it is not YAML; the message names `file` and the line.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else file
        raise UserError(
            f"{where}: not valid YAML: {getattr(error, 'problem', None) or 'unreadable character'}"
        ) from None
    lines: dict[Path, int] = {}
    problems: list[tuple[Path, str]] = []
    return (None if node is None else _value(node, (), lines, problems)), lines, problems


def _value(node: yaml.Node, path: Path, lines: dict[Path, int], problems: list[tuple[Path, str]]) -> Any:
    lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.ScalarNode):
        return scalar(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_value(item, (*path, i), lines, problems) for i, item in enumerate(node.value)]
    data: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = str(key_node.value)
        inner = (*path, key)
        if key in data:
            problems.append(
                (inner, f"is given twice (lines {lines[inner]} and {key_node.start_mark.line + 1}); keep one")
            )
            continue
        lines[inner] = key_node.start_mark.line + 1
        data[key] = _value(value_node, inner, lines, problems)
    return data


def scalar(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text
