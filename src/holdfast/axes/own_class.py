"""Classes of the user's own: `package.module:Class`, or a name that an installed package gives one; and optimizers of
PyTorch and of other libraries, as `torch.optim.RAdam` or `torch.optim:RAdam`.

A package names its methods in its pyproject.toml:

    [project.entry-points."holdfast.methods"]
    my_loss = "my_package.my_module:MyLoss"
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from holdfast.axes.method import Method
from holdfast.core.source_hash import find_own_file
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError

GROUP = "holdfast.methods"
"""The entry points of packages that bring methods."""


def list_plugins() -> Mapping[str, tuple[str, ...]]:
    """Methods of installed packages: name to "module:Class", several where packages disagree."""
    return _read_entry_points(tuple(sys.path))


@cache
def _read_entry_points(path: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    out: dict[str, tuple[str, ...]] = {}
    for point in entry_points(group=GROUP):
        out[point.name] = tuple(dict.fromkeys((*out.get(point.name, ()), point.value)))
    return out


def load_class(name: str) -> type[Method]:
    """The class behind `package.module:Class` or the name of an installed package's method, imported now.

    A module is looked for as Python does, and then in the current directory. An optimizer class of PyTorch's kind gets
    the method that drives it.

    Raises:
        UserError: If there is no such module or class, importing fails, or it is no `Method`.
    """
    targets = list_plugins().get(name, (name,))
    if len(targets) > 1:
        raise UserError(f"{name}: is the name of {' and of '.join(targets)}; write the one that is meant")
    module, _, attribute = targets[0].partition(":") if ":" in targets[0] else targets[0].rpartition(".")
    candidate = getattr(import_own_module(name, module), attribute, None)
    if isinstance(candidate, type) and issubclass(candidate, Method):
        return candidate
    if _is_torch_optimizer(candidate):
        adopt = importlib.import_module("holdfast.methods.optimizers.by_path").adopt_optimizer
        return adopt(name, candidate)  # type: ignore[no-any-return]
    if candidate is None:
        there = [n for n, value in vars(sys.modules[module]).items() if isinstance(value, type)]
        raise UserError(f"{name} is not a Method class: {module} has no {attribute}{suggest_name(attribute, there)}")
    raise UserError(f"{name} is not a Method class; docs/add-a-method.md says how one is written")


def _is_torch_optimizer(candidate: object) -> bool:
    """Whether something is an optimizer class of PyTorch's kind; whoever defines one has imported torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(candidate, type) and issubclass(candidate, torch.optim.Optimizer)


def find_own_function(name: str) -> Path | None:
    """The file that `file.py:function` names; `None` for a function of a module."""
    file = Path(name.rpartition(":")[0])
    return file if file.suffix == ".py" else None


def find_own_source(name: str) -> Path | None:
    """The file of the user's own that defines a function or class; `None` where it is an installed package's.

    Raises:
        UserError: If there is none of that name.
    """
    return find_own_function(name) or find_own_file(load_object(name))


def load_function(name: str) -> Callable[..., Any]:
    """The function behind `package.module:function` or `file.py:function`, imported now.

    Raises:
        UserError: If there is no such file, module or function, or importing fails.
    """
    candidate = load_object(name)
    if not callable(candidate):
        raise UserError(f"{name} is not a function, but a {type(candidate).__name__}")
    return candidate  # type: ignore[no-any-return]


def load_object(name: str) -> Any:
    """What `package.module:name` or `file.py:name` stands for, imported now.

    Raises:
        UserError: If there is no such file, module or name, or importing fails.
    """
    module, _, attribute = name.rpartition(":")
    if not module or not attribute.isidentifier():
        raise UserError(f"{name} must be module:function or file.py:function")
    file = find_own_function(name)
    if file is not None:
        if not file.is_file():
            raise UserError(f"{name}: {file} is not a file; correct the path")
        folder, module = str(file.resolve().parent), file.stem
        if folder not in sys.path:
            sys.path.append(folder)
            importlib.invalidate_caches()
    candidate = getattr(import_own_module(name, module), attribute, None)
    if candidate is None:
        there = [n for n, value in vars(sys.modules[module]).items() if callable(value) and not n.startswith("_")]
        raise UserError(f"{name} is not a function: {module} has no {attribute}{suggest_name(attribute, there)}")
    return candidate


def import_own_module(name: str, module: str) -> object:
    """The module that `name` begins with, looked for as Python does, and then in the current directory.

    Raises:
        UserError: If there is none, or importing it fails.
    """
    top = module.partition(".")[0]
    if top not in sys.modules and not (top and _is_there(top)):
        raise UserError(f"{name}: there is no module {module}; is its folder on PYTHONPATH?")
    try:
        return importlib.import_module(module)
    except Exception as error:  # whatever the user's own code raises
        last = traceback.extract_tb(error.__traceback__)[-1]
        at = (error.filename, error.lineno) if isinstance(error, SyntaxError) else (last.filename, last.lineno)
        what = f"{type(error).__name__}: {error.msg if isinstance(error, SyntaxError) else error}"
        raise UserError(f"{name}: importing {module} failed: {what} ({at[0]}:{at[1]})") from error


def _is_there(top: str) -> bool:
    """Whether there is a module; the current directory is made a place to import from where it has it."""
    if importlib.util.find_spec(top) is None and os.getcwd() not in sys.path:
        if not any(os.path.exists(os.path.join(os.getcwd(), place)) for place in (f"{top}.py", top)):
            return False
        sys.path.append(os.getcwd())
        importlib.invalidate_caches()
    return importlib.util.find_spec(top) is not None
