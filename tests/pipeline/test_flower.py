"""Flower's simulation ends with the same weights as the same clients in this process; it needs flwr and Ray."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.cli.app import app

HERE = importlib.util.find_spec("flwr") is not None
RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 12}
train: {max_steps: 1, batch_tokens: 512, precision: fp32}
evaluate: {keep: none, items: 2, live_items: 0, every: 0, max_tokens: 4}
"""


@pytest.mark.skipif(HERE, reason="flwr is installed")
def test_without_flower_it_is_said_in_one_line(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RECIPE, encoding="utf-8")
    done = CliRunner().invoke(app, ["federate", "run.yaml", "--exchange", "flower", "output=out"])
    assert done.exit_code == 2
    assert "--exchange flower needs flwr: pip install" in done.stderr
    assert not Path("out").exists()


@pytest.mark.skipif(not HERE, reason="needs flwr[simulation]")
@pytest.mark.parametrize("method", ["fedavg", "spafl"])
def test_flower_ends_with_the_same_weights(tmp_path, monkeypatch, method) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text(RECIPE, encoding="utf-8")
    weights = {}
    for out, words in (("inline", ["--workers", "0"]), ("flower", ["--exchange", "flower"])):
        common = ["federate", "run.yaml", "--clients", "2", "--rounds", "2", "--method", method, f"output={out}"]
        done = CliRunner().invoke(app, [*common, *words])
        assert done.exit_code == 0, (done.output, done.exception)
        weights[out] = load_file(f"{out}/federated/rounds/0001/global.safetensors")
    assert weights["inline"].keys() == weights["flower"].keys()
    assert all(torch.allclose(weights["inline"][k], weights["flower"][k], atol=1e-6) for k in weights["inline"])
