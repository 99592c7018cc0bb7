"""Slots and graphs from one sampling call to the next: what lets go of them, and what need not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model

from generation.test_static_batch import StaticEngine, ask
from holdfast.axes.engine import SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation import kept_graphs
from holdfast.generation.native import NativeEngine


def build(model: Any, tokenizer: Any, kind: Any = StaticEngine) -> Any:
    return kind(model, Chat(tokenizer), slots=4, fingerprint="weights")


def draw(engine: Any, count: int = 5, **settings: Any) -> dict[Any, Any]:
    params = SamplingParams(**({"max_tokens": 8, "temperature": 0.7, "seed": 3} | settings))
    return {s.key: s for s in engine.sample([(request, [0]) for request in ask(count)], params)}


@pytest.fixture
def adapted(tiny: Any) -> Any:
    model, tokenizer = tiny("llama")
    config = LoraConfig(target_modules=["q_proj", "down_proj"], r=2, init_lora_weights=False)
    return get_peft_model(model, config).eval(), tokenizer


def test_weights_updated_in_place_are_seen_by_what_is_kept(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = build(model, tokenizer)
    first, runner = draw(engine), engine._kept.runner
    assert runner is not None
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    engine.update_model(model, "after a step")
    second = draw(engine)
    assert engine._kept.runner is runner
    assert second != first
    assert second == draw(build(model, tokenizer, NativeEngine))
    model.load_state_dict(model.state_dict())
    draw(engine, count=3, max_tokens=4, seed=4, stop=("x",))  # fewer, shorter, others
    assert engine._kept.runner is runner


def replace_weight(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())


def replace_module(model: Any) -> None:
    class Doubled(torch.nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    old = model.base_model.model.lm_head
    new = Doubled(old.in_features, old.out_features, bias=False)
    new.weight = old.weight
    model.base_model.model.lm_head = new


CHANGES: dict[str, Any] = {
    "a weight lies elsewhere": replace_weight,
    "a buffer lies elsewhere": lambda model: model.base_model.model.model.rotary_emb.register_buffer(
        "inv_freq", model.base_model.model.model.rotary_emb.inv_freq.clone()
    ),
    "an adapter is off": lambda model: model.base_model.disable_adapter_layers(),
    "an adapter is folded in": lambda model: model.merge_adapter(),
    "an adapter weighs less": lambda model: model.base_model.model.model.layers[0].mlp.down_proj.set_scale(
        "default", 0.1
    ),
    "a module computes otherwise": replace_module,
    "another type": lambda model: model.to(torch.float64),
    "a setting of the model": lambda model: model.config.update({"rms_norm_eps": 0.1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_a_graph_would_not_notice_lets_go_of_it(adapted: Any, change: str) -> None:
    model, tokenizer = adapted
    engine = build(model, tokenizer)
    draw(engine)
    runner = engine._kept.runner
    draw(engine)
    assert engine._kept.runner is runner
    CHANGES[change](model)
    found = draw(engine)
    assert engine._kept.runner is not runner
    if change != "another type":
        assert found == draw(build(model, tokenizer, NativeEngine))


def test_what_is_asked_lets_go_of_it_too(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = build(model, tokenizer)
    for settings in ({"count": 2}, {"count": 6}, {"max_tokens": 150}, {"temperature": 0}, {"top_k": 5}, {"top_p": 0.5}):
        before = engine._kept.runner
        assert draw(engine, **settings) == draw(build(model, tokenizer, NativeEngine), **settings)
        assert engine._kept.runner is not before, settings
    before = engine._kept.runner
    engine.chat.stop_ids = {7}
    draw(engine, top_p=0.5)
    assert engine._kept.runner is not before
    engine.update_model(tiny("llama", 1)[0], "another model")
    assert engine._kept.runner is None


def test_calls_that_overlap_share_nothing(tiny: Any) -> None:
    """Each generator waits for its reader, with half of its samples drawn."""
    model, tokenizer = tiny("llama")
    engine, plain = build(model, tokenizer), build(model, tokenizer, NativeEngine)
    draw(engine)
    params = SamplingParams(max_tokens=8, temperature=0.7)
    asked = [(request, [0]) for request in ask(9)]
    one, two = engine.sample(asked, params), engine.sample(asked[::-1], params)
    pairs = list(zip(one, two, strict=True))
    expected = {s.key: s for s in plain.sample(asked, params)}
    assert {s.key: s for s, _ in pairs} == expected == {s.key: s for _, s in pairs}


def test_a_model_without_numbers_leaves_none_behind(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    engine = build(model, tokenizer)
    layer = model.model.layers[0].self_attn.v_proj.weight
    values = layer.detach().clone()
    with torch.no_grad():
        layer.fill_(float("nan"))
    draw(engine, temperature=0)
    runner = engine._kept.runner
    with torch.no_grad():
        layer.copy_(values)
    assert draw(engine, temperature=0) == draw(build(model, tokenizer, NativeEngine), temperature=0)
    assert engine._kept.runner is runner


def test_slots_that_take_much_are_not_kept(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny("llama")
    column = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head, bytes
    for total, is_kept in ((10 * 4 * 128 * column, True), (10 * 4 * 128 * column - 10, False)):
        monkeypatch.setattr(kept_graphs, "memory_bytes", lambda device, total=total: total)
        engine = build(model, tokenizer)
        draw(engine)
        assert (engine._kept.runner is not None) == is_kept
