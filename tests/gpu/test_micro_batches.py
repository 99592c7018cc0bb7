"""On a card: its memory is read, micro-batches get the size that is measured best, and a fifth of it stays free."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.models.lm_head import FEWEST_ROWS, MOST_ROWS
from holdfast.models.placement import memory_bytes
from holdfast.models.policy import Policy
from holdfast.testing.examples import example_recipe, example_table, tiny_model
from holdfast.training.callbacks import Hooks
from holdfast.training.memory import FREE_SHARE
from holdfast.training.memory_estimate import measure_saved_bytes
from holdfast.training.micro_batch_search import build_meter
from holdfast.training.trainer import Trainer

MIB = 2**20
PLACES = ["cpu", pytest.param("gpu", marks=pytest.mark.gpu)]


def train(out: Path) -> tuple[Trainer, list[str]]:
    """A run whose micro-batches are of no given size."""
    recipe = example_recipe(1, objective="sft")
    recipe = recipe.model_copy(update={"train": recipe.train.model_copy(update={"micro_tokens": None})})
    notes: list[str] = []
    hooks = Hooks(on_note=notes.append)
    trainer = Trainer(recipe, tiny_model(), example_table(SFT()), out, pad_id=0, hooks=hooks)
    trainer.fit()
    return trainer, notes


@pytest.mark.parametrize("place", PLACES)
def test_a_run_says_how_it_is_computed(device: torch.device, tmp_path: Path) -> None:
    trainer, notes = train(tmp_path)
    labels = [note.partition(": ")[0] for note in notes]
    assert labels[-7:] == [
        "attention", "compile", "precision", "gradient checkpointing", "micro-batch", "head", "memory"
    ]  # fmt: skip
    cost = trainer.state.pass_cost
    assert (cost is not None) == (build_meter(device) is not None)
    if cost is not None:
        assert cost.free >= FREE_SHARE * cost.total
        assert any("tokens/s" in note for note in notes)


@pytest.mark.parametrize("place", PLACES)
def test_what_a_model_keeps_is_counted_where_it_computes(device: torch.device) -> None:
    policy = Policy(tiny_model())
    assert policy.causal.device.type == device.type
    assert (measure_saved_bytes(policy) or 0) > 2 * 4 * 32, "a state of each layer, at least"
    if memory_bytes(device) is not None:
        assert FEWEST_ROWS <= policy.chunk_rows <= MOST_ROWS


@pytest.mark.gpu
def test_the_reader_sees_a_peak_that_is_gone() -> None:
    device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    meter = build_meter(device)
    if meter is None:
        pytest.skip("this accelerator does not say its peak")
    meter.memory.start_peak()
    before, total = meter.memory.read_free()

    def take_memory() -> bool:
        torch.empty(256 * MIB, dtype=torch.uint8, device=device).zero_()
        return True

    cost = meter.measure_pass(take_memory, 1)
    assert cost is not None
    assert cost.total == total
    assert before - cost.free >= 250 * MIB
    meter.memory.start_peak()
    assert before - meter.memory.read_free()[0] < 128 * MIB
