"""LoRA on a frozen base in 4 or 8 bits: trained there, measured, saved, merged and served on the base as it is."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from typer.testing import CliRunner

from holdfast.cli.app import app

RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
tuner: {name: qlora, r: 2}
optimizer: {learning_rate: 0.01}
train: {max_steps: 2, batch_tokens: 256}
evaluate: {keep: [], items: 4, live_items: 4, every: 0.5, max_tokens: 16}
output: out
"""
HERE = importlib.util.find_spec("bitsandbytes") is not None

pytestmark = pytest.mark.usefixtures("place")


def run(*arguments: str, code: int = 0) -> Result:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done


def refusals(*arguments: str) -> str:
    """The last line of `train`, which is that of `check`; nothing is written."""
    lines = [run(verb, "run.yaml", *arguments, code=2).stderr.splitlines()[-1] for verb in ("check", "train")]
    assert lines[0] == lines[1]
    assert not Path("out").exists()
    return lines[0].removeprefix("holdfast: ")


@pytest.mark.skipif(HERE, reason="bitsandbytes is installed")
def test_without_the_extra_it_is_refused_before_anything_is_written(place: Path) -> None:
    for bits in (4, 8):
        assert refusals(f"tuner.base_bits={bits}") == (
            f"tuner.base_bits {bits} needs bitsandbytes, which is not installed; pip install 'holdfast[quant]'"
        )


def test_only_an_adapter_has_a_frozen_base(place: Path) -> None:
    for tuner in ("full", "half"):
        assert "base_bits" in refusals(f"tuner={{name: {tuner}, base_bits: 4}}")
    assert "tuner.base_bits must be 4 or 8" in refusals("tuner.base_bits=3")


@pytest.mark.skipif(not HERE, reason="needs bitsandbytes, the extra quant")
@pytest.mark.parametrize("bits", [4, 8])
def test_the_adapter_learns_on_the_quantized_base_and_comes_back_on_the_plain_one(place: Path, bits: int) -> None:
    said = run("check", "run.yaml", f"tuner.base_bits={bits}").output
    assert f"of the weights are in {bits} bits, the rest is as it is" in said
    said = run("train", "run.yaml", f"tuner.base_bits={bits}").output
    assert f"trained on a frozen base in {bits} bits" in said
    assert "the adapter is on the base as it is again: log-probabilities moved by " in said
    kind = {4: "NF4", 8: "LLM.int8()"}[bits]
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["training"]["arithmetic"] == f"fp32 beside a frozen base in {bits} bits ({kind})"
    assert report["training"]["base_bits"] == bits
    card = (place / "out" / "README.md").read_text(encoding="utf-8")
    assert "Measured and saved is the adapter on the base as it is in its own files: serve it so." in card
    adapter = load_file(place / "out" / "model" / "adapter_model.safetensors")
    assert {t.dtype for t in adapter.values()} == {torch.float32}
    assert all(t.any() for name, t in adapter.items() if "lora_B" in name)
    run("export", "out", "merged", "--merge")
    from holdfast.models.loading import load_model
    from holdfast.models.merging import compute_distance, probe_logps

    tuned, merged, base = (
        load_model(name, torch.float32, device="cpu").model for name in ("out", "merged", "lab-small")
    )
    assert {p.dtype for p in tuned.parameters()} == {torch.float32}
    own = probe_logps(tuned)
    assert compute_distance(own, probe_logps(merged)).share < 0.01  # rounded to bf16
    assert compute_distance(own, probe_logps(base)).share > 0.02


@pytest.mark.skipif(not HERE, reason="needs bitsandbytes, the extra quant")
def test_interrupted_it_goes_on_bit_for_bit(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("train", "run.yaml", "output=whole", "evaluate.every=0")
    from holdfast.training.trainer import Trainer

    log_step = Trainer._log_step

    def stop_after_first(self, step, *rest):
        log_step(self, step, *rest)
        if step == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_log_step", stop_after_first)
        run("train", "run.yaml", "evaluate.every=0", code=130)
    assert "resumed after step 1 of 2" in run("train", "run.yaml", "evaluate.every=0").output
    whole, parts = (load_file(place / name / "model" / "adapter_model.safetensors") for name in ("whole", "out"))
    assert all(torch.equal(parts[name], tensor) for name, tensor in whole.items())
