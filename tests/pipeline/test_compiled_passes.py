"""Measuring and curating through compiled layers: the same figures, no sampling in them, and failures end nothing."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.registry import REGISTRY
from holdfast.cli.app import app
from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.chat.encoder import Chat
from holdfast.evaluation.subject import EvaluatedModel, score_sequences
from holdfast.generation.native import NativeEngine
from holdfast.models import compiled_layers
from holdfast.models.compiled_layers import CompiledLayers, pause_compiled
from holdfast.models.policy import Policy
from holdfast.pipeline.compiled_passes import compile_passes, describe_arithmetic
from holdfast.training import setup

GIVEN_UP = "train.compile: the layers cannot be compiled here and run as they are, slower ("
IDS = [[40, 41, 42, 43, 44], [50, 51, 52], [60, 61, 62, 63, 64, 65, 66]]


class Counter:
    """A backend of `torch.compile` that runs what it is given, and counts."""

    def __init__(self) -> None:
        self.passes = 0

    def __call__(self, graph: Any, inputs: Any) -> Any:
        def run(*args: Any) -> Any:
            self.passes += 1
            return graph(*args)

        return run


@pytest.fixture
def counter(monkeypatch: pytest.MonkeyPatch) -> Counter:
    torch._dynamo.reset()
    counter = Counter()
    monkeypatch.setattr(compiled_layers, "CompiledLayers", functools.partial(CompiledLayers, backend=counter))
    return counter


def score(policy: Policy, tokenizer: Any) -> list[float]:
    sequences = [EncodedSequence(np.array(ids, np.int32), np.arange(len(ids)) > 0, row=0) for ids in IDS]
    return score_sequences(sequences, EvaluatedModel("weights", Chat(tokenizer), policy=policy))


def test_measuring_runs_compiled_and_sampling_does_not(tiny: Any, counter: Counter) -> None:
    """The model's sampling runs nothing compiled, before, beside and after a policy that does, nor in threads."""
    model, tokenizer = tiny("gpt2")
    engine = NativeEngine(model, Chat(tokenizer), slots=4, fingerprint="weights")
    asked = [(Request(str(i), [{"role": "user", "content": "what is " * i}]), [0]) for i in range(5)]

    def draw() -> list[str]:
        return [s.text for s in sorted(engine.sample(asked, SamplingParams(max_tokens=6)), key=lambda s: s.key)]

    plain, answers, lines = score(Policy(model), tokenizer), draw(), list[str]()
    policy = compile_passes(Policy(model), "on", lines.append)
    assert counter.passes == 0
    assert score(policy, tokenizer) == pytest.approx(plain, abs=1e-4)
    assert counter.passes == model.config.n_layer
    before = counter.passes
    assert draw() == answers
    Policy(model)
    assert counter.passes == before
    first, second = pause_compiled(), pause_compiled()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    score(policy, tokenizer)
    assert counter.passes == before, "pauses of threads overlap; the last one to end ends them"
    second.__exit__(None, None, None)
    score(policy, tokenizer)
    assert counter.passes == 2 * before
    del policy
    assert draw() == answers
    assert counter.passes == 2 * before, "layers stay compiled when their policy is gone"
    assert lines == []


def test_it_is_off_on_a_cpu_and_named_where_it_is_on(tiny: Any, counter: Counter) -> None:
    model, _ = tiny("llama")
    for setting, extra in (("auto", {}), ("off", {}), ("on", {"compiled": True})):
        assert describe_arithmetic(compile_passes(Policy(model), setting, print)) == extra


RECIPE = """\
model: lab-small
data: {train: lab:sums, limit: 16}
curate: surprise
train: {max_steps: 1, batch_tokens: 256}
sampling: {max_tokens: 8}
evaluate: {keep: [lab:strings], items: 4, live_items: 0, max_tokens: 8}
output: out
"""


def test_a_run_whose_layers_cannot_be_compiled_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A curator's log-probabilities, the base's measurement, the training and the last measurement: all of them try."""

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(REGISTRY["curators"], "surprise", "curator_experiments:Surprise")
    for module in (compiled_layers, setup):
        monkeypatch.setattr(module, "CompiledLayers", functools.partial(CompiledLayers, backend="no such backend"))
    (tmp_path / "run.yaml").write_text(RECIPE)
    done = CliRunner().invoke(app, ["train", "run.yaml", "train.compile=on"])
    assert done.exit_code == 0, (done.output, done.exception)
    assert done.output.count(GIVEN_UP) == 2, "once by what measures and curates, once by the training"
