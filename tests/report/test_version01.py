"""Reports and measurements that version 0.1 wrote are still read; it told text as 100 / perplexity, in points."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.evaluation.summary import read_run, summarise_run

RUN = Path(__file__).parent / "version01"


def test_its_report_is_shown_in_its_own_units(tmp_path: Path) -> None:
    shutil.copytree(RUN, tmp_path / "run")
    result = CliRunner().invoke(app, ["report", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    assert "prose" in result.output
    assert "bits" not in result.output
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "its score is 100 / perplexity" in page
    assert (tmp_path / "run" / "README.md").exists()


def test_its_measurements_are_read_in_bits_per_byte() -> None:
    run = read_run(RUN)
    found = summarise_run(run.tasks, run.base, run.tuned)
    (prose,) = (task for task in found["tasks"] if task["name"] == "prose")
    size = sum(len(item.prompt.encode()) for item in run.base["prose"])
    nats = -sum(item.score for item in run.base["prose"])
    assert prose["base"] == pytest.approx(nats / 0.6931471805599453 / size)
    assert prose["unit"] == "bits per byte"
    assert found["gain"]["unit"] == "points"
    assert found["loss"] is None
    assert found["text"]["worst"] == "prose"
