"""Prompts read in one line by their lengths: the same keys and values, the same samples."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from generation.test_static_batch import DRAWN, SYSTEM, StaticEngine, ask
from holdfast.axes.engine import SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation import packed_prefill
from holdfast.generation.continuous_batch import read_prompts
from holdfast.generation.fused_decode import PlainForward
from holdfast.generation.native import NativeEngine
from holdfast.generation.packed_prefill import PackedReader, find_packed_reader, spread_places
from varlen_reference import reference_varlen

CPU = torch.device("cpu")


@pytest.fixture
def lengths(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, bool]]:
    """As where torch's kernel runs; the size of each batch read by it, and whether it shares a beginning."""
    batches = []
    whole = PackedReader.read_prompts

    def watch(self: PackedReader, prompts: list[list[int]], before: Any = None) -> Any:
        batches.append((len(prompts), before is not None))
        return whole(self, prompts, before)

    monkeypatch.setattr(packed_prefill, "find_kernel", lambda device, dtype: (reference_varlen, ""))
    monkeypatch.setattr(PackedReader, "read_prompts", watch)
    return batches


def test_places_by_hand() -> None:
    """Two tokens that all share, then 3, 0 and 2 of their own; padding repeats what stands last."""
    places = spread_places(np.array([3, 0, 2]), 2)
    assert places.tolist() == [[0, 1, 2, 3, 4], [0, 1, 5, 5, 5], [0, 1, 5, 6, 6]]
    assert spread_places(np.array([2, 0]), 0).tolist() == [[0, 1], [1, 1]]
    assert spread_places(np.array([0, 0]), 2).tolist() == [[0, 1], [0, 1]]


@pytest.mark.parametrize("kind", ["llama", "qwen3", "gpt2", "mistral"])
def test_keys_and_values_are_those_of_padded_prompts(tiny: Any, kind: str, lengths: Any) -> None:
    """Rotary and learned positions, grouped heads, norms of heads, a window that prompts fill; a shared beginning."""
    model, _ = tiny(kind, **({"sliding_window": 4} if kind == "mistral" else {}))
    reader, reason = find_packed_reader(model)
    assert reader is not None, reason
    prompts = [[5, 6, 7, *range(20 + n, 20 + 3 * n)] for n in (6, 2, 5, 1)] + [[5, 6, 7, 9]]
    plain = PlainForward(model)
    for before in (None, read_prompts(plain, CPU, [[5, 6, 7, 0]])):
        ours, own = reader.read_prompts(prompts, before), read_prompts(plain, CPU, prompts, before)
        for layer, own_layer in zip(ours.layers, own.layers, strict=True):
            for states, own_states in zip(layer, own_layer, strict=True):
                assert states.shape == own_states.shape
                for row, prompt in enumerate(prompts):
                    length = len(prompt) - 1
                    torch.testing.assert_close(states[row, :, :length], own_states[row, :, :length])


def draw(kind: Any, model: Any, tokenizer: Any, system: str | None, lines: list[str]) -> dict[Any, Any]:
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 25)}
    engine = kind(model, chat, slots=4, fingerprint="weights", say=lines.append)
    samples = engine.sample([(r, range(3)) for r in ask(7, system)], SamplingParams(max_tokens=12, **DRAWN))
    return {(s.key, s.index): s for s in samples}


def test_samples_are_the_same(tiny: Any, lengths: Any) -> None:
    model, tokenizer = tiny("llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_prefill, "find_kernel", lambda device, dtype: (None, ""))
        plain = [draw(NativeEngine, model, tokenizer, system, []) for system in (None, SYSTEM)]
    lines: list[str] = []
    for kind in (NativeEngine, StaticEngine):
        lengths.clear()
        assert [draw(kind, model, tokenizer, system, lines) for system in (None, SYSTEM)] == plain
        assert {shared for count, shared in lengths if count > 3} == {False, True}
    assert lines == []
    adapted: Any = get_peft_model(
        model, LoraConfig(target_modules=["q_proj", "down_proj"], r=2, init_lora_weights=False)
    )
    adapted.eval()
    lengths.clear()
    found = draw(StaticEngine, adapted, tokenizer, SYSTEM, lines)
    assert lengths
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed_prefill, "find_kernel", lambda device, dtype: (None, ""))
        assert draw(NativeEngine, adapted, tokenizer, SYSTEM, lines) == found != plain[1]


def test_who_declines_is_named_once_and_reads_padded(tiny: Any, lengths: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, says in (
        ("gemma2", "gemma2 caps its attention scores"),
        ("llama", "llama: in one line they give other keys"),
    ):
        model, tokenizer = tiny(kind)
        lines: list[str] = []
        if kind == "llama":  # one that was proven for a policy, in a forward pass that cannot go on from a cache
            monkeypatch.setattr(packed_prefill, "reads_as_model", lambda reader, model: False)
        draw(StaticEngine, model, tokenizer, None, lines)
        assert [line.startswith(f"prompts are read with padding: {says}") for line in lines] == [True], lines
    assert lengths == []
