"""The contract of a preset: several runs, one after another, by one name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from holdfast.axes.method import Method


class Preset(Method):
    """Stages by one name: `method: zephyr`. What a recipe says, for all stages or for one of them, goes before."""

    stages: ClassVar[tuple[Mapping[str, Any], ...]] = ()
    """Each as a recipe would list it, with its name."""

    rates: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """Learning rates of stages: of base weights, of an adapter. Laboratory models keep theirs."""
