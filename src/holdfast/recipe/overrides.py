"""Step 2 of reading a recipe: `a.b=value` texts of the command line are put into its tree."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from holdfast.errors import UserError
from holdfast.recipe import yaml_reader
from holdfast.recipe.stages import stage_key
from holdfast.recipe.tree import Node, Path, Problems, format_path, spell_out_names

COMMAND_LINE = "command line"


def apply_overrides(tree: Node, overrides: Sequence[str], problems: Problems) -> None:
    """Put `a.b=value` texts into a recipe; its tree is changed in place.

    Raises:
        UserError: If one is no setting with a value, or there is no such place in the recipe.
    """
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise UserError(f"{COMMAND_LINE}: {text} is not setting=value, as in optimizer.learning_rate=3e-5")
        path: Path = tuple(int(part) if part.isdigit() else part for part in key.strip().split("."))
        if path[0] == "stages" and len(path) > 1:
            try:
                path = ("stages", stage_key(tree.plain_data(), path[1]), *path[2:])
            except UserError as error:
                raise UserError(f"{COMMAND_LINE}: {error}") from None
        new_tree, wrong = yaml_reader.parse_yaml(value, f"{COMMAND_LINE}: {key}")
        problems += [(path + where, what) for where, what in wrong]
        put_value(tree, path, new_tree.plain_data(), COMMAND_LINE)


def put_value(tree: Node, path: Path, value: Any, source: str) -> None:
    """Put a value at a path of a recipe, in mappings made where there was nothing or only a name.

    Raises:
        UserError: If the path leads into a value that has no parts, or behind the end of a list.
    """
    spell_out_names(tree)
    here = tree
    for n, step in enumerate(path):
        if here.is_list and not isinstance(step, int) and len(here.value) == 1:
            here = here.value[0]  # curate.paraphrase=true, the list holding one curator
        if here.is_list and (not isinstance(step, int) or step > len(here.value)):
            text = f"{step} is not one of its {len(here.value)} items; count from 0"
            raise UserError(f"{COMMAND_LINE}: {format_path(path)}: {text}")
        if here.value is None:
            here.value = {}
        if not here.is_mapping and not here.is_list:
            text = f"is not a setting: {here.plain_data()!r} holds no {step}"
            raise UserError(f"{COMMAND_LINE}: {format_path(path)} {text}")
        key: Any = step if here.is_list else str(step)
        place = (*(here.written or ()), key)
        inner = Node.from_data(value, source, place) if n == len(path) - 1 else here.inner_nodes().get(key)
        inner = Node(None, here.source, place) if inner is None else inner
        if here.is_list:
            here.value[key : key + 1] = [inner]
        else:
            here.value[key] = inner
        here = inner
