"""A recipe as one tree: every value with where it came from, from the YAML text to the resolved recipe.

Reading builds the tree; the command line, other tools' names, methods, presets, stages and derived defaults change it
or are laid over it; validation takes its plain data, and messages ask it where a value was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from holdfast.axes.axis import AXES

Path = tuple[str | int, ...]
"""Where a value sits in the nested recipe: `("curate", 0, "paraphrase")`."""
Problems = list[tuple[Path, str]]
"""What is wrong with a recipe: the path, and the words."""

NAMING_KEYS = tuple(axis.key for axis in AXES if axis.plural != "presets")
"""Keys at which a name stands for `{name: ...}`."""
SINGLE_CHOICE_KEYS = tuple(axis.key for axis in AXES if not axis.several)
"""Keys that hold one method: another one's knobs are not laid over it."""


def format_path(path: Path) -> str:
    """`("train", "epochs")` as the user writes it."""
    return ".".join(map(str, path))


class Node:
    """A value of a recipe and where it came from.

    Args:
        value: A dictionary or list of nodes, or a value without parts.
        source: "recipe.yaml:7", "command line", "method s3ft", "derived: ...", "default".
        written: Its path in the user's recipe; `None` for what was filled in. It stays when the node is moved into a
            stage, so that a message speaks of what the user can mend.
    """

    __slots__ = ("source", "value", "written")

    def __init__(self, value: Any, source: str, place: Path | None = None) -> None:
        self.value, self.source, self.written = value, source, place

    @classmethod
    def from_data(cls, value: Any, source: str | Callable[[Path], str], place: Path | None = ()) -> Node:
        """The tree of plain data.

        Args:
            source: Of all of it, or a function of the path of each part.
            place: Where the user wrote it; `None` for what is filled in.
        """

        def build_inner(key: str | int, inner: Any) -> Node:
            return cls.from_data(inner, source, None if place is None else (*place, key))

        if isinstance(value, dict):
            value = {key: build_inner(key, inner) for key, inner in value.items()}
        elif isinstance(value, (list, tuple)):
            value = [build_inner(i, inner) for i, inner in enumerate(value)]
        return cls(value, source if isinstance(source, str) else source(place or ()), place)

    @property
    def is_mapping(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, list)

    def inner_nodes(self) -> dict[Any, Node]:
        """The nodes inside by key or number; empty for a value without parts."""
        return self.value if self.is_mapping else dict(enumerate(self.value)) if self.is_list else {}

    def plain_data(self, *path: str | int) -> Any:
        """The data without sources, of all of it or at a path; `None` where there is nothing."""
        node = self.find(path)
        if node is None:
            return None
        if node.is_mapping:
            return {key: inner.plain_data() for key, inner in node.value.items()}
        return [inner.plain_data() for inner in node.value] if node.is_list else node.value

    def copy(self) -> Node:
        """A tree of its own, whose values without parts are shared."""
        if self.is_mapping:
            return Node({key: inner.copy() for key, inner in self.value.items()}, self.source, self.written)
        return Node([inner.copy() for inner in self.value] if self.is_list else self.value, self.source, self.written)

    def nodes_along(self, path: Path) -> list[Node]:
        """The nodes on the way down to a path, this one first, as far as there are any."""
        nodes = [self]
        for step in path:
            inner = nodes[-1].inner_nodes().get(step)
            if inner is None:
                break
            nodes.append(inner)
        return nodes

    def find(self, path: Path) -> Node | None:
        """The node at a path."""
        nodes = self.nodes_along(path)
        return nodes[-1] if len(nodes) == len(path) + 1 else None

    def source_around(self, path: Path) -> str:
        """The source of the value at a path, or of what lies nearest around it."""
        return self.nodes_along(path)[-1].source

    def source_of(self, path: Path) -> str | None:
        """The source of the value at a path, which may lie in a method given as an object; `None` if it is unsaid."""
        nodes = self.nodes_along(path)
        last, rest = nodes[-1], path[len(nodes) - 1 :]
        if rest and isinstance(last.value, BaseModel):
            return last.source if rest[0] == "name" or rest[0] in last.value.model_fields_set else None
        return None if rest else last.source

    def place_of(self, path: Path, otherwise: Path) -> Path:
        """Where the user wrote, or would write, the value at a path; of what was filled in it is `otherwise`."""
        nodes = self.nodes_along(path)
        place = nodes[-1].written
        return otherwise if place is None else (*place, *path[len(nodes) - 1 :])

    def is_given(self, inside: Path = ()) -> bool:
        """Whether it, or anything in it, was written in this part of the user's recipe."""
        own = self.written is not None and self.written[: len(inside)] == inside
        return own or any(inner.is_given(inside) for inner in self.inner_nodes().values())

    def leaf_nodes(self, path: Path = ()) -> Iterator[tuple[Path, Node]]:
        """Every value without parts, with its path."""
        parts = self.inner_nodes()
        if not parts:
            yield path, self
        for key, inner in parts.items():
            yield from inner.leaf_nodes((*path, key))

    def spell_out(self, key: str = "name") -> None:
        """Make a text the mapping that it stands for: `dpo` is `{name: dpo}`."""
        if isinstance(self.value, str):
            place = None if self.written is None else (*self.written, key)
            self.value = {key: Node(self.value, self.source, place)}

    def fill_value(self, path: Path, value: Any, reason: str) -> None:
        """Put in a value for a reason, with the mapping around it where there is none."""
        *above, key = path
        here = self
        for step in above:
            here = here.value.setdefault(step, Node({}, reason))
        here.value[key] = Node.from_data(value, reason, None)


def spell_out_names(tree: Node) -> None:
    """Make every name in a recipe and its stages the mapping that it stands for, in place; what is one stays.

    `tuner: lora` is `{name: lora}`, and a stage `sft` is `{method: sft}`.
    """
    for node in (tree.value[key] for key in NAMING_KEYS if key in tree.value):
        for item in node.value if node.is_list else [node]:
            item.spell_out()
    stages = tree.value.get("stages")
    for stage in stages.inner_nodes().values() if stages else ():
        stage.spell_out("method")
        if stage.is_mapping:
            spell_out_names(stage)


def overlay_mapping(below: Node, above: Node, at: Path = ()) -> None:
    """Lay a mapping over another one, which then holds both; of a value in both, the upper one stays.

    Names are spelled out in both.

    A method that is chosen above takes the place of another one with its knobs; knobs alone, over a list that holds
    one curator, are that curator's.
    """
    for key, value in above.copy().value.items():
        old = below.value.get(key)
        if not at and key in SINGLE_CHOICE_KEYS:
            old = None if old is not None and _is_other(value, old) else old
        if (
            not at
            and key == "curate"
            and value.is_mapping
            and (only := _find_only_curator(old))
            and not _is_other(value, only)
        ):
            only.value |= value.value
        elif old is not None and old.is_mapping and value.is_mapping:
            overlay_mapping(old, value, (*at, key))
        else:
            below.value[key] = value


def _find_only_curator(curators: Node | None) -> Node | None:
    """The only curator of a list."""
    one = curators is not None and curators.is_list and len(curators.value) == 1
    return curators.value[0] if curators is not None and one and curators.value[0].is_mapping else None


def _is_other(value: Node, old: Node) -> bool:
    """Whether two choices name different methods."""
    return (
        value.is_mapping
        and old.is_mapping
        and "name" in value.value
        and value.plain_data("name") != old.plain_data("name")
    )
