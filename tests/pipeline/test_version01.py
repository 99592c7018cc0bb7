"""Run directories that version 0.1 left: a finished one is read by every verb, a killed one goes on, others are named.

`version01/cut` was killed after step 10 of 40, `finished` was not; `older` is of an earlier 0.1 with other settings.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.data.row_store import RowFile
from holdfast.models.loading import LAB_DIRECTORY

RUNS = Path(__file__).parent / "version01"


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the directories, in which the commands are typed."""
    shutil.copytree(RUNS, tmp_path, dirs_exist_ok=True)
    settings = tmp_path / "finished" / "model" / "adapter_config.json"  # which names the base by its place
    settings.write_text(settings.read_text().replace("LABORATORY", str(LAB_DIRECTORY)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def type_command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_a_finished_run_is_known_shown_and_measured(runs: Path) -> None:
    before = (runs / "finished" / "model" / "adapter_model.safetensors").read_bytes()
    for words in (
        ("train", "run.yaml", "output=finished"),
        ("train", "finished"),
        ("report", "finished"),
        ("eval", "finished", "lab:sums", "--items", "2"),
        ("export", "finished", "exported"),
    ):
        result = type_command(*words)
        assert result.exit_code == 0, (words, result.output, result.exception)
        if words[0] == "train":
            assert "already finished" in result.output
    assert (runs / "finished" / "report.html").exists()
    assert (runs / "finished" / "model" / "adapter_model.safetensors").read_bytes() == before


def test_a_killed_run_goes_on_at_its_checkpoint(runs: Path) -> None:
    log = (runs / "cut" / "log.jsonl").read_text().splitlines()
    rows, samples = list(RowFile(runs / "cut" / "curated.jsonl")), (runs / "cut" / "samples.jsonl").read_bytes()
    result = type_command("train", "run.yaml", "output=cut")
    assert result.exit_code == 0, (result.output, result.exception)
    assert list(RowFile(runs / "cut" / "curated.jsonl")) == rows
    new_samples = (runs / "cut" / "samples.jsonl").read_bytes().removeprefix(samples).splitlines()
    assert all(b'"key": "eval/' in line for line in new_samples), "no answer to train on was sampled again"
    after = [json.loads(line) for line in (runs / "cut" / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in after if "loss" in entry] == list(range(1, 41))
    assert [json.loads(line) for line in log if json.loads(line)["step"] <= 10] == [e for e in after if e["step"] <= 10]
    assert json.loads((runs / "cut" / "report.json").read_text())["version"] > 1


def test_a_run_with_other_settings_is_refused_in_one_line(runs: Path) -> None:
    result = type_command("train", "run.yaml", "output=older")
    assert result.exit_code == 2, (result.output, result.exception)
    (line,) = [line for line in result.output.splitlines() if line.startswith("holdfast: ")]
    assert line.startswith("holdfast: older: holds another run")
    assert "judge.math_verify is null here and false there" in line
    assert line.endswith("which keeps the old run as older.old-1")


def test_runs_are_compared(runs: Path) -> None:
    for name in ("finished", "older"):
        shutil.copytree(runs / name, runs / f"of-{name}" / "s3ft-seed0")
    result = type_command("compare", "run.yaml", "-m", "s3ft", "--out", "of-finished")
    assert result.exit_code == 0, (result.output, result.exception)
    assert "of-finished/s3ft-seed0: already finished" in result.stderr
    (arm,) = json.loads((runs / "of-finished" / "compare.json").read_text())["runs"]
    tasks = json.loads((runs / "finished" / "report.json").read_text())["tasks"]
    scores = {task["name"]: task["tuned"] for task in tasks}
    assert arm["target"] == scores["test"], "what the old run measured"

    refused = type_command("compare", "run.yaml", "-m", "s3ft", "--out", "of-older")
    assert refused.exit_code == 2, (refused.output, refused.exception)
    assert refused.stderr.splitlines()[-1].startswith(
        "holdfast: of-older: holds another comparison, whose run s3ft-seed0 is a"
    )
    assert refused.stderr.endswith("or add --restart, which keeps the old ones as of-older.old-1\n")

    by_its_recipe = type_command("compare", "finished", "-m", "sft", "--steps", "1", "evaluate.items=1")
    assert by_its_recipe.exit_code == 0, (by_its_recipe.output, by_its_recipe.exception)
    assert "report: finished-compare/report.html" in by_its_recipe.stdout
