"""`holdfast export` that is killed or finds its result wrong: nothing blocks the next try, nothing is left over."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.pipeline import export as exporting
from processes import Process

RECIPE = """\
model: lab-small
tuner: {name: lora, r: 2}
data: {train: lab:sums, limit: 8}
train: {max_steps: 1, batch_tokens: 128, precision: fp32}
evaluate: {keep: [], items: 2, live_items: 0, max_tokens: 4}
output: out
"""


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def killed(place: Path, phase: str) -> None:
    """Start the export in a process of its own and SIGKILL it at the beginning of a phase."""
    process = Process(["-m", "holdfast", "export", "out", "plain", "--merge", "--json"], cwd=place)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("{") and json.loads(line).get("name") == phase:
            break
    process.kill()
    process.communicate()
    assert process.returncode != 0


def beside(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith((".", "plain", "link")))


@pytest.mark.slow
def test_export_again(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", "run.yaml")
    for phase in ("write", "verify"):
        killed(place, phase)
        assert not (place / "plain").exists(), "what is not verified has not its name"
    with monkeypatch.context() as patch:
        patch.setattr(exporting, "TOLERANCE", -1.0)
        assert "plain: not written" in run("export", "out", "plain", "--merge", code=1)
    assert "plain" not in beside(place)
    assert "verified" in run("export", "out", "plain", "--merge")
    assert beside(place) == ["plain"], "what the killed ones left is swept"
    assert "not empty" in run("export", "out", "plain", code=2)
    (place / "elsewhere").mkdir()
    os.symlink(place / "elsewhere", place / "link")
    run("export", "out", "link")
    assert (place / "link").is_symlink()
    assert (place / "elsewhere" / "adapter_model.safetensors").exists()
    os.symlink(place / "nowhere", place / "link2")
    assert "is a link to" in run("export", "out", "link2", code=2)
