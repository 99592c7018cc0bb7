"""What users do with rows that have pictures, on `lab-vl`: pairs, scored groups, own answers, adapters; few steps."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from holdfast.cli.app import app

PAIRS = {"name": "pairs", "n": 3, "temperature": 1}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


def run(verb: str, **settings: Any) -> Result:
    recipe = {
        "model": "lab-vl", "data": {"train": "lab:points-cards-black", "limit": 12, "test": 0},
        "train": {"max_steps": 2, "precision": "fp32"}, "sampling": {"max_tokens": 24}, "output": "out",
        "evaluate": {"target": "none", "keep": ["none"], "items": 3, "every": 0, "max_tokens": 24}, **settings,
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return CliRunner().invoke(app, [verb, "run.yaml"])


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "dpo", "tuner": "lora"},
        {"objective": "grpo", "curate": PAIRS, "tuner": "lora"},
        {"curate": {"name": "rft", "k": 2}, "evaluate": {"target": "lab:points-cards-red", "keep": ["lab:sums"],
                                                         "items": 3, "every": 0, "max_tokens": 24}},
        {"objective": "neftune", "train": {"max_steps": 1, "vision": "trained"}},
    ],
    ids=["dpo", "grpo", "rft", "neftune"],
)  # fmt: skip
def test_methods_train_on_rows_with_pictures(settings: dict[str, Any]) -> None:
    done = run("train", **settings)
    assert done.exit_code == 0, done.output
    assert " pictures, " in done.output
    curated = [json.loads(line) for line in Path("out/curated.jsonl").read_text(encoding="utf-8").splitlines()]
    assert curated
    assert all(row["messages"][0]["images"][0].startswith("lab:cards/") for row in curated)
    assert list(Path("out/model").glob("*.safetensors"))


def test_an_online_method_learns_from_answers_to_pictures() -> None:
    rounds = {"rounds": 1, "prompts": 2, "n": 2, "updates": 2, "drop_equal": False}
    done = run("train", method="ppo", environment="points", online=rounds, sampling={"max_tokens": 16})
    assert done.exit_code == 0, done.output
    assert "12 pictures, 768 tokens" in done.output
    log = [json.loads(line) for line in Path("out/log.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(log) == 2
    assert log[0]["rollouts/failed"] == 0
    assert log[0]["ratio/mean"] == pytest.approx(1, abs=1e-4)
    drawn = [json.loads(line) for line in Path("out/samples.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(drawn) >= 4, "answers lie in the journal"


def test_a_text_model_is_shown_no_pictures() -> None:
    done = run("train", model="lab-small")
    assert done.exit_code == 2, done.output
    assert "lab-small is a model without eyes" in " ".join(done.output.split()), done.output
    assert not Path("out").exists()
