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
    except yaml.MarkedYAMLError as error:
        line, what = explain(error, text)
        raise UserError(f"{file}:{line}: not valid YAML: {what}") from None
    except yaml.YAMLError:
        raise UserError(f"{file}: not valid YAML: unreadable character") from None
    lines: dict[Path, int] = {}
    problems: list[tuple[Path, str]] = []
    return (None if node is None else _value(node, (), lines, problems)), lines, problems


OPENERS = {"while parsing a flow mapping": ("{", "}"), "while parsing a flow sequence": ("[", "]")}
"""What a parser was about when something open was not closed: the sign that opens, and the one that is missing."""


def explain(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line to mend, counted from 1, and what is wrong with it.

    The parser stops where it can go on no longer, which is often a line below the mistake.
    """
    mark, begun = error.problem_mark or error.context_mark, error.context_mark
    line, problem = mark.line if mark else 0, error.problem or "unreadable character"
    lines = [*text.splitlines(), ""]
    if "\\t" in problem:
        return line + 1, "a tab; indent with spaces"
    if error.context in OPENERS and begun is not None:
        opening, closing = OPENERS[error.context]
        return begun.line + 1, f"the {opening} is not closed; add {closing}"
    if "quoted scalar" in (error.context or "") and begun is not None:
        return begun.line + 1, "a quote is opened and not closed"
    if problem in ("mapping values are not allowed here", "could not find expected ':'"):
        for number in range(min(line, len(lines) - 1), -1, -1):  # upwards: the mistake is at most a few lines above
            glued = GLUED.match(lines[number])
            if glued:
                return number + 1, f"no space after the colon of {glued[1]}; write {glued[1]}: {glued[2]}"
            if number < line and lines[number].strip():
                break
        inner = line < len(lines) and COLON_INSIDE.match(lines[line])
        if inner:
            return line + 1, "a colon inside the text; put the text into quotes"
        if problem.startswith("mapping") and (above := _value_above(lines, line)):
            return line + 1, f"an indented setting below {above}, which has a value already; give both the same indent"
    return line + 1, problem


GLUED = re.compile(r"\s*(?:- )?([A-Za-z_][\w.-]*):([^\s/].*)")
"""A setting whose colon is followed by its value at once; not the beginning of an address."""
COLON_INSIDE = re.compile(r"\s*(?:- )?[A-Za-z_][\w.-]*:\s+[^'\"{\[].*:\s")


def _value_above(lines: list[str], line: int) -> str:
    """The nearest line above, if it is a setting with a value and less indented; else ""."""
    if line >= len(lines):
        return ""
    above = next((text for text in reversed(lines[:line]) if text.strip() and not text.strip().startswith("#")), "")
    deeper = len(lines[line]) - len(lines[line].lstrip()) > len(above) - len(above.lstrip())
    name, colon, value = above.partition(": ")
    return f"{name.strip()}:" if colon and value.strip() and deeper else ""


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
