"""The space of a search: which settings of a recipe vary, and over what."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

KINDS = ("log", "range", "int")
"""How numbers vary: evenly in their logarithm, evenly, in whole numbers."""
MEASURED = ("evaluate", "output", "track", "device", "search", "stages", "model", "train.stop_at", "data.test")
"""Settings that a search cannot vary: what trials are measured by, where they are, and what the search does itself."""


@dataclass(frozen=True, slots=True)
class Dimension:
    """A setting that varies.

    Args:
        key: Dotted, as in a recipe.
        kind: "choice", or one of `KINDS`.
        choices: The values of a choice, as a recipe has them.
        low, high: The ends of the other kinds, both included.
    """

    key: str
    kind: str
    choices: tuple[Any, ...] = ()
    low: float = 0.0
    high: float = 0.0

    def pick_value(self, share: float) -> Any:
        """The value at a share in [0, 1) of the way through."""
        if self.kind == "choice":
            return self.choices[min(len(self.choices) - 1, int(share * len(self.choices)))]
        if self.kind == "log":
            return math.exp(math.log(self.low) + share * (math.log(self.high) - math.log(self.low)))
        if self.kind == "int":
            return int(self.low) + min(int(self.high - self.low), int(share * (self.high - self.low + 1)))
        return self.low + share * (self.high - self.low)

    def list_corners(self) -> list[Any]:
        """The values that must be possible for all to be: every choice, both ends of a range."""
        if self.kind == "choice":
            return list(self.choices)
        return [int(self.low), int(self.high)] if self.kind == "int" else [self.low, self.high]


def format_value(value: Any) -> str:
    """A value as it stands behind `setting=` on the command line."""
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value)


def parse_space(space: Mapping[str, Any]) -> tuple[Dimension, ...]:
    """The dimensions of a recipe's `search.space`, in order.

    Raises:
        ValueError: With the key, what is wrong and what to write.
    """
    return tuple(_parse_dimension(key, spec) for key, spec in _flatten_keys(space).items())


def _flatten_keys(space: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Dotted keys also where they were written as mappings in each other; of one given twice the later."""
    out: dict[str, Any] = {}
    for key, spec in space.items():
        if isinstance(spec, Mapping) and spec and not set(spec) & set(KINDS):
            out |= _flatten_keys(spec, f"{before}{key}.")
        else:
            out[f"{before}{key}"] = spec
    return out


def _parse_dimension(key: str, spec: Any) -> Dimension:
    if measured_by := [name for name in MEASURED if key == name or key.startswith(f"{name}.")]:
        raise ValueError(f"must not vary {key}: trials that differ in {measured_by[0]} cannot be compared")
    if isinstance(spec, (list, tuple)):
        if not spec:
            raise ValueError(f"holds no value for {key}; give some, as in {key}: [a, b]")
        if len({json.dumps(value, sort_keys=True) for value in spec}) < len(spec):
            raise ValueError(f"holds a value of {key} twice; remove one")
        return Dimension(key, "choice", tuple(spec))
    if not isinstance(spec, Mapping) or len(spec) != 1 or next(iter(spec)) not in KINDS:
        raise ValueError(
            f"must say over what {key} varies: a list of values, {{log: [low, high]}}, {{range: [low, high]}} or "
            f"{{int: [low, high]}}, not {spec!r}"
        )
    kind, ends = next(iter(spec.items()))
    numbers = isinstance(ends, (list, tuple)) and len(ends) == 2
    numbers = numbers and all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
    if not numbers or not all(map(math.isfinite, ends)) or ends[0] >= ends[1]:
        raise ValueError(f"must have two numbers for {key}, the smaller first, not {ends!r}")
    if kind == "log" and ends[0] <= 0:
        raise ValueError(f"must have ends above 0 for {key}, which varies by its logarithm, not {ends!r}")
    if kind == "int" and any(end != int(end) for end in ends):
        raise ValueError(f"must have whole numbers for {key}, not {ends!r}")
    return Dimension(key, kind, low=ends[0], high=ends[1])
