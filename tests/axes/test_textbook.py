"""Five textbook methods of other kinds than ours, outside of the package: by `module:Class` and by entry points."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.cli.app import app

TESTS = Path(__file__).parent.parent
FILES = {
    "focal": ("textbook_focal.py", "Focal"),
    "plain_sgd": ("textbook_sgd.py", "SGD"),
    "brief": ("curator_experiments.py", "Length"),
    "ensemble": ("methods/inference/ensemble.py", "Ensemble"),
    "bitfit": ("methods/tuners/bitfit.py", "BitFit"),
}
"""An objective, an optimizer, a filter of rows, a mixture of logits, biases alone: one file each."""
RECIPE = """data: {train: rows.jsonl, test: 0.25}
train: {max_steps: 2, batch_tokens: 256}
optimizer: {learning_rate: 0.01}
evaluate: {keep: [], items: 2, live_items: 0, max_tokens: 4}
"""


@pytest.fixture
def project(tiny_dir, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the five as modules of the user's own, and a package that names them as pip leaves it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    points = ["[holdfast.methods]"]
    for name, (file, attribute) in FILES.items():
        shutil.copy(TESTS / file, tmp_path / f"own_{name}.py")
        points.append(f"{name} = own_{name}:{attribute}")
    if way == "module:Class":
        points = []
    info = tmp_path / "own_textbook-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-textbook\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("\n".join(points) + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    answers = ["It is " + "a long answer " * (i % 4 == 0) * 4 for i in range(16)]
    rows = [{"prompt": f"What is {i}?", "completion": answer} for i, answer in enumerate(answers)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("run.yaml").write_text(f"model: {tiny_dir('gpt2')}\n{RECIPE}")  # it has biases
    return tmp_path


@pytest.mark.parametrize("way", ["entry point", "module:Class"])
def test_all_five_join_in_one_recipe(project: Path, way: str) -> None:
    names = FILES if way == "entry point" else [f"own_{name}:{attribute}" for name, (_, attribute) in FILES.items()]
    done = CliRunner().invoke(app, ["train", "run.yaml", f"method={'+'.join(names)}", "output=runs/five"])
    assert done.exit_code == 0, (done.output, done.exception)
    report = json.loads(Path("runs/five/report.json").read_text())
    chosen = [report["recipe"][axis]["name"] for axis in ("objective", "optimizer", "inference", "tuner")]
    assert {*chosen, report["recipe"]["curate"][0]["name"]} == set(names)
    assert len(Path("runs/five/dropped.jsonl").read_text().splitlines()) > 0, "the filter dropped the long answers"
    moved = load_file("runs/five/model/model.safetensors")
    base = load_file(next(Path(report["model"]["name"]).glob("*.safetensors")))
    changed = {name for name, tensor in moved.items() if not tensor.equal(base[name])}
    assert changed
    assert all(name.endswith(".bias") for name in changed), "biases alone"
    assert Path("runs/five/model/inference.json").exists(), "the mixture goes with the model"
