"""Stages through the command line, as a user types them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {limit: 16}
train: {max_steps: 1, batch_tokens: 256, precision: fp32}
sampling: {max_tokens: 16}
evaluate: {target: lab:sums, keep: [lab:strings], items: 4, live_items: 0, every: 0, max_tokens: 16}
stages:
  - method: sft
    data: {train: lab:sums}
  - name: prefer
    method: dpo
    data: {train: lab:strings}
output: out
"""


pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def test_train_then_everything_a_run_is_good_for(place: Path) -> None:
    done = run("train", "run.yaml", "stages.prefer.lr=1e-4")
    lines = done.stdout.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("after stage"))
    assert lines[head + 1].split()[:5] == ["sft", "sft", "base", "16", "1"]
    assert lines[head + 2].split()[:5] == ["prefer", "dpo", "stage:sft", "16", "1"]
    assert "stage 2 of 2, prefer" in done.stderr
    assert "already finished" in run("train", "run.yaml", "stages.prefer.lr=1e-4").stderr
    assert "already finished" in run("train", "out").stderr, "its resolved.yaml is the same recipe"
    (place / "out" / "report.html").unlink()
    assert "after stage" in run("report", "out", "out/stages/2-prefer").stdout
    assert 'href="stages/2-prefer/report.html"' in (place / "out" / "report.html").read_text(encoding="utf-8")
    assert run("eval", "out", "lab:strings", "--items", "4", "--against", "out/stages/2-prefer", "--out", "same")
    task = json.loads((place / "same" / "report.json").read_text(encoding="utf-8"))["tasks"][0]
    assert (task["delta"], task["won"], task["lost"]) == (0, 0, 0)
    run("export", "out", "half", "--dial", "0.5")
    assert "holds another run" in run("train", "run.yaml", "stages.prefer.lr=1", code=2).stderr


def test_check_describes_each_stage(place: Path) -> None:
    text = run("check", "run.yaml").stdout
    assert "Stage 1: sft (method sft, data lab:sums, from base)" in text
    assert "Stage 2: prefer (method dpo, data lab:strings, from stage:sft)" in text
    assert text.count("\nPlan\n") == 2
    assert not (place / "out").exists()
    found = json.loads(run("check", "run.yaml", "--json").stdout.splitlines()[-1])
    assert [stage["name"] for stage in found["stages"]] == ["sft", "prefer"]
    assert all(stage["plan"]["steps"] == 1 for stage in found["stages"])
    pairs = run("check", "run.yaml", "method=zephyr", "stages=", "data.train=lab:sums").stdout
    assert "a curator makes pairs of them" in pairs


def test_wrong_stages_are_one_line_and_leave_nothing(place: Path) -> None:
    for setting, text in (
        ("stages.prefer.model=stage:stf", "command line: stages.1.model cannot be stage:stf: stf is not an earlier"),
        ("stages.perfer.lr=1", "command line: stages.perfer is not a stage; did you mean prefer?"),
        ("stages.1.data.train=none.jsonl", "none.jsonl"),
        ("stages.1.data.train=lab:sumz", "did you mean sums?"),
    ):
        said = run("train", "run.yaml", setting, code=2).stderr
        assert text in said
        assert sum(line.startswith("holdfast:") for line in said.splitlines()) == 1
        assert not (place / "out").exists()
    assert "OUTPUT/stages/*/curated.jsonl" in run("curate", "run.yaml", code=2).stderr


def test_presets_are_listed_shown_and_compared() -> None:
    listed = run("list", "presets").stdout
    assert "zephyr" in listed
    assert "2310.16944" in listed
    page = run("show", "zephyr").stdout
    assert "method: zephyr" in page
    assert "- name: dpo" in page
    assert "stages.name" in run("show", "stages").stdout
    assert "did you mean zephyr?" in run("compare", "run.yaml", "--methods", "sft,zephir", code=2).stderr
    run("init", "new.yaml", "--method", "zephyr", "--data", "lab:sums", "--model", "lab-small")
    assert "Stage 2: dpo" in run("check", "new.yaml", "data.limit=8", "evaluate.items=4").stdout
