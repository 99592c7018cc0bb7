"""AdamW's states in 8 bits: a quarter of the memory, near the same weights, and bit for bit the same after a resume."""

from __future__ import annotations

import importlib.util

import material
import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.registry import find_method
from holdfast.cli.app import app
from holdfast.training.trainer import Trainer

HERE = importlib.util.find_spec("bitsandbytes") is not None
needs_library = pytest.mark.skipif(not HERE, reason="needs bitsandbytes, the extra quant")
RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
train: {max_steps: 1, batch_tokens: 256}
evaluate: {keep: [], items: 4, live_items: 0, every: 0, max_tokens: 16}
output: out
"""


@pytest.mark.skipif(HERE, reason="bitsandbytes is installed")
@pytest.mark.parametrize("setting", ["optimizer=adamw_8bit", "optimizer.states=8bit"])
def test_without_the_extra_it_is_refused_before_anything_is_written(tmp_path, monkeypatch, setting) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_text(RECIPE, encoding="utf-8")
    for verb in ("check", "train"):
        done = CliRunner().invoke(app, [verb, "run.yaml", setting])
        assert done.exit_code == 2, done.output
        assert done.stderr.splitlines()[-1].removeprefix("holdfast: ") == (
            "optimizer.states: 8bit needs bitsandbytes, which is not installed; pip install 'holdfast[quant]'"
        )
    assert not (tmp_path / "out").exists()


def walk(states: str, dtype: torch.dtype, steps: int, start: int = 0, state=None, weights=None):
    """A matrix of 16,384 weights and a vector after steps on given gradients."""
    generator = torch.Generator().manual_seed(0)
    weights = weights or {
        "matrix": torch.randn(128, 128, generator=generator), "vector": torch.randn(8, generator=generator)
    }  # fmt: skip
    params = {name: torch.nn.Parameter(value.to(dtype)) for name, value in weights.items()}
    rule = find_method("optimizers", "adamw")(states=states, learning_rate=1e-3).build(params.items())
    if state is not None:
        rule.load(state)
    for step in range(start, start + steps):
        generator.manual_seed(step)
        for p in params.values():
            p.grad = (torch.randn(p.shape, generator=generator) + 0.5).to(dtype)
        rule.step()
        rule.zero_grad()
    return {name: p.detach().clone() for name, p in params.items()}, rule


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_follows_fp32_states_on_a_quarter_of_their_memory(dtype) -> None:
    start, _ = walk("fp32", dtype, 0)
    wide, wide_rule = walk("fp32", dtype, 20)
    short, short_rule = walk("8bit", dtype, 20)
    way = (wide["matrix"].float() - start["matrix"].float()).norm()
    assert torch.dist(short["matrix"].float(), wide["matrix"].float()) < 0.1 * way
    assert torch.equal(short["vector"], wide["vector"]) or torch.dist(short["vector"], wide["vector"]) < 1e-2
    sizes = []
    for rule in (wide_rule, short_rule):
        moments = {k: t for k, t in rule.state_tensors().items() if "matrix" in k and "remainder" not in k}
        sizes.append(sum(t.numel() * t.element_size() for t in moments.values()))
    assert sizes[1] < 0.3 * sizes[0]


@needs_library
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_from_its_state_it_goes_on_bit_for_bit(dtype) -> None:
    whole, _ = walk("8bit", dtype, 6)
    half, rule = walk("8bit", dtype, 3)
    state = {name: tensor.clone() for name, tensor in rule.state_tensors().items()}
    again, _ = walk("8bit", dtype, 3, 3, state, half)
    assert all(torch.equal(again[name], tensor) for name, tensor in whole.items())


@needs_library
def test_a_run_learns_and_its_checkpoint_holds_the_states(tmp_path) -> None:
    optimizer = {"name": "adamw_8bit", "learning_rate": 0.01}
    recipe = material.recipe({"epochs": 2}, optimizer=optimizer)
    result = Trainer(recipe, material.model(hidden_size=64), material.table(), tmp_path, pad_id=0).fit()
    from safetensors.torch import load_file

    (folder,) = (tmp_path / "checkpoints").glob("step-*")
    stored = load_file(folder / "optimizer.safetensors")
    assert any(t.dtype == torch.uint8 for t in stored.values())
    assert {float(t) for name, t in stored.items() if name.endswith(".step")} == {float(result.steps)}
    again = Trainer(recipe, material.model(hidden_size=64), material.table(), tmp_path, pad_id=0).fit()
    assert again.resumed_from == result.steps
    assert all(torch.equal(p, q) for p, q in zip(result.model.parameters(), again.model.parameters(), strict=True))
