"""Weights in bf16 with fp32 masters: trained like fp32 ones, resumed bit for bit, and summed over micro-batches."""

from __future__ import annotations

import os
import signal

import material
import pytest
import torch
from safetensors.torch import load_file

from holdfast.errors import UserInterrupt
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

SMALL_STEPS = {"name": "adamw", "learning_rate": 1e-4, "schedule": "constant", "warmup": 0}


def fit(out, weights, hooks=None, tuner="full", **train):
    recipe = material.recipe(
        {"precision": "bf16", "weights": weights, "epochs": 4, **train}, optimizer=SMALL_STEPS, tuner=tuner
    )
    model = material.model()
    for p in model.parameters():
        p.data = p.data.bfloat16().float()
    return Trainer(recipe, model, material.table(), out, pad_id=0, hooks=hooks).fit()


def losses_of(out, weights, **train):
    losses = []
    fit(out, weights, Hooks(on_step=lambda log: losses.append(log.loss)), **train)
    return torch.tensor(losses, dtype=torch.float64)


def test_the_losses_are_those_of_fp32_weights_under_autocast(tmp_path):
    wide, short = (losses_of(tmp_path / kind, kind) for kind in ("fp32", "bf16"))
    learned = [losses[:3].mean() - losses[-3:].mean() for losses in (wide, short)]  # an epoch has 3 steps
    assert learned[0] > 0.05  # by steps below a 256th of most weights
    assert abs(learned[1] - learned[0]) < 0.1 * learned[0]
    assert (wide - short).abs().max() < 0.02  # what lies between layers is bf16, too


@pytest.mark.parametrize(
    ("tuner", "types"),
    [
        ("full", {(torch.bfloat16, True)}),
        ("half", {(torch.bfloat16, True), (torch.bfloat16, False)}),
        (
            {"name": "lora", "r": 2, "modules_to_save": ["lm_head"]},
            {(torch.float32, True), (torch.bfloat16, True), (torch.bfloat16, False)},
        ),
    ],
)
def test_interrupted_it_goes_on_bit_for_bit_with_every_tuner(tmp_path, tuner, types):
    def on_step(log):
        if log.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    whole = fit(tmp_path / "whole", "bf16", tuner=tuner, epochs=2)
    with pytest.raises(UserInterrupt):
        fit(tmp_path / "run", "bf16", Hooks(on_step=on_step), tuner=tuner, epochs=2)
    stored = load_file(tmp_path / "run" / "checkpoints" / "step-000003" / "optimizer.safetensors")
    assert any(name.endswith(".remainder") and t.any() for name, t in stored.items()) == (
        (torch.bfloat16, True) in types
    )
    again = fit(tmp_path / "run", "bf16", tuner=tuner, epochs=2)
    assert again.resumed_from == 3
    assert {(p.dtype, p.requires_grad) for p in again.model.parameters()} == types
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), again.model.parameters(), strict=True))
    assert again.arithmetic == "bf16 on weights in bf16 with fp32 masters"


def test_gradients_of_several_micro_batches_are_summed_in_fp32(tmp_path):
    kinds = []

    def look(micro_tokens):
        trainer = None

        def on_step(log):
            kinds.append({p.grad_dtype for p in trainer.state.trainable_parameters.values()})

        recipe = material.recipe({"weights": "bf16", "precision": "bf16", "micro_tokens": micro_tokens, "max_steps": 1})
        trainer = Trainer(
            recipe, material.model(), material.table(), tmp_path / str(micro_tokens), pad_id=0,
            hooks=Hooks(on_step=on_step),
        )  # fmt: skip
        trainer.fit()

    look(60)
    look(200)
    assert kinds == [{torch.float32}, {torch.bfloat16}]
