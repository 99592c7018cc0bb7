"""Law 9: every method has a page with its paper, a row in the docs, an exact test, a reproduction; files stay small."""

from __future__ import annotations

import ast
import importlib.util
import inspect
from pathlib import Path

import pytest

from holdfast.axes.axis import METHOD_AXES
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.lab.reproduce import CLAIMS, claim_of

ROOT = Path(__file__).parent.parent
AXES = tuple(axis.plural for axis in METHOD_AXES.values())
METHODS = [(axis, name) for axis in AXES for name in REGISTRY[axis]]
BASELINES = {"gold", "sft", "full", "adamw", "sgd"}
"""What every reproduction is compared with; it has none of its own."""
SOURCES = sorted((ROOT / "src" / "holdfast").rglob("*.py"))


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_has_a_page(axis: str, name: str) -> None:
    method = find_method(axis, name)
    assert method.summary_line()
    assert len(method.reference_page().splitlines()) > 3
    assert name == "gold" or any(c.isdigit() for c in method.paper), "the paper's year and number are missing"
    for knob, field in method.model_fields.items():
        assert field.description, f"{knob} is not described"


def test_the_docs_table_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("methods_page", ROOT / "docs" / "methods.py")
    assert spec is not None
    assert spec.loader is not None
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert (ROOT / "docs" / "methods.md").read_text(encoding="utf-8") == page.table()


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_is_tested_and_reproduced(axis: str, name: str) -> None:
    tests = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "tests" / "methods" / axis).glob("test_*.py"))
    assert find_method(axis, name).__name__ in tests
    if name not in BASELINES:
        claim = claim_of(name)
        assert any(c.isdigit() for c in claim.paper)
        assert claim.figures
        assert getattr(claim, "arms", None) or claim.measure


def test_no_method_inherits_from_another() -> None:
    """A change in one paper must not change another; what they share stands in a base that is no method."""
    methods = {find_method(axis, name) for axis, name in METHODS}
    assert not {m.__name__: base.__name__ for m in methods for base in m.__mro__[1:] if base in methods}


def test_reproductions_are_of_methods() -> None:
    others = {*REGISTRY["presets"], *REGISTRY["analyses"]}
    assert {name.partition("-")[0] for name in CLAIMS} <= {name for _, name in METHODS} | others


@pytest.mark.parametrize(("axis", "name"), METHODS)
def test_a_method_file_is_small(axis: str, name: str) -> None:
    lines = Path(inspect.getfile(find_method(axis, name))).read_text(encoding="utf-8").count("\n")
    assert lines <= 160


def test_files_and_functions_stay_small() -> None:
    long_files = {str(p): n for p in SOURCES if (n := p.read_text(encoding="utf-8").count("\n")) > 440}
    assert not long_files
    long_functions = [
        f"{path.name}:{node.lineno} {node.name}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and _body(node) > 45
    ]
    assert not long_functions


def _body(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring."""
    first = node.body[1] if ast.get_docstring(node) and len(node.body) > 1 else node.body[0]
    return (node.end_lineno or 0) - first.lineno + 1
