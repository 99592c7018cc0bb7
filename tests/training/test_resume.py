"""Law 4: killed at any moment and run again, the weights end bit-equal; Ctrl-C saves; other recipes are refused."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import material
import pytest
import torch
from safetensors.torch import load_file

import processes
from holdfast.errors import UserError, UserInterrupt
from holdfast.training import checkpoint
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

ADAMW = {"name": "adamw", "learning_rate": 0.01}
CASES = {
    "full with noise": ("neftune", "full", ADAMW),
    "lora with dropout": ("sft", {"name": "lora", "r": 4, "dropout": 0.2}, ADAMW),
    "half in the backward pass": ("sft", "half", {"name": "lomo", "learning_rate": 0.05}),
}


def fit(out, recipe=None, hooks=None, table=None, model=None):
    trainer = Trainer(
        recipe or material.recipe(), model or material.model(), table or material.table(), out, pad_id=0, hooks=hooks
    )
    return trainer.fit()


def same(one, other) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("case", CASES)
def test_killed_at_random_moments_it_ends_bit_equal(case, tmp_path):
    script = Path(__file__).with_name("killed.py")
    arguments = [json.dumps(value) for value in CASES[case]]
    ran = processes.run([script, tmp_path, *arguments, "1"])
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert int(ran.stdout.split()[-1]) >= 3
    calm, stormy = (load_file(tmp_path / name / "final.safetensors") for name in ("calm", "stormy"))
    assert calm.keys() == stormy.keys()
    assert all(torch.equal(calm[name], stormy[name]) for name in calm)
    assert not list((tmp_path / "stormy" / "checkpoints").glob("*.partial"))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1])
def test_ctrl_c_finishes_the_step_saves_and_the_next_run_goes_on(tmp_path, number):
    steps, notes = [], []

    def on_step(log):
        steps.append(log.step)
        if log.step == 3:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with pytest.raises(UserInterrupt, match=r"stopped after step 3 of \d+, all saved; run the same command to go on"):
        fit(tmp_path / "run", hooks=Hooks(on_step=on_step))
    assert signal.getsignal(number) is before
    assert checkpoint.find_newest(tmp_path / "run" / "checkpoints").name == "step-000003"
    result = fit(tmp_path / "run", hooks=Hooks(on_step=lambda log: steps.append(log.step), on_note=notes.append))
    assert steps == list(range(1, result.steps + 1))
    assert result.resumed_from == 3
    assert notes[0] == f"resumed after step 3 of {result.steps}"
    assert [note.partition(": ")[0] for note in notes[1:]] == [
        "attention", "compile", "precision", "gradient checkpointing", "micro-batch", "head", "memory"
    ]  # fmt: skip
    assert same(result.model, fit(tmp_path / "whole").model)


@pytest.fixture
def heard():
    """Ctrl-C as in a terminal: what a shell starts in the background begins with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_second_ctrl_c_stops_at_once(tmp_path, heard):
    def on_step(log):
        if log.step == 2:
            for _ in range(2):  # one a round: the handler runs between rounds, where two at once may become one
                signal.raise_signal(signal.SIGINT)  # os.kill may reach another thread first

    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path, hooks=Hooks(on_step=on_step))
    assert checkpoint.find_newest(tmp_path / "checkpoints") is None


def test_ctrl_c_in_the_last_step_is_not_forgotten(tmp_path):
    def on_step(log):
        if log.step == log.steps:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(UserInterrupt):
        fit(tmp_path, hooks=Hooks(on_step=on_step))
    again = fit(tmp_path)
    assert again.resumed_from == again.steps


def test_a_finished_run_is_found_finished(tmp_path):
    first = fit(tmp_path)
    logs = []
    again = fit(tmp_path, hooks=Hooks(on_step=logs.append))
    assert not logs
    assert again.resumed_from == again.steps
    assert again.tokens == first.tokens
    assert again.loss == first.loss
    assert same(first.model, again.model)


def test_a_checkpoint_of_another_recipe_is_refused_by_name(tmp_path):
    fit(tmp_path)
    other = material.recipe(optimizer={"name": "adamw", "learning_rate": 0.02})
    with pytest.raises(UserError, match=r"optimizer\.learning_rate: 0\.01 there, 0\.02 here"):
        fit(tmp_path, other)
    with pytest.raises(UserError, match=r"rows: rows-24-1-0 there, rows-24-1-5 here"):
        fit(tmp_path, table=material.table(seed=5))
    with pytest.raises(UserError, match=r"train\.seeds\.order: None there, 1 here"):
        fit(tmp_path, material.recipe({"seeds": {"order": 1}}))
    fit(tmp_path, material.recipe({"save_every": 0.5, "micro_tokens": 30}))  # these may change


def test_adapters_store_only_the_adapter_and_all_in_fp32(tmp_path):
    recipe = material.recipe(tuner={"name": "lora", "r": 2})
    fit(tmp_path, recipe)
    stored = load_file(checkpoint.find_newest(tmp_path / "checkpoints") / "adapter.safetensors")
    assert stored
    assert all("lora_" in name and t.dtype == torch.float32 for name, t in stored.items())


def test_trained_weights_are_kept_in_fp32_under_bf16(tmp_path):
    fit(tmp_path, material.recipe({"precision": "bf16", "epochs": 1}, tuner="half"), model=material.model().bfloat16())
    stored = load_file(checkpoint.find_newest(tmp_path / "checkpoints") / "model.safetensors")
    assert stored
    assert all(t.dtype == torch.float32 for t in stored.values())


def test_only_the_newest_checkpoints_stay(tmp_path):
    fit(tmp_path, material.recipe({"save_every": 0.1, "keep_checkpoints": 2, "epochs": 3}))
    kept = checkpoint.list_checkpoints(tmp_path / "checkpoints")
    assert len(kept) == 2
