"""A directory with runs, and the board over it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from board_runs import EVIL, open_client, write_run, write_unfinished

SLEEPER = """
import json, signal, sys, time
print(json.dumps({"event": "line", "text": "words: " + " ".join(sys.argv[1:])}), flush=True)
def stop(*_):
    print('{"event": "error", "text": "interrupted", "code": 130}', flush=True)
    sys.exit(130)
signal.signal(signal.SIGTERM, stop)
time.sleep(60)
"""


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two finished runs, one that was stopped, one that failed: written once, since copying is quicker."""
    root = tmp_path_factory.mktemp("board") / "place"
    write_run(root / "runs" / "one", "2026-01-01T00:00:00+00:00", "1110000000")
    write_run(root / "runs" / "two", "2026-01-02T00:00:00+00:00", "1111111110")
    write_unfinished(root / "runs" / "going")
    broken = {"time": 4.0, "event": "run_interrupted", "error": "TrainingDiverged", "text": f"loss is nan {EVIL}"}
    write_unfinished(root / "runs" / "broken", broken)
    return root


@pytest.fixture
def place(written: Path, tmp_path: Path) -> Path:
    """A copy of the runs."""
    return Path(shutil.copytree(written, tmp_path / "place"))


@pytest.fixture
def client(place: Path) -> TestClient:
    """A browser on this machine."""
    return open_client(place)


@pytest.fixture
def sleeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A program in place of ours, which says its words and waits for Ctrl-C: ours takes seconds to begin."""
    package = tmp_path / "other" / "holdfast"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(SLEEPER)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    return package
