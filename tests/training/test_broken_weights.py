"""Weights that are no numbers are in no checkpoint and no model, and a run that learned nothing says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.training import broken_weights
from holdfast.training.distributed import Machine

RECIPE = """\
model: MODEL
data: {train: rows.jsonl, test: rows.jsonl}
train: {max_steps: 3, batch_tokens: 64, precision: fp32, save_every: 0.3, keep_checkpoints: 2}
evaluate: {keep: [], items: 1, live_items: 0, max_tokens: 2}
output: out
"""


@pytest.fixture
def place(tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    rows = [{"prompt": "Add 12 and 30.", "chosen": "The answer is 42.", "rejected": "Paris"}] * 2
    rows += [{"prompt": "Subtract 5 from 19.", "chosen": "the result is 14", "rejected": "42"}] * 2
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    plain = [{"prompt": row["prompt"], "answer": row["chosen"]} for row in rows]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in plain), encoding="utf-8")
    Path("run.yaml").write_text(RECIPE.replace("MODEL", str(tiny_dir())), encoding="utf-8")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["train", "run.yaml", *arguments])
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


def test_a_step_that_breaks_the_weights_is_not_kept(place: Path) -> None:
    rate = "optimizer.learning_rate=1e300"
    for optimizer in ("adamw", "lomo"):
        for steps in ("1", "3") if optimizer == "adamw" else ("1",):
            said = run(rate, f"optimizer.name={optimizer}", f"train.max_steps={steps}", f"output={optimizer}", code=2)
            assert "step 1: " in said.splitlines()[-1]
            assert "they are not saved (no checkpoint yet). Lower optimizer.learning_rate" in said.splitlines()[-1]
        assert not [path for path in place.rglob("*.safetensors") if optimizer in str(path)]
    run("optimizer.learning_rate=1e-3", "output=adamw")
    assert (place / "adamw" / "model" / "model.safetensors").exists(), "the mended recipe takes its place"


def test_an_earlier_checkpoint_is_checked_too(place: Path) -> None:
    run()
    last = max((place / "out" / "checkpoints").glob("step-*"))
    (place / "out" / "report.json").unlink()
    weights = load_file(last / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, last / "model.safetensors")
    state: dict[str, Any] = json.loads((last / "state.json").read_text(encoding="utf-8"))
    state["files"]["model.safetensors"] = broken_weights.checkpoint.sha256_of(last / "model.safetensors")
    del state["sha256"]  # as older versions wrote it
    (last / "state.json").write_text(json.dumps(state), encoding="utf-8")
    assert f"out/checkpoints/{last.name}: some of its weights are no finite numbers" in run(code=2)


def test_a_gradient_of_zero_is_said(place: Path) -> None:
    said = run("method=dpo", "data.train=pairs.jsonl", "objective.beta=1e-30", "evaluate.target=none")
    assert "warning: the gradient was exactly 0 in every step" in said
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    assert any("gradient was exactly 0" in text for text in report["training"]["warnings"])


def test_counting() -> None:
    inf, nan = float("inf"), float("nan")
    weights = {
        "large": torch.tensor([3e38, 3e38]), "one": torch.tensor([1.0, inf, nan]), "ids": torch.tensor([1, 2]),
        "half": torch.tensor([6e4, 6e4, -inf], dtype=torch.float16),
    }  # fmt: skip
    assert broken_weights.count_non_finite(weights.values()) == 3
    with pytest.raises(broken_weights.BrokenWeights, match=r"step 4: 3 of the trained weights"):
        broken_weights.refuse_broken_weights(weights, Machine("fp32", torch.device("cpu")), Path("nowhere"), 4)
