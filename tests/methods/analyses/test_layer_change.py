"""Layer change: exact where weights are moved by hand, and a section of the report of a run that asks for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.analysis import AnalysisContext
from holdfast.cli.app import app
from holdfast.methods.analyses.layer_change import OUTSIDE, LayerChange, layer_changes
from holdfast.models.policy import Policy

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 2, batch_tokens: 256, precision: fp32}
optimizer: {name: adamw, learning_rate: 1e-3}
evaluate: {keep: [lab:strings], items: 2, live_items: 0, every: 0, max_tokens: 4}
tuner: lora
analyses: layer_change
output: out
"""


def test_it_is_the_distance_over_the_size_layer_by_layer(tiny):
    base, tuned = tiny("llama")[0], tiny("llama")[0]
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if ".1." in name:
                p.mul_(1.25)
        tuned.get_input_embeddings().weight.zero_()
    outside = [p for name, p in base.named_parameters() if ".layers." not in name]
    embedded = base.get_input_embeddings().weight.square().sum() / sum(p.square().sum() for p in outside)
    found = layer_changes(base, tuned)
    assert list(found) == ["1", "2", OUTSIDE]
    assert found == pytest.approx({"1": 0.0, "2": 0.25, OUTSIDE: embedded.sqrt().item()}, rel=1e-5)
    policies = {
        "open_base": lambda: Policy(base),
        "open_tuned": lambda: Policy(tuned),
        "open_folded": lambda: Policy(tuned),
    }
    section = LayerChange().measure(AnalysisContext(rows=[], tasks=[], chat=None, **policies))
    assert "Layer 2 of 2 moved farthest, by 25.000% of its size, layer 1 least, by 0.000%" in section.sentence
    assert section.figures[0].series[0].points == ((1.0, 0.0), (2.0, pytest.approx(25.0)))


def test_a_run_that_asks_for_it_has_it_in_report_and_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    Path("run.yaml").write_text(RECIPE)
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, (done.output, done.exception)
    (section,) = json.loads(Path("out/report.json").read_text())["analyses"]
    assert section["name"] == "layer_change"
    changes = dict(section["table"]["rows"])
    assert all(change > 0 for layer, change in changes.items() if layer != OUTSIDE), "the adapter is in every layer"
    assert changes[OUTSIDE] == 0
    page = Path("out/report.html").read_text()
    assert section["sentence"] in page
    assert "How far each layer moved" in page
    assert page.count("<svg") > CliRunner().invoke(app, ["show", "layer_change"]).output.count("<svg")
    wrong = CliRunner().invoke(app, ["check", "run.yaml", "analyses=[layer_chnage]"])
    assert wrong.exit_code == 2
    assert "layer_change" in wrong.stderr
