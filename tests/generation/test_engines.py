"""Engines by name."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.generation import vllm
from holdfast.generation.factory import build_engine
from holdfast.generation.native import NativeEngine
from holdfast.generation.openai_endpoint import EndpointEngine
from holdfast.generation.prompt_ids import prompt_ids


def test_by_name(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    native = build_engine("native", model=model, chat=Chat(tokenizer), fingerprint="w", slots=3)
    assert isinstance(native, NativeEngine)
    assert native.slots == 3
    there = build_engine("http://localhost:1/v1", name="m")
    assert isinstance(there, EndpointEngine)
    with pytest.raises(UserError, match="nativ is not native"):
        build_engine("nativ")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_says_when_it_is_missing(tiny: Any) -> None:
    with pytest.raises(UserError, match=r"pip install 'holdfast\[vllm\]'"):
        build_engine("vllm", path="somewhere", chat=Chat(tiny("llama")[1]))


def test_an_empty_prompt_is_refused(tiny: Any) -> None:
    chat = Chat(tiny("llama")[1])
    chat.prompt_ids_many = lambda many: [[] for _ in many]  # type: ignore[method-assign]
    with pytest.raises(UserError, match="q1: the prompt is empty"):
        prompt_ids(chat, [Request("q1", [])])


class FakeVLLM:
    """Stands for vLLM, which no test machine has: thinks without an end, then answers; keeps what it was asked."""

    class SamplingParams(dict):
        def __init__(self, **settings: Any) -> None:
            super().__init__(settings)

    def __init__(self, **_: Any) -> None:
        self.asked: list[tuple[list[int], dict[str, Any]]] = []
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=99))

    def generate(self, prompts: list[Any], settings: list[Any], use_tqdm: bool) -> list[Any]:
        self.asked += [(p["prompt_token_ids"], s) for p, s in zip(prompts, settings, strict=True)]
        thinks = settings[0]["stop"] == ["</think>"]
        said = SimpleNamespace(
            text="hm, hm" if thinks else "42", token_ids=[7] * settings[0]["max_tokens"] if thinks else [8, 9],
            finish_reason="length" if thinks else "stop",
        )  # fmt: skip
        return [SimpleNamespace(outputs=[said]) for _ in prompts]


def test_vllm_closes_a_thought_over_budget_and_goes_on(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(SamplingParams=FakeVLLM.SamplingParams, LLM=FakeVLLM, __version__="0")
    monkeypatch.setitem(sys.modules, "vllm", fake)
    monkeypatch.setattr(vllm, "require_vllm", lambda: None)
    tokenizer = tiny("llama")[1]
    source = tokenizer.chat_template.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}")
    chat = Chat(tokenizer, source=source)
    engine = vllm.VLLMEngine("model", chat, fingerprint="weights")
    request = Request("a", [{"role": "user", "content": "Add 40 and 2."}])
    closing = chat.ids_of("\n</think>\n\n")
    (sample,) = engine.sample([(request, [0])], SamplingParams(max_tokens=5, max_thinking_tokens=3, stop=("STOP",)))
    made = 3 + len(closing)
    assert sample == Sample("a", 0, "<think>\nhm, hm\n</think>\n\n42", "stop", made + 2, made, True)
    prompt = chat.prompt_ids(request.messages)
    (first, think), (second, answer) = engine._model.asked
    assert (first, think["max_tokens"], think["include_stop_str_in_output"]) == (prompt, 3, True)
    assert (second, answer["max_tokens"], answer["stop"]) == ([*prompt, 7, 7, 7, *closing], 5, ["STOP"])
    (plain,) = engine.sample([(request, [0])], SamplingParams(max_tokens=5))
    assert (plain.text, plain.thought_tokens) == ("<think>\n42", 0)


@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_vllm_itself_answers_as_the_native_engine(tiny_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Greedy answers of fp32 weights, stop strings, limits, and samples that a seed repeats."""
    from holdfast.models.loading import load_model

    monkeypatch.setenv("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    shape = {"hidden_size": 256, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64}  # heads it knows
    path = tiny_dir("llama", initializer_range=0.05, **shape)
    loaded = load_model(path)
    chat = Chat(loaded.tokenizer)
    native = NativeEngine(loaded.model, chat, fingerprint="w")
    engine = vllm.VLLMEngine(
        str(path), chat, fingerprint="w", dtype="float32", enforce_eager=True, max_model_len=128,
        **({"gpu_memory_utilization": 0.2} if loaded.device.type != "cpu" else {}),
    )  # fmt: skip
    asked = [Request(f"q{i}", [{"role": "user", "content": "sort the letters " * (i + 1)}]) for i in range(6)]

    def draw(one: Any, **settings: Any) -> dict[tuple[str, int], Sample]:
        params = SamplingParams(max_tokens=12, **settings)
        samples = list(one.sample([(request, range(params.n)) for request in asked], params))
        assert len(samples) == len(asked) * params.n
        return {(s.key, s.index): s for s in samples}

    greedy = draw(engine)
    assert greedy == draw(native)
    text = max((s.text for s in greedy.values()), key=len)
    stops = {"stop": (text[3:5],)}
    assert {key: s.text for key, s in draw(engine, **stops).items()} == {
        key: s.text for key, s in draw(native, **stops).items()
    }
    drawn = draw(engine, temperature=1.0, top_k=50, top_p=0.9, n=3, seed=4)
    assert drawn == draw(engine, temperature=1.0, top_k=50, top_p=0.9, n=3, seed=4)
    assert len({s.text for s in drawn.values()}) > 6
    long = Request("long", [{"role": "user", "content": "sort " * 200}])
    assert list(engine.sample([(long, [0])], SamplingParams())) == [Sample("long", 0, "", "length", 0)]
