"""What a run says of the rows it left out: overlaps with what is measured by default, and why each row went."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.skills import load_skill

runner = CliRunner()
RECIPE = """\
model: lab-small
data: {train: train.jsonl, test: test.jsonl}
judge: {name: lab, skill: strings}
curate: [{name: dedup, near: null}, {name: filter, max_words: 4}]
train: {max_steps: 2}
evaluate: {items: 8, live_items: 0, max_tokens: 8, keep: [none]}
output: run
"""


def run(*arguments: str, code: int = 0):
    done = runner.invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


@pytest.fixture
def rows(place: Path) -> Path:
    """Training rows of which two are measured and one stands twice."""
    train = load_skill("strings").generate_rows(30, "train", 0, style="gold")
    test = load_skill("strings").generate_rows(8, "test", 7, style="gold")
    lines = [row.to_line() for row in (*train, train[4], *test[:2])]
    (place / "train.jsonl").write_text("".join(lines))
    (place / "test.jsonl").write_text("".join(row.to_line() for row in test))
    return place


def test_every_run_leaves_out_what_is_measured_and_says_why(rows: Path) -> None:
    said = run("check", "run.yaml").output
    assert "train.jsonl: 2 of 33 rows are left out: each asks a question of strings, which is measured" in said
    done = run("curate", "run.yaml", "--explain")
    assert "decontaminate: 2 left out: asks a question of strings" in done.output
    assert "dedup: 1 left out: duplicate" in done.output
    lines = [json.loads(line) for line in (rows / "run/explained.jsonl").read_text().splitlines()]
    assert [line["place"] for line in lines] == [f"train.jsonl:{number}" for number in range(1, 34)]
    assert [line["kept"] for line in lines].count(False) == sum(
        entry["rows"] for entry in json.loads((rows / "run/data.json").read_text())["dropped"]
    )
    assert lines[30]["decisions"] == [{"curator": "dedup", "reason": "duplicate: of train.jsonl:5"}]
    assert lines[32]["decisions"][0]["reason"].startswith("asks a question of strings: that of item test.jsonl:2")
    kept = next(line for line in lines if line["kept"])
    assert [each["curator"] for each in kept["decisions"]] == ["dedup", "filter"]

    run("train", "run.yaml", "-q")
    report = json.loads((rows / "run/report.json").read_text())
    assert report["curation"]["decontaminated"] is True
    by_reason = {entry["reason"]: entry["rows"] for entry in report["curation"]["dropped"]}
    assert by_reason["asks a question of strings"] == 2
    page = (rows / "run/report.html").read_text()
    assert "asks a question of strings" in page
    assert "answer longer than 4 words" in page


def test_it_can_be_switched_off(rows: Path) -> None:
    assert "are left out" not in run("check", "run.yaml", "data.decontaminate=false").output
    run("curate", "run.yaml", "data.decontaminate=false", "curate=gold", "output=all", "--out", "all.jsonl")
    assert len((rows / "all.jsonl").read_text().splitlines()) == 33
    run("curate", "run.yaml", "curate=gold", "output=clean", "--out", "clean.jsonl")
    clean = [json.loads(line) for line in (rows / "clean.jsonl").read_text().splitlines()]
    assert len(clean) == 31
    assert all("decontaminate" not in str(row["meta"]["trace"]) for row in clean)


def test_rows_to_rehearse_are_held_against_the_tasks_too(rows: Path) -> None:
    run("curate", "run.yaml", "curate=gold", "data.replay={path: test.jsonl, share: 0.2}", code=2)
    (rows / "general.jsonl").write_text((rows / "test.jsonl").read_text() + (rows / "train.jsonl").read_text())
    run("curate", "run.yaml", "curate=gold", "data.replay={path: general.jsonl, share: 0.2}", "output=replayed")
    about = json.loads((rows / "replayed/data.json").read_text())
    assert about["notes"]["of general.jsonl overlaps with what is measured"] == 10
    assert {"curator": "replay", "reason": "asks a question of strings", "rows": 10} in about["dropped"]
