"""`train.stop_at`: a stop is not part of what shapes the weights: in several goes or in one, the same run."""

from __future__ import annotations

import json

import material
import pytest
import torch

from holdfast.errors import UserError
from holdfast.pipeline.train import train
from holdfast.recipe.loader import resolve_any
from holdfast.training.callbacks import Hooks
from holdfast.training.plan import count_steps_to_stop
from holdfast.training.trainer import Trainer


def fit(out, steps=None, **train_settings):
    recipe = material.recipe({"max_steps": 12, "save_every": 0.5, "precision": "fp32", **train_settings}, evaluate={})
    hooks = Hooks(on_step=lambda log: steps.append(log.step) if steps is not None else None)
    return Trainer(recipe, material.model(), material.table(), out, pad_id=0, hooks=hooks).fit()


def test_the_step_of_a_share():
    assert [count_steps_to_stop(share, 12) for share in (0.01, 0.125, 0.25, 0.5, 1.0)] == [1, 2, 3, 6, 12]
    assert count_steps_to_stop(1.0, 0) == 0


def test_rung_by_rung_is_the_run_in_one_go(tmp_path):
    seen: list[int] = []
    parts = [fit(tmp_path / "rungs", seen, stop_at=share) for share in (0.25, 0.5, 1.0)]
    assert [part.steps for part in parts] == [3, 6, 12]
    assert [part.is_partial for part in parts] == [True, True, False]
    assert not any(part.stopped_early for part in parts)
    assert seen == list(range(1, 13))  # no step twice
    direct = fit(tmp_path / "half", stop_at=0.5)  # to rung 2 at once
    assert all(torch.equal(p, q) for p, q in zip(direct.model.parameters(), parts[1].model.parameters(), strict=True))
    whole = fit(tmp_path / "whole")
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), parts[2].model.parameters(), strict=True))
    assert fit(tmp_path / "rungs", stop_at=0.25).steps == 12  # an earlier stop takes nothing back


RECIPE = {
    "model": "lab-small", "method": "sft", "data": {"train": "lab:strings", "limit": 24},
    "train": {"max_steps": 4, "batch_tokens": 512, "precision": "fp32"},
    "evaluate": {"keep": ["lab:sums"], "items": 6, "every": 0, "max_tokens": 16},
}  # fmt: skip


def test_a_run_that_stopped_is_reported_and_goes_on_with_a_later_stop(tmp_path):
    half = train(resolve_any(RECIPE, [f"output={tmp_path / 'run'}", "train.stop_at=0.5"]))
    assert (half.report["training"]["steps"], half.report["training"]["planned_steps"]) == (2, 4)
    assert json.loads((half.path / "run.json").read_text())["stopped_at"] == 0.5
    assert "2 of 4 steps" in (half.path / "report.html").read_text()
    again = train(resolve_any(RECIPE, [f"output={tmp_path / 'run'}", "train.stop_at=0.25"]))
    assert again.report == half.report  # it has that behind it
    whole = train(resolve_any(RECIPE, [f"output={tmp_path / 'run'}"]))
    direct = train(resolve_any(RECIPE, [f"output={tmp_path / 'direct'}"]))
    assert whole.report["training"]["steps"] == 4
    assert "stopped_at" not in json.loads((whole.path / "run.json").read_text())
    assert whole.report["gain"] == direct.report["gain"]
    assert whole.report["curves"] == direct.report["curves"]
    weights = [(run.path / "model" / "model.safetensors").read_bytes() for run in (whole, direct)]
    assert weights[0] == weights[1]


def test_stages_stop_nowhere():
    with pytest.raises(UserError, match=r"train\.stop_at stops one training half way, and this recipe has stages"):
        resolve_any({**RECIPE, "method": "sft", "stages": ["sft", "dpo"]}, ["train.stop_at=0.5"])
