"""Law 8: every recipe field changes something. A field that no code reads fails here.

The search is static: `S.f` counts as reading field f of section S when `S` is an attribute or a name called like its
section (`recipe.train.epochs`, `train.epochs`), a name bound to it (`t = recipe.train`), or a parameter annotated
with it.
"""

from __future__ import annotations

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import holdfast
from holdfast.axes.axis import BY_PLURAL
from holdfast.axes.method import Method
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.recipe.data_section import RecipeSection
from holdfast.recipe.messages import section_of
from holdfast.recipe.schema import Common, Recipe, Stage

SOURCE = Path(holdfast.__file__).parent
SCHEMA_MODULES = (
    "schema",
    "data_section",
    "online_section",
    "loader",
    "messages",
    "template",
    "stages",
    "tree",
    "aliases",
)
SCHEMA = {f"recipe/{name}.py" for name in (*SCHEMA_MODULES, "shorthand")}


def sections() -> list[tuple[str, type[RecipeSection]]]:
    """`(what its values are called, class)` of every section."""
    out = [("recipe", Recipe)]
    for _, cls in out:
        for field, info in cls.model_fields.items():
            inner = section_of(info.annotation)
            if inner is not None and issubclass(inner, RecipeSection):
                out.append((field, inner))
    return out


class Accesses:
    """What a module reads from what: attribute accesses, names bound to attributes, annotated parameters."""

    def __init__(self, source: str) -> None:
        self.read: list[tuple[str, str]] = []
        self.bound: list[tuple[str, str]] = []
        self.annotated: list[tuple[str, str]] = []
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.arg) and node.annotation is not None:
                self.annotated.append((node.arg, ast.unparse(node.annotation)))
            elif isinstance(node, ast.Assign):
                for target in node.targets:
                    self._bind(target, node.value)
            elif isinstance(node, ast.Attribute):
                self._read(node.value, node.attr)
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
                self._read(node.args[0], getattr(node.args[1], "value", ""))

    def _read(self, base: ast.expr, attribute: str) -> None:
        if isinstance(base, (ast.Name, ast.Attribute)):
            self.read.append((base.id if isinstance(base, ast.Name) else base.attr, attribute))

    def _bind(self, target: ast.expr, value: ast.expr) -> None:
        if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
            for one, other in zip(target.elts, value.elts, strict=False):
                self._bind(one, other)
        elif isinstance(target, ast.Name) and isinstance(value, ast.Attribute):
            self.bound.append((target.id, value.attr))

    def of(self, value: str, annotation: str) -> set[str]:
        """Attributes read from anything called `value`, bound to a `.value`, or annotated with `annotation`."""
        names = {value, f"_{value}"}
        names |= {name for name, kind in self.annotated if re.search(rf"\b{annotation}\b", kind)}
        names |= {name for name, attribute in self.bound if attribute == value}
        return {attribute for base, attribute in self.read if base in names}


@cache
def accesses(path: Path) -> Accesses:
    return Accesses(path.read_text(encoding="utf-8"))


@cache
def modules() -> list[Accesses]:
    return [accesses(path) for path in SOURCE.rglob("*.py") if path.relative_to(SOURCE).as_posix() not in SCHEMA]


def unread(value: str, cls: type[RecipeSection]) -> list[str]:
    seen: set[str] = set().union(*(module.of(value, cls.__name__) for module in modules()))
    # A stage becomes a recipe before it is run, and is read as one.
    read_elsewhere = set(Common.model_fields) if cls is Stage else set()
    return [f"{value}.{field}" for field in cls.model_fields if field not in seen | read_elsewhere]


@pytest.mark.parametrize(("value", "cls"), sections(), ids=lambda v: v if isinstance(v, str) else "")
def test_every_setting_is_read(value: str, cls: type[RecipeSection]) -> None:
    # What a recipe-level shorthand stands for is read while the recipe is expanded.
    assert [name for name in unread(value, cls) if name != "recipe.method"] == []


METHODS = [(axis, name) for axis, names in REGISTRY.items() for name in names]


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_every_knob_is_read(axis: str, name: str) -> None:
    cls = find_method(axis, name)
    homes = [Path(inspect.getfile(c)) for c in cls.__mro__ if issubclass(c, Method) and c is not Method]
    called = BY_PLURAL[axis].noun
    seen = set().union(
        *(accesses(home).of("self", cls.__name__) for home in homes),
        *(module.of(called, cls.__name__) for module in modules()),
    )
    assert [knob for knob in cls.model_fields if knob not in seen] == []


def test_the_search_can_fail() -> None:
    module = Accesses("def f(recipe):\n    t = recipe.train\n    return t.epochs + recipe.train.seed + other.max_steps")
    assert module.of("train", "Train") == {"epochs", "seed"}
    assert Accesses("def f(settings: Train | None):\n    settings.max_length").of("train", "Train") == {"max_length"}
    assert Accesses("def f(settings: TrainResult):\n    settings.seed").of("train", "Train") == set()
