"""Decoding over fixed tensors, step by step as a CUDA graph would: the samples of the growing batch, on a CPU."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation import static_cache
from holdfast.generation.native import NativeEngine
from holdfast.generation.static_batch import StaticBatch
from holdfast.generation.static_cache import choose_columns, count_fitting_slots, round_capacity
from holdfast.generation.static_forward import (
    StaticLlamaForward,
    StaticPlainForward,
    build_static_forward,
    prove_static_forward,
    static_lacks,
)
from holdfast.generation.token_sampler import choose_tokens, uniform_numbers, uniform_tensor
from holdfast.models.loading import load_model
from holdfast.models.varlen_attention import register_attention

WORDS = ["what", "is", "the", "capital", "of", "France", "answer", "sort", "letters", "12", "30"]
SYSTEM = "answer the question of the user in order: sort the letters of the word"
DRAWN = {"temperature": 0.9, "top_p": 0.9, "top_k": 40, "n": 3, "seed": 5}


class StaticEngine(NativeEngine):
    """The native engine as on a CUDA device, its steps run as they are."""

    static_devices = frozenset({"cpu"})


def ask(count: int, system: str | None = None, most: int = 14) -> list[Request]:
    rng = random.Random(0)
    before = [{"role": "system", "content": system}] if system else []
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, most))) for _ in range(count)]
    return [Request(f"q{i}", [*before, {"role": "user", "content": text}]) for i, text in enumerate(texts)]


def draw_both(
    model: Any, chat: Chat, asked: list[Request], slots: int, **settings: Any
) -> tuple[dict[Any, Sample], NativeEngine]:
    """The samples of a static batch, which are those of the growing one; and the engine that gave them."""
    params = SamplingParams(keep_ids=True, **settings)
    lines: list[str] = []
    found = []
    for kind in (NativeEngine, StaticEngine):
        engine = kind(model, chat, slots=slots, fingerprint="weights", say=lines.append)
        samples = list(engine.sample([(request, range(params.n)) for request in asked], params))
        assert len(samples) == len(asked) * params.n
        found.append({(s.key, s.index): s for s in samples})
    assert lines == []
    growing, static = ({key: replace(s, logps=()) for key, s in samples.items()} for samples in found)
    assert growing == static
    for key, sample in found[0].items():
        assert found[1][key].logps == pytest.approx(sample.logps, abs=3e-5)
        assert len(sample.logps) == (0 if sample.thought_cut else sample.tokens)
    return static, engine


CASES = {
    "llama": ("llama", {}, StaticLlamaForward),
    "qwen2": ("qwen2", {"num_key_value_heads": 1}, StaticLlamaForward),
    "qwen3": ("qwen3", {"head_dim": 16}, StaticLlamaForward),
    "gpt2": ("gpt2", {}, StaticPlainForward),
    "gemma2": ("gemma2", {}, StaticPlainForward),
    "mistral": ("mistral", {"sliding_window": 16}, StaticPlainForward),
}


@pytest.mark.parametrize("case", CASES)
def test_samples_are_those_of_the_growing_batch(tiny: Any, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sequences than slots, several samples a prompt, prompts that outgrow a bucket or share their beginning."""
    monkeypatch.setattr(static_cache, "COLUMNS", 16)
    kind, options, forward = CASES[case]
    model, tokenizer = tiny(kind, **options)
    assert type(build_static_forward(model)) is forward
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 25)}
    greedy, _ = draw_both(model, chat, ask(7), slots=4, max_tokens=20)
    drawn, engine = draw_both(model, chat, ask(6, SYSTEM), slots=5, max_tokens=20, **DRAWN)
    assert len({s.tokens for s in drawn.values()}) > 3
    assert len({s.text for s in drawn.values()}) > 12
    assert engine.counts["tokens"] == sum(s.tokens for s in drawn.values())
    assert {s.finish for s in [*greedy.values(), *drawn.values()]} == {"stop", "length"}


