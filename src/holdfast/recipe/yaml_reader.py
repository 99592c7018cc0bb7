"""Step 1 of reading a recipe: from YAML text to its tree, each value with the line where it stands.

Scalars follow YAML 1.2: `1e-4` is a number, `no`, `off` and `12:30` are text, and nothing becomes a date.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import yaml

from holdfast.errors import UserError
from holdfast.recipe.tree import Node, Path, Problems, format_path

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


def parse_yaml(text: str, file: str) -> tuple[Node, Problems]:
    """The tree of a YAML text, whose sources are `file:LINE`, and what is wrong with it (keys given twice).

    Raises:
        UserError: If it is not YAML, or larger or deeper than any recipe; the message names `file` and the line.
    """
    if len(text) > LARGEST:
        raise too_large(file)
    try:
        loader = _RecipeLoader(text, file)  # which looks at the characters as soon as it is made
        return loader.read_tree(), loader.problems
    except yaml.MarkedYAMLError as error:
        line, what = explain_yaml_error(error, text)
        raise UserError(f"{file}:{line}: not valid YAML: {what}") from None
    except yaml.YAMLError:
        raise UserError(f"{file}: not valid YAML: unreadable character") from None


def read_text(file: pathlib.Path, most: int = 4 * LARGEST) -> str:
    """The text of a file, of which no more is read than may be: it may be a pipe, or a device without an end.

    Args:
        most: Bytes.
    Raises:
        UserError: If there are more, or it is not UTF-8.
    """
    with file.open("rb") as handle:
        raw = handle.read(most + 1)
    if len(raw) > most:
        raise too_large(str(file))
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def too_large(file: str) -> UserError:
    """The error for a text that is no recipe, whatever is in it."""
    return UserError(f"{file}: is larger than {LARGEST >> 10} KiB, which no recipe is; is it a file of rows?")


class _RecipeLoader(yaml.SafeLoader):
    """YAML's own reader of nodes, which makes a recipe's tree of them and stops at what is larger than any recipe.

    Args:
        file: The name in sources and messages.
    """

    def __init__(self, text: str, file: str) -> None:
        super().__init__(text)
        self.file, self.problems = file, Problems()
        self._depth, self._left = 0, MOST
        self._around: list[yaml.Node] = []

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._count_value()
        self._depth += 1
        if self._depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1
            raise UserError(f"{self.file}:{line}: more than {DEEPEST} values inside each other, which no recipe has")
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def _count_value(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise UserError(
                f"{self.file}: has more than {MOST:,} values (an alias counts as what it stands for), which no recipe "
                "has; put what is long into a file, and name that"
            )

    def read_tree(self) -> Node:
        """The tree of the whole text, aliases written out."""
        node = self.get_single_node()
        self._left = MOST  # once more, as an alias was one value until here
        return Node(None, self.file) if node is None else self._build_node(node, (), node.start_mark.line + 1)

    def _build_node(self, node: yaml.Node, path: Path, line: int) -> Node:
        """The tree of a YAML node, which stands at `path`, its key or itself on a line."""
        self._count_value()
        if any(node is outer for outer in self._around) or len(self._around) > DEEPEST:
            line = node.start_mark.line + 1
            raise UserError(f"{self.file}:{line}: an alias inside of what it stands for, which has no end; remove it")
        self._around.append(node)
        value: Any
        if isinstance(node, yaml.ScalarNode):
            value = node.value if node.style is not None else self._parse_scalar(node, path)
        elif isinstance(node, yaml.SequenceNode):
            items = enumerate(node.value)
            value = [self._build_node(item, (*path, i), item.start_mark.line + 1) for i, item in items]
        else:
            value = self._build_mapping(node, path)
        self._around.pop()
        return Node(value, f"{self.file}:{line}", path)

    def _build_mapping(self, node: yaml.Node, path: Path) -> dict[str, Node]:
        lines: dict[str, int] = {}
        inner_nodes: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in lines:
                self.problems.append(((*path, key), f"is given twice (lines {lines[key]} and {line}); keep one"))
                continue
            lines[key] = line
            inner_nodes[key] = self._build_node(value_node, (*path, key), line)
        return inner_nodes

    def _parse_scalar(self, node: yaml.ScalarNode, path: Path) -> Any:
        """The value of an unquoted scalar."""
        text = node.value
        if text in WORDS:
            return WORDS[text]
        if not NUMBER.fullmatch(text):
            return text
        if len(text) > LONGEST_NUMBER:
            at = f"{self.file}:{node.start_mark.line + 1}: {format_path(path)}"
            raise UserError(f"{at}: a number of {len(text):,} digits, and none needs as many")
        return int(text) if INTEGER.fullmatch(text) else float(text)


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
