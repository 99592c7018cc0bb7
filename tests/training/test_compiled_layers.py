"""Compiled layers: the same losses and files, and whatever fails in compiling never ends a run."""

from __future__ import annotations

import functools

import material
import pytest
import torch

from holdfast.models.compiled_layers import CompiledLayers, wants_compiled
from holdfast.recipe.schema import Recipe
from holdfast.training import setup
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

GIVEN_UP = "train.compile: the layers cannot be compiled here and run as they are, slower ("


def fit(out, table=None, **train):
    """A short run: the losses of its steps, what it said of compiling, and the model."""
    losses, notes = [], []
    settings = {"max_steps": 2, "layout": "packed", "micro_tokens": 200} | train
    hooks = Hooks(on_step=lambda log: losses.append(log.loss), on_note=notes.append)
    result = Trainer(
        material.recipe(settings), material.model(), table or material.table(8), out, pad_id=0, hooks=hooks
    ).fit()
    return losses, [note for note in notes if note.startswith("train.compile")], result.model


def backward_fails_from(count: int):
    """A backend whose code runs, until its backward pass has run `count` times."""
    passes = []

    def fail(grad):
        passes.append(grad)
        if len(passes) > count:
            raise RuntimeError("no code for the backward pass\nand a page of it")

    def compile_graph(graph, inputs):
        def run(*args):
            outputs = graph(*args)
            for output in outputs:
                if output.requires_grad:
                    output.register_hook(fail)
            return outputs

        return run

    return compile_graph


def refuse_graph(graph, inputs):
    raise RuntimeError("no compiler")


def test_compiled_layers_give_the_same_losses_and_weights(tmp_path, monkeypatch):
    """By the backend that writes no C++, which takes half a minute here; `make test-gpu` has Inductor's."""
    torch._dynamo.reset()
    monkeypatch.setattr(setup, "CompiledLayers", functools.partial(CompiledLayers, backend="aot_eager"))
    plain_losses, _, plain = fit(tmp_path / "plain", compile="off")
    torch._dynamo.utils.counters.clear()
    losses, notes, model = fit(tmp_path / "compiled", compile="on")
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    assert notes == []
    assert 1 <= graphs <= 2, "one piece of code with gradients for all layers and lengths, one without"
    assert losses == pytest.approx(plain_losses, abs=1e-5)
    assert model.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize(
    "backend", [refuse_graph, "no such backend", backward_fails_from(0), backward_fails_from(3)],
    ids=["no compiler", "no backend", "backward pass of the probe", "backward pass of a step"],
)  # fmt: skip
def test_whatever_fails_in_compiling_is_said_once_and_ends_no_run(tmp_path, monkeypatch, backend):
    torch._dynamo.reset()
    wanted, _, _ = fit(tmp_path / "plain", compile="off")
    monkeypatch.setattr(setup, "CompiledLayers", functools.partial(CompiledLayers, backend=backend))
    losses, notes, _ = fit(tmp_path / "broken", compile="on")
    assert losses == pytest.approx(wanted, abs=1e-5)
    assert len(notes) == 1
    assert notes[0].startswith(GIVEN_UP)
    assert "\n" not in notes[0]


def test_it_is_for_cuda_unless_it_is_said():
    for setting, on_cuda, on_cpu in (("auto", True, False), ("on", True, True), ("off", False, False)):
        assert wants_compiled(setting, torch.device("cuda")) == on_cuda
        assert wants_compiled(setting, torch.device("cpu")) == on_cpu


def test_booleans_are_words():
    for value, word in ((True, "on"), (False, "off"), ("auto", "auto")):
        assert material.recipe({"compile": value}).train.compile == word
    given = Recipe(model="tiny", data={"train": "rows.jsonl"}, torch_compile=True, gradient_checkpointing=True)
    assert (given.train.compile, given.train.gradient_checkpointing) == ("on", "full")
