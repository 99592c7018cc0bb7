"""Step 3 of reading a recipe: other tools' names in it are moved to where they live here, or left out with a note."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from holdfast.recipe import peers
from holdfast.recipe.tree import Node, Path, Problems, format_path, spell_out_names

ALIAS_PLACES = ("", "train", "data", "optimizer", "tuner")
"""The parts of a recipe in which an alias is looked for; "" is the top level."""

DEVICE_BATCH = ("per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps")


class Aliases:
    """Reads the aliases of a recipe and of its stages: its tree is changed in place.

    Args:
        tree: The recipe as it was written.
        problems: What is wrong is added here; the values in question are left out of the tree.
    """

    def __init__(self, tree: Node, problems: Problems) -> None:
        self.tree, self.problems = tree, problems
        self.notes: list[str] = []
        """What the user should know, a line each."""
        self.moves: dict[Path, Path] = {}
        """Of every name that was understood: where its value is now, and where it was."""
        self._implied: set[Path] = set()
        spell_out_names(tree)
        self._read_part((), tree)
        stages = tree.value.get("stages")
        for key, stage in stages.inner_nodes().items() if stages else ():
            if stage.is_mapping:
                self._read_part(("stages", key), stage)

    def _read_part(self, at: Path, part: Node) -> None:
        """The aliases of the recipe, or of the stage at `at`."""
        for above, section in _find_sections(part, ALIAS_PLACES):
            for key in [key for key, inner in section.value.items() if _is_alias(key, inner.plain_data(), above)]:
                target, convert = peers.ALIASES[key]
                node = section.value.pop(key)
                if convert:
                    node = Node.from_data(convert(node.plain_data()), node.source, node.written)
                if target == format_path((*above, key)):
                    section.value[key] = node
                else:
                    self._move_node(at, part, (*above, key), tuple(target.split(".")), node)
        self._read_device_batch(at, part)
        self._leave_out(at, part)

    def _move_node(
        self, at: Path, part: Node, old: Path, new: Path, node: Node, note: str = "", group_note: str = ""
    ) -> None:
        """Put a node at `new` in a part of the recipe, unless something is there already."""
        *above, last = new
        here, there = part, (*at, *new)
        for n, step in enumerate(above, 1):
            if here.value.get(step) is None or here.value[step].value is None:
                here.value[step] = Node({}, here.source, (*at, *above[:n]))
            here = here.value[step]
            if not here.is_mapping:
                self.problems.append(
                    ((*at, *old), f"cannot be read as {format_path(new)}, because {step} is not a mapping")
                )
                return
        if last in here.value and there not in self._implied:
            text = f"means {format_path(new)}, which is given as well; keep one of them{group_note}"
            self.problems.append(((*at, *old), text))
            return
        self._implied.discard(there)  # a name that was only implied gives way to one that is given
        here.value[last] = Node.from_data(node.plain_data(), node.source, there)
        axis, name = next(
            (axis_and_name for start, axis_and_name in peers.IMPLIED.items() if str(old[-1]).startswith(start)),
            ("", ""),
        )
        if axis and "name" not in here.value:
            here.value["name"] = Node(name, here.source, (*at, axis, "name"))
            self._implied.add((*at, axis, "name"))
        self.moves[there] = (*at, *old)
        self._add_note((*at, *old), node.source, note or f"is read as {format_path(new)}")

    def _add_note(self, path: Path, source: str, text: str) -> None:
        self.notes.append(f"{source}: {format_path(path)} {text}")

    def _read_device_batch(self, at: Path, part: Node) -> None:
        """Rows per device and accumulation steps become an upper bound in tokens, which a note says."""
        sections = list(_find_sections(part, ("", "train")))
        names = [(above, section, key) for above, section in sections for key in DEVICE_BATCH if key in section.value]
        if not names:
            return
        old: Path = (*names[0][0], names[0][2])
        nodes = {key: section.value.pop(key) for _, section, key in names}
        counts = {key: node.value for key, node in nodes.items()}
        if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts.values()):
            self.problems.append(((*at, *old), "must be a whole number above 0; better give train.batch_tokens"))
            return
        length = part.plain_data("train", "max_length") or 2048
        rows = counts.get(DEVICE_BATCH[0], counts.get(DEVICE_BATCH[1], 8)) * counts.get(DEVICE_BATCH[2], 1)
        if not isinstance(length, int):
            return
        tokens = Node(rows * length, nodes[names[0][2]].source)
        note = (
            f"is read as train.batch_tokens: {rows * length} ({rows} rows of train.max_length {length}); where rows "
            "are shorter a step holds more of them, so give train.batch_tokens yourself to keep your number of steps"
        )
        group_note = f" ({' and '.join(counts)} belong together)" if len(counts) > 1 else ""
        self._move_node(at, part, old, ("train", "batch_tokens"), tokens, note, group_note)

    def _leave_out(self, at: Path, part: Node) -> None:
        """Drop other tools' settings that change no result here, or are switched off, with one note for all."""
        omissions: list[tuple[Path, str, str]] = []
        for above, section in _find_sections(part, ("", "train")):
            for key, node in list(section.value.items()):
                off = (key in peers.INSTEAD or key in peers.SAME) and peers.is_switched_off(node.plain_data())
                if off or key in peers.NO_EFFECT:
                    del section.value[key]
                    reason = "switched off" if off else peers.NO_EFFECT[key]
                    omissions.append(((*at, *above, key), node.source, reason))
        if omissions:
            (first, source, why), *rest = omissions
            others = ", ".join(f"{format_path(path[len(at) :])} ({reason})" for path, _, reason in rest)
            self._add_note(first, source, f"has no effect here ({why})" + (f", nor have: {others}" if others else ""))


def _find_sections(part: Node, names: tuple[str, ...]) -> Iterator[tuple[Path, Node]]:
    """The mappings of these names in a part of a recipe, with their paths in it; "" is the part itself."""
    for name in names:
        section = part.value.get(name) if name else part
        if section is not None and section.is_mapping:
            yield (name,) if name else (), section


def _is_alias(key: str, value: Any, above: Path) -> bool:
    """Whether a key is another tool's name, standing where that tool would have it."""
    if key not in peers.ALIASES:
        return False
    if key not in peers.SAME:
        return True
    if key in peers.SWITCHES and peers.is_switched_off(value):
        return False
    place = str(above[0]) if above else ""
    at_home = place in ("", "train") or place == peers.ALIASES[key][0].partition(".")[0]
    return at_home and value is not None and (isinstance(value, str) or key not in peers.TEXT_ONLY)
