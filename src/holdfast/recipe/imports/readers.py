"""Other tools' files as their settings: YAML or JSON, shell scripts, and Python scripts or notebooks (never run)."""

from __future__ import annotations

from pathlib import Path

from holdfast.errors import UserError
from holdfast.recipe import peers
from holdfast.recipe.imports.commands import read_script
from holdfast.recipe.imports.foreign import ForeignRecipe, Setting
from holdfast.recipe.imports.programs import read_notebook, read_program
from holdfast.recipe.tree import Node, Problems
from holdfast.recipe.yaml_reader import LARGEST, parse_yaml, read_text

LARGEST_NOTEBOOK = 64 * LARGEST
"""Bytes: notebooks hold the output of their cells, pictures too."""
SUFFIXES = (".yaml", ".yml", ".json", ".sh", ".txt", ".py", ".ipynb")


def read_foreign(file: Path) -> ForeignRecipe:
    """The settings in a file of another tool; what kind of file it is, its name says.

    Raises:
        UserError: If there is no such file, it cannot be read as what its name says, or nothing in it trains.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a YAML file, a shell script, a Python script or a notebook")
    if file.suffix not in SUFFIXES:
        raise UserError(f"{file}: must end in one of {', '.join(SUFFIXES)}, which says how it is read")
    if file.suffix == ".ipynb":
        return read_notebook(read_text(file, LARGEST_NOTEBOOK), str(file))
    if file.suffix == ".py":
        return read_program(read_text(file), str(file))
    if file.suffix in (".sh", ".txt"):
        return read_script(read_text(file), str(file), read_settings)
    return read_settings(file)


def read_settings(file: Path, trainer: str = "") -> ForeignRecipe:
    """The settings of a YAML or JSON file; whose they are is seen from their names.

    Args:
        trainer: Whose they are, where the command says it that reads the file.
    Raises:
        UserError: If it is not a mapping, or its names are those of no tool known here.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file")
    tree, problems = parse_yaml(read_text(file), str(file))
    if not tree.is_mapping:
        raise UserError(f"{file}: is no mapping of settings")
    _refuse_twice(problems, tree)
    foreign = ForeignRecipe(trainer or _find_tool(tree, file))
    foreign.settings = {
        str(key).replace("-", "_"): Setting(node.plain_data(), node.source) for key, node in tree.value.items()
    }
    return foreign


def _refuse_twice(problems: Problems, tree: Node) -> None:
    if problems:
        path, text = problems[0]
        raise UserError(f"{tree.source_around(path)}: {path[0]} {text}")


def _find_tool(tree: Node, file: Path) -> str:
    """Whose names the keys of a mapping are.

    Raises:
        UserError: If it is a recipe of ours, or nobody's known here.
    """
    keys = set(tree.value)
    if tree.value.get("data") is not None and tree.value["data"].is_mapping and "model" in keys:
        raise UserError(f"{file}: is a recipe of holdfast already; holdfast check {file}")
    if tree.value.get("datasets") is not None and tree.value["datasets"].is_list:
        return "Axolotl"
    counts = {
        "LLaMA-Factory": len(keys & peers.LLAMA_FACTORY),
        "Axolotl": len(keys & peers.AXOLOTL),
        "TRL": len(keys & peers.TRAINERS),
    }
    tool = max(counts, key=counts.__getitem__)
    if counts[tool] < 2:
        raise UserError(
            f"{file}: its settings are those of no tool known here (LLaMA-Factory, Axolotl, TRL); "
            f"it has {', '.join(sorted(map(str, keys))[:5])}"
        )
    return tool
