"""Requests, engines and answers as several tests of the native engine have them."""

from __future__ import annotations

import random
from typing import Any

from holdfast.axes.engine import Request, Sample, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation.native import NativeEngine

WORDS = ["what", "is", "the", "capital", "of", "France", "answer", "sort", "letters", "12", "30"]

THOUGHT = (
    "{% for m in messages %}{{ m.role }}\n{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}assistant\n<think>\n{% endif %}"
)
"""A chat template that opens a thought."""


def requests(count: int, most: int = 14, system: str | None = None) -> list[Request]:
    rng = random.Random(0)
    before = [{"role": "system", "content": system}] if system else []
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(0, most))) for _ in range(count)]
    return [Request(f"q{i}", [*before, {"role": "user", "content": text}]) for i, text in enumerate(texts)]


def engine_of(model: Any, tokenizer: Any, slots: int = 64, stops: bool = True, **options: Any) -> NativeEngine:
    """An engine; with `stops`, many tokens end a turn, so that a random model's answers differ in length."""
    chat = Chat(tokenizer)
    if stops:
        chat.stop_ids = {tokenizer.eos_token_id, *range(5, 25)}
    return NativeEngine(model, chat, slots=slots, fingerprint="weights", **options)


def collect(engine: NativeEngine, asked: list[Request], params: SamplingParams) -> dict[tuple[str, int], Sample]:
    samples = list(engine.sample([(request, range(params.n)) for request in asked], params))
    assert len(samples) == len(asked) * params.n
    return {(s.key, s.index): s for s in samples}
