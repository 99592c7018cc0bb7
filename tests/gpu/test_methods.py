"""What `holdfast.testing` asks of objectives, tuners and optimizers, of every registered one on the accelerator.

The same functions hold them to it on the CPU in the suites of `tests/methods`. A run that was interrupted ends bit for
bit as one that was not: with `train.deterministic`, which the suites' recipes set.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import card
from holdfast.axes.method import Method
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.testing import objectives, optimizers, tuners
from holdfast.testing.examples import tiny_model

NEEDED: dict[str, dict[str, Any]] = {"tis_dpo": {"estimate": "ones"}}
"""Knobs that must be given."""
CHECKS: dict[str, tuple[Callable[..., None], ...]] = {
    "objectives": (*objectives.CHECKS, partial(objectives.check_micro_batches, kind="gemma2")),
    "optimizers": optimizers.CHECKS,
    "tuners": tuners.CHECKS,
}
CASES = [(axis, name, check) for axis, checks in CHECKS.items() for name in sorted(REGISTRY[axis]) for check in checks]
CHEAP = [
    ("objectives", "dpo", objectives.check_micro_batches),
    ("optimizers", "adamw", optimizers.check_state),
]
"""Run on the CPU too, so that the bodies do not rot where there is no accelerator."""


def describe(value: Any) -> str:
    """The part of a test's name that a parameter gives it."""
    if isinstance(value, partial):
        return f"{value.func.__name__}-{value.keywords['kind']}"
    return getattr(value, "__name__", str(value))


def make_method(axis: str, name: str) -> Method:
    """A method with its defaults, and those knobs that have none."""
    return find_method(axis, name)(**NEEDED.get(name, {}))


@pytest.mark.gpu
@pytest.mark.parametrize(("axis", "name", "check"), CASES, ids=describe)
def test_keeps_its_promises_on_the_accelerator(
    axis: str, name: str, check: Callable[..., None], tmp_path: Path
) -> None:
    assert tiny_model().device.type != "cpu"
    check(make_method(axis, name), tmp_path)


@pytest.mark.parametrize(("axis", "name", "check"), CHEAP, ids=describe)
def test_the_same_bodies_run_on_the_cpu(axis: str, name: str, check: Callable[..., None], tmp_path: Path) -> None:
    assert tiny_model().device.type == "cpu"
    check(make_method(axis, name), tmp_path)


@pytest.mark.parametrize(("axis", "name", "check"), CHEAP, ids=describe)
def test_the_same_bodies_put_everything_on_the_device(
    axis: str, name: str, check: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a card that refuses to meet tensors of the CPU; an accelerator would find it out only in `make test-gpu`."""
    monkeypatch.setenv("HOLDFAST_DEVICE", card.NAME)
    with card.card() as counter:
        check(make_method(axis, name), tmp_path)
    assert counter.counts["card product"] > 0
    assert counter.counts["cpu product"] == 0
