"""The probe as a user meets it: a model of their own, a small file, the shortest recipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: mine
data: {train: rows.jsonl}
optimizer: {learning_rate: 1e-2}
train: {max_steps: 2}
evaluate: {items: 6, live_items: 2, every: 0.5, max_tokens: 8}
output: out
"""


@pytest.fixture
def place(tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").symlink_to(tiny_dir(max_position_embeddings=1024))
    rows = [{"prompt": f"Which word comes after {word}?", "completion": f"{word}s"} for word in "abcdefghijklmnopqrst"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    return tmp_path


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def report_of(path: str) -> dict[str, Any]:
    return json.loads((Path(path) / "report.json").read_text(encoding="utf-8"))


def test_a_model_of_ones_own_is_measured_elsewhere_by_default(place: Path) -> None:
    checked = " ".join(run("check", "run.yaml").output.split())
    assert "keep probe 6 agreement with the base's answers" in checked
    assert "keep probe-text 6 bits per byte" in checked
    assert "nothing is kept" not in checked

    done = run("train", "run.yaml")
    report = report_of("out")
    assert report["loss"]["of"] == "probe"
    assert 0 < report["loss"]["low"] <= report["loss"]["delta"] <= report["loss"]["high"]
    assert report["probe"]["kl"]["low"] > report["probe"]["kl"]["noise"]
    assert sum(row["n"] for row in report["probe"]["by"]["kind"]) == report["probe"]["n"] == 6
    assert report["text"]["percent"] != 0
    assert report["curves"][0]["keep"] == 100.0
    assert any((point["keep"] or 100) < 100 for point in report["curves"]), "it is watched during training"
    assert "departs from the base at" in done.output
    assert "probe: agrees with the base at" in done.output
    assert "Against the base's own answers" in (place / "out" / "report.html").read_text(encoding="utf-8")

    # The run without a word more: against the model it started from, whose answers are not asked for again.
    alone = run("eval", "out", "--out", "again")
    assert report_of("again")["probe"]["base"] == "mine"
    assert report_of("again")["probe"]["agreement"] == report["probe"]["agreement"]
    assert "probe: agrees with the base at" in alone.output
    refused = run("eval", "out", "probe", "--against", "mine", "--items", "6", "--max-kl", "0", code=3)
    assert "bits per token from the base" in refused.stderr


def test_the_base_against_itself_is_exactly_nothing(place: Path) -> None:
    run("eval", "mine", "probe", "--against", "mine", "--items", "5", "--out", "same")
    report = report_of("same")
    assert (report["loss"]["delta"], report["loss"]["low"]) == (0, 0)
    assert report["loss"]["high"] > 0, "five prompts do not show that none would be answered otherwise"
    assert report["probe"]["kl"]["value"] == report["text"]["percent"] == 0
    assert report["probe"]["agreement"]["value"] == 100
    alone = run("eval", "mine", "--items", "5", "--out", "alone")
    assert "answers end by themselves" in alone.output
    assert [task["name"] for task in report_of("alone")["tasks"]] == ["probe-text"]


def test_an_adapter_and_stages_are_measured_against_the_first_model(place: Path) -> None:
    few = ["evaluate.items=4", "evaluate.live_items=0", "train.max_steps=1"]
    run("train", "run.yaml", "tuner=lora", *few, "output=adapter")
    run("eval", "adapter/model", "probe", "--items", "4", "--out", "seen")
    assert report_of("seen")["probe"]["base"] == str((place / "mine").resolve())
    assert report_of("seen")["probe"]["kl"]["value"] == pytest.approx(report_of("adapter")["probe"]["kl"]["value"])

    run("train", "run.yaml", "stages=[{name: one, method: sft}, {name: two, method: sft}]", *few, "output=both")
    one, two, both = (report_of(f"both{path}") for path in ("/stages/1-one", "/stages/2-two", ""))
    (first, last) = both["stages"]
    assert first["loss"] == one["loss"], "the first stage began with the very first model"
    assert last["loss"] == both["loss"] != two["loss"]
    assert both["probe"]["kl"]["value"] > one["probe"]["kl"]["value"]


def test_other_tokens_cannot_be_compared(place: Path) -> None:
    done = run("eval", "mine", "probe", "--against", "lab-small", "--items", "4", "--out", "mixed")
    assert "needs one tokenizer" in done.stderr
    assert [task["name"] for task in report_of("mixed")["tasks"]] == ["probe-text"]
    assert report_of("mixed")["probe"] is None


def test_keeping_nothing_is_said_before_anything_is_trained(place: Path) -> None:
    few = ["evaluate.keep=[none]", "evaluate.live_items=0", "train.max_steps=1"]
    for verb in ("check", "train"):
        assert "nothing is kept: what training loses will not be measured" in run(verb, "run.yaml", *few).output
    assert "evaluate.gate.max_kl" in run("check", "run.yaml", "evaluate.gate.max_loss=2", code=2).stderr
