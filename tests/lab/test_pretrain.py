"""Laboratory models: the shipped tokenizer comes out again, and a stopped training goes on to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import holdfast.lab
from holdfast.lab import pretrain
from holdfast.lab.pretrain import PLANS, Cycle, Pretraining, PretrainPlan, Stream
from holdfast.lab.tokenizer import build_tokenizer

MODELS = Path(holdfast.lab.__file__).parent / "models"


@pytest.fixture(scope="module")
def built() -> PreTrainedTokenizerFast:
    """The tokenizer, which takes seconds to build, and comes out the same each time."""
    return build_tokenizer()


def test_the_tokenizer_of_the_shipped_models_comes_out_again(built):
    for name in PLANS:
        shipped = AutoTokenizer.from_pretrained(MODELS / name)
        assert built.get_vocab() == shipped.get_vocab()
        assert built.chat_template == shipped.chat_template


def tiny(steps: int) -> PretrainPlan:
    cycle = Cycle(steps, steps, 2, 1e-3, warmup=1, facts_over=500)
    return replace(PLANS["lab-small"], hidden=32, layers=1, heads=2, inner=32, rows=8, cycles=(cycle,))


def test_a_stopped_training_goes_on_to_the_bit(tmp_path, built, monkeypatch):
    monkeypatch.setattr(pretrain, "build_tokenizer", lambda: built)
    whole = Pretraining(tiny(4), tmp_path / "whole", log=lambda line: None)
    whole.run(save_every=2)

    class Killed(Exception):
        pass

    def kill(step: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        Pretraining(tiny(4), tmp_path / "parts", log=lambda line: None).run(save_every=2, watch=kill)
    again = Pretraining(tiny(4), tmp_path / "parts", log=lambda line: None)
    assert again.state["step"] == 2
    again.run(save_every=2)
    weights = [load_file(tmp_path / name / "final" / "model.safetensors") for name in ("whole", "parts")]
    assert all(torch.equal(tensor, weights[1][name]) for name, tensor in weights[0].items())


def test_the_plan_has_a_rate_and_rows_for_every_step(built):
    plan = PLANS["lab-small"]
    training = Stream(plan, built)
    assert min(training.exposures) >= 0.45 * plan.cycles[0].steps
    assert max(training.exposures) < plan.steps
    for step in (0, plan.cycles[0].steps, plan.steps - 1):
        ids, where, labels, _ = next(training.build_batches(step))
        flat = ids.flatten()
        assert torch.equal(flat[where + 1], labels)
    with pytest.raises(IndexError):
        plan.cycle_at(plan.steps)
