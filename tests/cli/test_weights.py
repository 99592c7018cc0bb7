"""`train.weights`: what is trained in bf16 is said, saved as it was trained, and refused where it would round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 2, batch_tokens: 256, weights: bf16}
evaluate: {keep: [], items: 4, live_items: 4, every: 0.5, max_tokens: 16}
output: out
"""

pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def refusals(*arguments: str) -> str:
    """The last line of `train`, which is that of `check`; nothing is written."""
    lines = [run(verb, "run.yaml", *arguments, code=2).stderr.splitlines()[-1] for verb in ("check", "train")]
    assert lines[0] == lines[1]
    assert not Path("out").exists()
    return lines[0].removeprefix("holdfast: ")


def test_what_is_saved_is_what_was_trained_and_the_report_says_it(place: Path) -> None:
    run("check", "run.yaml", "tuner=half")
    run("train", "run.yaml", "tuner=half")
    words = "bf16 on weights in bf16 with fp32 masters"
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["training"]["arithmetic"] == words
    assert f"Trained in {words}." in (place / "out" / "README.md").read_text(encoding="utf-8")
    assert words in (place / "out" / "report.html").read_text(encoding="utf-8")
    (checkpoint,) = (place / "out" / "checkpoints").glob("step-*")
    trained = load_file(checkpoint / "model.safetensors")
    saved = load_file(place / "out" / "model" / "model.safetensors")
    assert {t.dtype for t in (*trained.values(), *saved.values())} == {torch.bfloat16}
    assert all(torch.equal(saved[name], tensor) for name, tensor in trained.items())
    assert any(name not in trained for name in saved)  # the frozen half


def test_where_it_cannot_be_it_is_refused(place: Path, tiny_dir) -> None:
    assert "train.weights bf16 needs an optimizer that keeps what rounding takes from a step, which lomo does not" in (
        refusals("optimizer=lomo")
    )
    assert "train.weights bf16 computes in bf16, but train.precision is fp32" in refusals("train.precision=fp32")
    wide = tiny_dir("gpt2", n_positions=512)
    assert f"train.weights: bf16, but the weights of {wide} are float32" in refusals(f"model={wide}", "data.test=0.5")
