"""What a finished training says of itself: clipped steps, chosen answers that fall; on terminal, page and report."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from holdfast.cli.app import app
from holdfast.pipeline.training_review import review_training


def log(metric: str, values: list[float]) -> list[dict[str, Any]]:
    return [{"step": i, "loss": 0.0, metric: value} for i, value in enumerate(values, 1)]


def test_a_fall_is_told_from_noise_and_small_change() -> None:
    falls = [0.0] * 12 + [-2.0, -2.2, -1.9, -2.1]
    for metric, values, told in (
        ("logps/chosen_change", falls, True),
        ("logps/chosen_change", [-x for x in falls], False),
        ("logps/chosen_change", [-0.3] * 16, False),  # half a nat is not reached
        ("logps/chosen_change", [0.0] * 12 + [-9.0, 6.0, -8.0, 7.0], False),  # noise
        ("logps/chosen", [-20.0, -20.2, -19.8, -20.1] * 3 + [-25.0, -25.2, -24.9, -25.1], True),
        ("logps/chosen", [-20.0, -30.0, -10.0, -25.0] * 4, False),
        ("logps/chosen", [-20.0, -25.0], False),  # rows are others, and two steps say nothing
        ("accuracy", falls, False),
    ):
        assert bool(review_training(log(metric, values))) is told, (metric, values)
    (line,) = review_training(log("logps/chosen_change", falls))
    assert line.startswith("chosen answers became less likely, by 2.0 nats each than under the reference")
    repeated = [*log("logps/chosen_change", falls), {"step": 16, "target": 0.5}, *log("logps/chosen_change", falls)]
    assert review_training(repeated) == [line], "steps repeated after a kill, and evaluations, change nothing"


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


def train(output: str, **optimizer: Any) -> Result:
    """DPO on pairs that differ in a digit: at a large rate the right answer falls with the wrong one."""
    content = {
        "model": "lab-small", "method": "dpo", "data": {"train": "lab:story", "limit": 64, "test": 0},
        "evaluate": {"target": "none", "keep": []}, "output": output,
        "train": {"precision": "fp32", "max_steps": 12, "batch_tokens": 1024},
        "optimizer": {"schedule": "constant", **optimizer},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, done.output
    return done


def test_clipped_steps_and_falling_answers_are_said_everywhere() -> None:
    said = " ".join(train("out", learning_rate=1e-3, max_grad_norm=1e-3).output.split())
    entries = [json.loads(line) for line in Path("out/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [entry["clipped"] for entry in entries] == [entry["grad_norm"] > 1e-3 for entry in entries]
    training = json.loads(Path("out/report.json").read_text(encoding="utf-8"))["training"]
    assert training["clipped"] == sum(entry["clipped"] for entry in entries) / 12 > 0.5
    assert f"the gradient was clipped in {100 * training['clipped']:.0f} % of the steps (optimizer.max_grad" in said
    page = Path("out/report.html").read_text(encoding="utf-8")
    assert "The gradient was clipped in" in page
    change = [entry["logps/chosen_change"] for entry in entries]
    assert change[0] == pytest.approx(0, abs=1e-3), "at the first step the model is the reference"
    assert sum(change[-3:]) / 3 < -0.5
    (line,) = [text for text in training["warnings"] if text.startswith("chosen answers became less likely")]
    assert f"warning: {line}" in said
    assert line.split(" (")[0] in page
    assert training["clip_factor"] == pytest.approx(1e3 * median(entry["grad_norm"] for entry in entries))

    # Three times too long, as small models' gradients are at the default limit: on the page, not on the terminal.
    usual = train("usual", learning_rate=1e-7, max_grad_norm=entries[0]["grad_norm"] / 3).output
    training = json.loads(Path("usual/report.json").read_text(encoding="utf-8"))["training"]
    assert training["clipped"] > 0.5
    assert 1 < training["clip_factor"] < 10
    assert "clipped" not in usual
    assert "The gradient was clipped in" in Path("usual/report.html").read_text(encoding="utf-8")

    quiet = train("quiet", learning_rate=1e-7, max_grad_norm=0).output
    assert "clipped" not in quiet
    assert "less likely" not in quiet
    assert json.loads(Path("quiet/report.json").read_text(encoding="utf-8"))["training"]["clipped"] == 0
