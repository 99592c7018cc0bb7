"""Mappings laid over each other, as a recipe's stages are, with a record of where each value came from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from holdfast.axes.axis import AXES
from holdfast.recipe.shorthand import Filled, Path

CHOSEN = tuple(axis.key for axis in AXES if not axis.several)
"""Keys that hold one method: another one's knobs are not laid over it."""


@dataclass(slots=True)
class Pile:
    """Mappings laid over each other.

    Args:
        data: The result.
        came: From a path in it to where the value stands in the user's recipe, or to the reason it has. What lies
            deeper in the same value is not listed.
    """

    data: dict[str, Any] = field(default_factory=dict)
    came: dict[Path, Path | str] = field(default_factory=dict)

    def lay(self, layer: Filled, where: Callable[[Path], Path | str]) -> None:
        """Put a layer on top. `where`: its paths to where they stand; what is in its origins has that reason."""
        self._over(self.data, layer.data, (), lambda path: layer.origins.get(path) or where(path), layer.origins)

    def _over(
        self, below: dict[str, Any], above: Mapping[str, Any], at: Path, where: Callable[[Path], Path | str],
        origins: Mapping[Path, str],
    ) -> None:  # fmt: skip
        for key, value in above.items():
            path, old = (*at, key), below.get(key)
            if path[0] in CHOSEN and len(path) == 1:
                value, old = _mapping(value), _mapping(old)
                if _other(value, old):
                    old = None
            if path == ("curate",) and isinstance(value, dict) and (only := _only(old)) and not _other(value, only):
                below[key] = [{**only, **value}]
                self.came |= {("curate", 0, knob): where((*path, knob)) for knob in value}
                continue
            if isinstance(value, dict) and isinstance(old, dict):
                below[key] = dict(old)
                self._over(below[key], value, path, where, origins)
                continue
            below[key] = deepcopy(value)
            inside = {inner: reason for inner, reason in origins.items() if inner[: len(path)] == path}
            self.came = {p: s for p, s in self.came.items() if p[: len(path)] != path}
            self.came |= {path: where(path), **inside}

    def stands(self, path: Path, otherwise: Path) -> Path:
        """Where the value at `path` was written; what was not, would be at `otherwise`."""
        for n in range(len(path), 0, -1):
            found = self.came.get(path[:n])
            if found is not None:
                return (*otherwise, *path) if isinstance(found, str) else (*found, *path[n:])
        return (*otherwise, *path)


def _mapping(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


def _only(curators: Any) -> dict[str, Any] | None:
    """The only curator of a list."""
    one = isinstance(curators, list) and len(curators) == 1 and isinstance(curators[0], dict)
    return curators[0] if one else None


def _other(value: Any, old: Any) -> bool:
    """Whether two choices name different methods."""
    both = isinstance(value, dict) and isinstance(old, dict)
    return both and value.get("name", old.get("name")) != old.get("name")
