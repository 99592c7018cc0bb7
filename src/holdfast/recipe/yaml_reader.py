"""YAML with line numbers: the plain data of a recipe, and where each value stands.

Scalars follow YAML 1.2: `1e-4` is a number, `no`, `off` and `12:30` are text, and nothing becomes a date.
"""

from __future__ import annotations

import contextlib
import re
from typing import Any

import yaml

from holdfast.errors import UserError
from holdfast.recipe.tree import Path, Problems, format_path

INTEGER = re.compile(r"[-+]?[0-9]+")
NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
LARGEST = 2**18
"""Characters of a recipe; the longest that people write have a few thousand."""
MOST = 10_000
"""Values of a recipe, aliases written out."""
DEEPEST = 50
LONGEST_NUMBER = 60
"""Characters of a number; Python's own conversion gives up at 4,300 digits, and is slow before."""
WORDS = {"": None, "~": None, "null": None, "true": True, "false": False}


def parse_yaml(text: str, file: str) -> tuple[Any, dict[Path, int], Problems]:
    """The data of a YAML text, the 1-based line of every key and list item, and what is wrong (keys given twice).

    Raises:
        UserError: If it is not YAML, or larger or deeper than any recipe; the message names `file` and the line.
    """
    if len(text) > LARGEST:
        raise too_large(file)
    try:
        with contextlib.closing(
            _BoundedLoader(text, file)
        ) as loader:  # which looks at the characters as soon as it is made
            node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line, what = explain_yaml_error(error, text)
        raise UserError(f"{file}:{line}: not valid YAML: {what}") from None
    except yaml.YAMLError:
        raise UserError(f"{file}: not valid YAML: unreadable character") from None
    reader = _ValueReader(file)
    return (None if node is None else reader.read_value(node, ())), reader.lines, reader.problems


def too_large(file: str) -> UserError:
    """The error for a text that is no recipe, whatever is in it."""
    return UserError(f"{file}: is larger than {LARGEST >> 10} KiB, which no recipe is; is it a file of rows?")


class _BoundedLoader(yaml.SafeLoader):
    """YAML's own reader of nodes, which stops where the nesting is deeper, or the nodes are more, than a recipe's."""

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file, self.depth, self.nodes = file, 0, 0

    def close(self) -> None:
        """Let go of the text."""
        self.dispose()

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.depth, self.nodes = self.depth + 1, self.nodes + 1
        if self.depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1
            raise UserError(f"{self.file}:{line}: more than {DEEPEST} values inside each other, which no recipe has")
        if self.nodes > MOST:
            raise _too_many_values(self.file)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _too_many_values(file: str) -> UserError:
    return UserError(
        f"{file}: has more than {MOST:,} values (an alias counts as what it stands for), which no recipe has; put what "
        "is long into a file, and name that"
    )


OPENERS = {"while parsing a flow mapping": ("{", "}"), "while parsing a flow sequence": ("[", "]")}
"""What a parser was about when something open was not closed: the sign that opens, and the one that is missing."""


def explain_yaml_error(error: yaml.MarkedYAMLError, text: str) -> tuple[int, str]:
    """The line to mend, counted from 1, and what is wrong with it.

    The parser stops where it can go on no longer, which is often a line below the mistake.
    """
    mark, start_mark = error.problem_mark or error.context_mark, error.context_mark
    line, problem = mark.line if mark else 0, error.problem or "unreadable character"
    lines = [*text.splitlines(), ""]
    if "\\t" in problem:
        return line + 1, "a tab; indent with spaces"
    if error.context in OPENERS and start_mark is not None:
        opening, closing = OPENERS[error.context]
        return start_mark.line + 1, f"the {opening} is not closed; add {closing}"
    if "quoted scalar" in (error.context or "") and start_mark is not None:
        return start_mark.line + 1, "a quote is opened and not closed"
    if problem in ("mapping values are not allowed here", "could not find expected ':'"):
        for number in range(min(line, len(lines) - 1), -1, -1):  # upwards: the mistake is at most a few lines above
            colon_match = COLON_WITHOUT_SPACE.match(lines[number])
            if colon_match:
                return (
                    number + 1,
                    f"no space after the colon of {colon_match[1]}; write {colon_match[1]}: {colon_match[2]}",
                )
            if number < line and lines[number].strip():
                break
        inner = line < len(lines) and COLON_INSIDE.match(lines[line])
        if inner:
            return line + 1, "a colon inside the text; put the text into quotes"
        if problem.startswith("mapping") and (above := _value_above(lines, line)):
            return line + 1, f"an indented setting below {above}, which has a value already; give both the same indent"
    return line + 1, problem


COLON_WITHOUT_SPACE = re.compile(r"\s*(?:- )?([A-Za-z_][\w.-]*):([^\s/].*)")
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


class _ValueReader:
    """Turns nodes into plain data, aliases written out, and notes where each value stands.

    Args:
        file: The name in messages.
    """

    def __init__(self, file: str) -> None:
        self.file = file
        self.lines: dict[Path, int] = {}
        self.problems: Problems = []
        self._left = MOST
        self._around: list[yaml.Node] = []

    def read_value(self, node: yaml.Node, path: Path) -> Any:
        """The value of a node, which stands at `path`."""
        line = node.start_mark.line + 1
        self.lines.setdefault(path, line)
        self._left -= 1
        if self._left < 0:
            raise _too_many_values(self.file)
        if any(node is outer for outer in self._around) or len(self._around) > DEEPEST:
            raise UserError(f"{self.file}:{line}: an alias inside of what it stands for, which has no end; remove it")
        if isinstance(node, yaml.ScalarNode):
            return self._read_scalar(node, path)
        self._around.append(node)
        inside = self._read_sequence if isinstance(node, yaml.SequenceNode) else self._read_mapping
        data = inside(node, path)
        self._around.pop()
        return data

    def _read_scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        if node.style is None and len(node.value) > LONGEST_NUMBER and NUMBER.fullmatch(node.value):
            at = f"{self.file}:{node.start_mark.line + 1}: {format_path(path)}"
            raise UserError(f"{at}: a number of {len(node.value):,} digits, and none needs as many")
        return parse_scalar(node.value) if node.style is None else node.value

    def _read_sequence(self, node: yaml.Node, path: Path) -> list[Any]:
        return [self.read_value(item, (*path, i)) for i, item in enumerate(node.value)]

    def _read_mapping(self, node: yaml.Node, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            inner = (*path, key)
            if key in data:
                self.problems.append((inner, f"is given twice (lines {self.lines[inner]} and {line}); keep one"))
                continue
            self.lines[inner] = line
            data[key] = self.read_value(value_node, inner)
        return data


def parse_scalar(text: str) -> Any:
    """The value of an unquoted scalar."""
    if text in WORDS:
        return WORDS[text]
    if INTEGER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text
