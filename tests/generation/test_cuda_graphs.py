"""Decoding steps as CUDA graphs, on a card: the samples of the steps as they are, and of the growing batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation.kv_cache import PrefilledPrompts
from holdfast.generation.native import NativeEngine
from holdfast.generation.packed_prefill import find_packed_reader
from holdfast.generation.static_batch import StaticBatch
from holdfast.generation.static_cache import StaticSlotCache, count_fitting_slots
from holdfast.models.placement import free_bytes, give_back_memory

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a card")]

CARD = torch.device("cuda", 0)
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "drawn": {"temperature": 1.0, "n": 3, "seed": 3},
    "drawn from a few": {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "n": 2, "stop": ("th", "an")},
    "with thoughts": {"temperature": 1.0, "max_thinking_tokens": 20},
}


class GrowingEngine(NativeEngine):
    """The native engine as on a CPU."""

    static_devices = frozenset[str]()


class WatchedEngine(NativeEngine):
    """The native engine; its last static batch is kept."""

    batch: StaticBatch
    captures = True

    def _form_static_batch(self, *args: Any) -> Any:
        batch: Any = super()._form_static_batch(*args)
        batch.runner.captures = self.captures
        self.batch = batch
        return batch


class UncapturedEngine(WatchedEngine):
    """The same steps, launched kernel by kernel."""

    captures = False


def draw(engine: NativeEngine, count: int, params: SamplingParams) -> dict[tuple[str, int], Sample]:
    asked = [
        Request(f"q{i}", [{"role": "user", "content": "what is the capital " * (1 + i % 9)}]) for i in range(count)
    ]
    samples = engine.sample([(request, range(params.n)) for request in asked], params)
    return {(s.key, s.index): s for s in samples}


def build(kind: type[NativeEngine], model: Any, tokenizer: Any, lines: list[str], slots: int = 12) -> Any:
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 9)}
    return kind(model, chat, slots=slots, fingerprint="weights", say=lines.append)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "gemma2"])
def test_a_graph_gives_the_tokens_of_the_growing_batch(tiny: Any, kind: str) -> None:
    """In fp32: what sums in another order moves no draw of these."""
    model, tokenizer = tiny(kind)
    model.to(CARD)
    for name, settings in SETTINGS.items():
        params, lines = SamplingParams(max_tokens=60, **settings), list[str]()
        engine = build(WatchedEngine, model, tokenizer, lines)
        assert draw(engine, 20, params) == draw(build(GrowingEngine, model, tokenizer, lines), 20, params), name
        assert engine.batch.runner.graphs, "no step was captured"
        assert lines == []


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_a_graph_gives_the_tokens_of_its_steps_in_half_precision(tiny: Any, kind: str) -> None:
    """The same kernels with the same numbers: the same bits."""
    model, tokenizer = tiny(kind)
    model.to(CARD, torch.bfloat16)
    for name, settings in SETTINGS.items():
        params, lines = SamplingParams(max_tokens=60, **settings), list[str]()
        graphs, steps = (build(one, model, tokenizer, lines) for one in (WatchedEngine, UncapturedEngine))
        assert draw(graphs, 20, params) == draw(steps, 20, params), name
        assert graphs.batch.runner.graphs
        assert not steps.batch.runner.graphs
        assert lines == []


def test_a_graph_for_each_number_of_slots_and_columns(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    model.to(CARD)
    lines: list[str] = []
    engine = build(WatchedEngine, model, tokenizer, lines, slots=16)
    engine.chat.stop_ids = {5}
    draw(engine, 24, SamplingParams(max_tokens=150, temperature=1.0))
    sizes = set(engine.batch.runner.graphs)
    assert {columns for _, columns in sizes} >= {128, 256}
    assert max(slots for slots, _ in sizes) == 16
    assert lines == []


def test_graphs_serve_the_next_call_and_read_weights_as_they_then_are(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    model.to(CARD)
    params, lines = SamplingParams(max_tokens=40, temperature=1.0, seed=1), list[str]()
    engine = build(NativeEngine, model, tokenizer, lines)
    first, runner = draw(engine, 20, params), engine._kept.runner
    graphs = dict(runner.graphs)
    assert graphs
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)).to(CARD))
    engine.update_model(model, "after a step")
    second = draw(engine, 20, params)
    assert engine._kept.runner is runner
    assert graphs.items() <= runner.graphs.items()
    assert second != first
    assert second == draw(build(GrowingEngine, model, tokenizer, lines), 20, params)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    draw(engine, 20, params)
    assert engine._kept.runner is not runner
    assert lines == []


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2"])
def test_prompts_are_read_by_lengths_in_half_precision(tiny: Any, kind: str) -> None:
    """Torch's own kernel over a cache, as a few tokens prove before it is used; in fp32 there is none."""
    model, _ = tiny(kind)
    model.to(CARD)
    assert find_packed_reader(model) == (None, "")
    reader, reason = find_packed_reader(model.to(torch.bfloat16))
    assert (reader is not None, reason) == (True, "")


def test_the_slots_leave_a_fifth_of_the_free_memory() -> None:
    give_back_memory(CARD)
    before = free_bytes(CARD)
    assert before is not None
    like = PrefilledPrompts([(torch.zeros(1, 32, 1, 128, device=CARD),) * 2] * 8)
    count = count_fitting_slots(10_000, 1024, like)
    cache = StaticSlotCache(count, 1024, like)
    after = free_bytes(CARD)
    assert after is not None
    assert 0.15 * before < after < 0.25 * before
    del cache
    give_back_memory(CARD)


def test_what_a_capture_does_not_allow_runs_as_it_is_and_says_so(tiny: Any) -> None:
    """A layer that asks the card for a number cannot be captured."""
    model, tokenizer = tiny("gpt2")
    model.to(CARD)

    class Asking(torch.nn.GELU):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) if float(input.sum()) < 1e30 else input

    model.transformer.h[0].mlp.act = Asking(approximate="tanh")
    params, lines = SamplingParams(max_tokens=30, temperature=1.0), list[str]()
    found = draw(build(NativeEngine, model, tokenizer, lines), 6, params)
    assert len(lines) == 1
    assert lines[0].startswith("decoding goes on without CUDA graphs, which is slower: ")
    assert found == draw(build(GrowingEngine, model, tokenizer, []), 6, params)
