"""A fresh directory with the module's recipe in it, for tests that type commands."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the test, with the module's `RECIPE` as `run.yaml` and a cache of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "run.yaml").write_text(request.module.RECIPE, encoding="utf-8")
    return tmp_path
