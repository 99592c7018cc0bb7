"""Imports run downward only, the axes never import each other, and nothing forbidden is used."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "holdfast"
AXES = {"curators", "objectives", "tuners", "optimizers", "inference"}
LEVELS = [
    {"errors", "method", "registry", "shorthand", "recipe", "recipe_file", "recipe_yaml", "recipe_text",
     "recipe_changes", "recipe_errors", "recipe_overrides", "recipe_peers", "recipe_template", "recipe_checks",
     "recipe_stages", "recipe_layers", "presets", "recipe_data", "ui", "memory", "quiet",
     "safe_text", "files"},
    {"data", "hub", "placement", "models", "model_files", "merging", "saving", "head", "body", "policy"},
    {"trainer", "sampling", "judges"},
    {"evaluation", "analysis", *AXES},
    {"report"},
    {"damage", "first_look", "folder", "readiness", "sources", "stages", "run", "run_results", "live_evaluation",
     "training_review", "staged",
     "compare", "comparability", "learning_rates", "check", "estimate", "export",
     "measure", "lab", "api"},
    {"cli"},
]  # fmt: skip
"""From the bottom up."""
ROOM_LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
FILES = sorted(p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or not p.name.startswith("__"))


def room_of(path: Path) -> str:
    parts = path.relative_to(SOURCE).parts
    return parts[0].removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Modules of holdfast imported at the top of a file, those for type checkers left out."""
    found = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("holdfast."):
            found.add(node.module.removeprefix("holdfast."))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("holdfast.") for a in node.names if a.name.startswith("holdfast.")}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_run_downward(path: Path) -> None:
    room = room_of(path)
    for module in imports(path):
        target = module.partition(".")[0]
        if module.endswith(".base"):
            continue  # contracts may be named anywhere
        assert ROOM_LEVEL[target] <= ROOM_LEVEL[room], f"{room} imports {module}, which is above it"
        assert not (room in AXES and target in AXES and room != target), f"{room} imports {module}"


FORBIDDEN = {
    "pickle": re.compile(r"^\s*(import|from) (pickle|dill|joblib|cloudpickle)\b|torch\.load\(", re.M),
    "trust_remote_code": re.compile(r"trust_remote_code\s*=\s*True"),
    "private imports": re.compile(r"^\s*from (torch|transformers|peft|accelerate|datasets|trl)[\w.]* import _", re.M),
    "bare except": re.compile(r"except\s*:|except Exception:\s*\n\s*pass"),
}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_forbidden(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for what, pattern in FORBIDDEN.items():
        assert not pattern.search(text), what
