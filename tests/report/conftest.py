"""Sample results for the report's tests."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

_SPEC = importlib.util.spec_from_file_location("report_sample", Path(__file__).with_name("sample.py"))
assert _SPEC is not None
assert _SPEC.loader is not None
SAMPLE: ModuleType = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(SAMPLE)


@pytest.fixture
def report() -> dict[str, Any]:
    return SAMPLE.report()


@pytest.fixture
def free_text() -> dict[str, Any]:
    return SAMPLE.free_text()


@pytest.fixture
def probed() -> dict[str, Any]:
    return SAMPLE.probed()


@pytest.fixture
def compare() -> dict[str, Any]:
    return SAMPLE.compare()


@pytest.fixture
def unchanged(report: dict[str, Any]) -> dict[str, Any]:
    """Base against base: nothing moved, nothing flipped."""
    for task in report["tasks"]:
        task |= {"tuned": task["base"], "delta": 0.0, "low": 0.0, "high": 0.0, "flips": []}
        if task["p"] is not None:
            task |= {"p": 1.0, "won": 0, "lost": 0}
    zero = {"delta": 0.0, "low": 0.0, "high": 0.0}
    return {**report, "gain": {**zero, "n": 200}, "loss": {**zero, "worst": "sums"}}