def test_the_laboratory_model_and_stop_strings() -> None:
    """lab-small, greedy and drawn; a stop string is found by the host, steps after the device went on."""
    loaded = load_model("lab-small", device="cpu")
    chat = Chat(loaded.tokenizer)
    asked = ask(7, most=5)
    free, _ = draw_both(loaded.model, chat, asked, slots=3, max_tokens=24, temperature=1.0)
    draw_both(loaded.model, chat, asked, slots=3, max_tokens=24)
    text = max((s.text for s in free.values()), key=len)
    stop = text[len(text) // 2 :][:2]
    cut, _ = draw_both(loaded.model, chat, asked, slots=3, max_tokens=24, temperature=1.0, stop=(stop,))
    assert sum(s.tokens for s in cut.values()) < sum(s.tokens for s in free.values())


def test_prompts_of_one_token_and_the_end_of_the_context(tiny: Any) -> None:
    model, tokenizer = tiny("gpt2", n_positions=48)
    chat = Chat(tokenizer)
    chat.stop_ids = set()
    found, _ = draw_both(model, chat, ask(6, most=6), slots=4, max_tokens=500)
    assert {s.finish for s in found.values()} == {"length"}
    chat.prompt_ids_many = lambda many: [[30 + len(m[0]["content"])] for m in many]  # type: ignore[method-assign]
    one = [Request(str(i), [{"role": "user", "content": "a" * i}]) for i in range(5)]
    assert {s.tokens for s in draw_both(model, chat, one, slots=2, max_tokens=9)[0].values()} == {9}


def test_adapters_decode_as_they_stand(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj", "down_proj"], r=2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0.0, 0.5)
    adapted.eval()
    assert isinstance(build_static_forward(adapted), StaticLlamaForward)
    found, _ = draw_both(adapted, Chat(tokenizer), ask(5), slots=4, max_tokens=12)
    with adapted.disable_adapter():
        assert found != draw_both(adapted, Chat(tokenizer), ask(5), slots=4, max_tokens=12)[0]


def refuse_lengths(*args: Any, **options: Any) -> Any:
    """A kernel of attention by lengths, of which decoding has none."""
    raise AssertionError("decoding is told no lengths")


def test_eager_attention_and_half_precision_prove_themselves(tiny: Any) -> None:
    model, tokenizer = tiny("gpt2")
    model.set_attn_implementation("eager")
    found, _ = draw_both(model, Chat(tokenizer), ask(5), slots=4, max_tokens=12)
    model.set_attn_implementation(register_attention(refuse_lengths))  # as training leaves it
    assert draw_both(model, Chat(tokenizer), ask(5), slots=4, max_tokens=12)[0] == found
    other: Any = tiny("gemma2")[0]
    other.set_attn_implementation("flex_attention")
    assert static_lacks(other).startswith("its attention is flex_attention")
    for kind in ("llama", "gpt2", "gemma2"):
        half: Any = tiny(kind)[0].bfloat16()
        assert prove_static_forward(build_static_forward(half), half) == ""


def test_a_forward_that_computes_something_else_is_found(tiny: Any) -> None:
    model = tiny("llama")[0]
    forward: Any = StaticLlamaForward(model)
    assert prove_static_forward(forward, model) == ""
    forward.layers[1] = forward.layers[0]
    assert "other logits" in prove_static_forward(forward, model)
    forward.layers = None
    assert "TypeError" in prove_static_forward(forward, model)


THOUGHT = (
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant\n<think>\n{% endif %}"
)


def test_thoughts_are_closed_in_the_middle_of_a_block(tiny: Any) -> None:
    """Forced marks replace what was drawn; sequences beside them, some of which end at once, are drawn on unchanged."""
    model, tokenizer = tiny("llama")
    for source in (THOUGHT, None):  # one that opens a thought, and one that might
        chat = Chat(tokenizer, source=source)
        chat.stop_ids = {tokenizer.eos_token_id, *range(5, 9)}
        for settings in ({}, {**DRAWN, "n": 2}):
            found, _ = draw_both(model, chat, ask(6), slots=4, max_tokens=9, max_thinking_tokens=14, **settings)
            cut = [s.thought_cut for s in found.values()]
            assert any(cut) == (source is not None)
            assert not all(cut) or not settings


def test_a_thought_that_nobody_expected_makes_the_slots_longer(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some answers turn out to be thoughts with the very token that would have ended them, for want of room."""
    monkeypatch.setattr(static_cache, "COLUMNS", 16)
    model, tokenizer = tiny("llama")
    chat = Chat(tokenizer)
    chat.stop_ids = set()
    plain = chat.text_of
    chat.text_of = lambda ids: f"<think>{plain(ids)}" if len(ids) > 3 and ids[0] % 3 else plain(ids)  # type: ignore[method-assign]
    found, engine = draw_both(model, chat, ask(8), slots=3, max_tokens=4, max_thinking_tokens=60, temperature=1.0)
    lengths = {s.thought_cut: s.tokens for s in found.values()}
    assert lengths[False] == 4
    assert lengths[True] > 60
    assert engine.counts["tokens"] == sum(s.tokens for s in found.values())


def test_what_cannot_be_captured_says_why_and_decodes_as_ever(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    asked, lines = ask(3), list[str]()
    model.model.layers[0].register_forward_hook(lambda *_: None)
    engine = StaticEngine(model, Chat(tokenizer), slots=2, fingerprint="weights", say=lines.append)
    assert len(list(engine.sample([(request, [0]) for request in asked], SamplingParams(max_tokens=4)))) == 3
    assert lines == ["decoding without CUDA graphs: hooks or patched forwards run inside the model"]
    other: Any = tiny("gemma2")[0]
    other.config.layer_types = ["chunked_attention", "full_attention"]
    assert static_lacks(other) == "it has layers of chunked_attention"


def test_without_graphs_the_steps_run_as_they_are(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no graphs: capturing fails there as it may on a card, is said once, and nothing is lost."""
    model, tokenizer = tiny("llama")
    whole = StaticBatch.__init__
    monkeypatch.setattr(StaticBatch, "__init__", lambda *args, **options: whole(*args, **{**options, "captures": True}))
    lines: list[str] = []
    params = SamplingParams(max_tokens=12, **DRAWN)
    found = []
    for kind in (NativeEngine, StaticEngine):
        engine = kind(model, Chat(tokenizer), slots=4, fingerprint="weights", say=lines.append)
        samples = engine.sample([(request, range(3)) for request in ask(4)], params)
        found.append({(s.key, s.index): s for s in samples})
    assert found[0] == found[1]
    assert len(lines) == 1
    assert lines[0].startswith("decoding goes on without CUDA graphs, which is slower: ")


def test_memory_decides_how_many_decode_together(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = tiny("llama")
    column = 2 * 2 * 2 * 8 * 4  # layers, keys and values, heads, head, bytes
    slot = 128 * column
    asked = ask(6)
    for free, line in (
        (2.6 * slot, "sampling.slots: decoding 2 sequences together, not 4: no more of up to"),
        (slot, "decoding without CUDA graphs: memory for"),
    ):
        monkeypatch.setattr(static_cache, "free_bytes", lambda device, free=free: int(free))
        lines: list[str] = []
        engine = StaticEngine(model, Chat(tokenizer), slots=4, fingerprint="weights", say=lines.append)
        samples = list(engine.sample([(request, [0]) for request in asked], SamplingParams(max_tokens=5)))
        assert len(samples) == 6
        assert [text.startswith(line) for text in lines] == [True], lines


def test_sizes() -> None:
    assert [choose_columns(n, 1152) for n in (1, 128, 129, 600, 1025)] == [128, 128, 256, 1024, 1152]
    assert [round_capacity(n) for n in (1, 128, 129)] == [128, 128, 256]
    from holdfast.generation.kv_cache import PrefilledPrompts

    like = PrefilledPrompts([(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 1, 4))] * 3)
    assert static_cache.column_bytes(like) == 3 * 2 * 12 * 4
    assert count_fitting_slots(64, 128, like) == 64  # nobody says what is free on a CPU


def test_random_numbers_of_the_device_are_those_of_the_host() -> None:
    rng = np.random.default_rng(0)
    seeds = np.concatenate([rng.integers(0, 2**64, 500, dtype=np.uint64), np.array([0, 2**63, 2**64 - 1], np.uint64)])
    positions = rng.integers(0, 5000, len(seeds))
    ours = uniform_tensor(torch.from_numpy(seeds.view(np.int64)), torch.from_numpy(positions))
    assert ours.dtype == torch.float64
    assert (ours.numpy() == uniform_numbers(seeds, positions)).all()


def choose_by_definition(logits: np.ndarray, uniform: np.ndarray, params: SamplingParams) -> np.ndarray:
    """What `choose_tokens` says it does, in NumPy and fp64."""
    if params.temperature == 0:
        return logits.argmax(-1)
    scores = logits.astype(np.float64) / params.temperature
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    if params.top_k:
        least = -np.sort(-chances, -1)[:, params.top_k - 1, None]
        chances = np.where(chances >= least, chances, 0)
        chances /= chances.sum(-1, keepdims=True)
    if params.top_p < 1:
        descending = -np.sort(-chances, -1)
        count = (descending.cumsum(-1) - descending < params.top_p).sum(-1, keepdims=True)
        chances = np.where(chances >= np.take_along_axis(descending, count - 1, -1), chances, 0)
    mass = chances.cumsum(-1)
    return (mass <= uniform[:, None] * mass[:, -1:]).sum(-1)


def test_tokens_drawn_by_torch_are_those_of_numpy() -> None:
    """Identical choices for the same uniform numbers, on fixed logits."""
    rng = np.random.default_rng(1)
    logits = rng.normal(0, 3, (400, 300)).astype(np.float32)
    uniform = rng.random(400)
    for settings in ({}, {"temperature": 0.7}, {"temperature": 1.3, "top_k": 20}, {"temperature": 1, "top_p": 0.8},
                     {"temperature": 0.9, "top_k": 30, "top_p": 0.9}):  # fmt: skip
        params = SamplingParams(**settings)
        ours = choose_tokens(torch.from_numpy(logits), torch.from_numpy(uniform), params)
        assert (ours.numpy() == choose_by_definition(logits, uniform, params)).all(), settings
