"""Engines by name."""

from __future__ import annotations

import importlib.util
from typing import Any

import pytest

from holdfast.data.chat import Chat
from holdfast.errors import UserError
from holdfast.sampling.base import Request
from holdfast.sampling.endpoint import EndpointEngine
from holdfast.sampling.engines import make_engine, prompt_ids
from holdfast.sampling.native import NativeEngine


def test_by_name(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    native = make_engine("native", model=model, chat=Chat(tokenizer), fingerprint="w", slots=3)
    assert isinstance(native, NativeEngine)
    assert native.slots == 3
    there = make_engine("http://localhost:1/v1", name="m")
    assert isinstance(there, EndpointEngine)
    with pytest.raises(UserError, match="nativ is not native"):
        make_engine("nativ")


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed")
def test_vllm_says_when_it_is_missing(tiny: Any) -> None:
    with pytest.raises(UserError, match=r"pip install 'holdfast\[vllm\]'"):
        make_engine("vllm", path="somewhere", chat=Chat(tiny("llama")[1]))


def test_an_empty_prompt_is_refused(tiny: Any) -> None:
    chat = Chat(tiny("llama")[1])
    chat.prompt_ids_many = lambda many: [[] for _ in many]  # type: ignore[method-assign]
    with pytest.raises(UserError, match="q1: the prompt is empty"):
        prompt_ids(chat, [Request("q1", [])])
