"""Drafted tokens change no answer: greedy or sampled, whatever the draft, in every kind of batch."""

from __future__ import annotations

from queue import SimpleQueue
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.axes.engine import Request, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.generation.decoder import Decoder
from holdfast.generation.joint_forward import LogitMixture
from holdfast.generation.live_decoder import build_live_decoder
from holdfast.generation.live_engine import AnswerEvent, LiveQuestion
from holdfast.generation.native import NativeEngine
from holdfast.generation.speculative_batch import Draft
from native_engine import THOUGHT, collect, engine_of, requests

SAMPLED = SamplingParams(max_tokens=20, temperature=1.0, n=2, seed=3)


def drafted(model: Any, tokenizer: Any, by: Any, tokens: int = 3, **options: Any) -> NativeEngine:
    return engine_of(model, tokenizer, draft=Draft(by, tokens), **options)


@pytest.mark.parametrize("params", [SamplingParams(max_tokens=24), SAMPLED], ids=["greedy", "sampled"])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_answers_are_those_of_the_plain_engine(tiny: Any, kind: str, params: SamplingParams) -> None:
    """Short answers and long ones, slots that are filled anew, and one more draft than an answer has room for."""
    model, tokenizer = tiny(kind)
    asked = requests(9)
    plain = engine_of(model, tokenizer, slots=5)
    answers = collect(plain, asked, params)
    for by, is_own in ((tiny(kind, seed=1)[0], False), (model, True)):
        engine = drafted(model, tokenizer, by, slots=5)
        assert collect(engine, asked, params) == answers
        assert engine.counts["tokens"] == plain.counts["tokens"]
        if is_own:  # no draft falls, but those behind an answer's end
            assert engine.counts["steps"] < 0.5 * plain.counts["steps"]


def test_long_answers_outgrow_the_storage_and_close_up(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    asked, params = requests(3), SamplingParams(max_tokens=80, temperature=0.7)
    engines = [
        engine_of(model, tokenizer, 3, False),
        drafted(model, tokenizer, tiny("llama", seed=1)[0], 4, slots=3, stops=False),
    ]
    for engine in engines:
        engine.chat.stop_ids = {5, 6}
    plain, ours = (collect(engine, asked, params) for engine in engines)
    assert ours == plain
    assert max(sample.tokens for sample in plain.values()) == 80


def test_stop_strings_shared_beginnings_and_mixtures(tiny: Any) -> None:
    model, tokenizer = tiny("llama")
    other, by = (tiny("llama", seed=seed)[0] for seed in (1, 2))
    asked = requests(9, system="answer the question of the user in order: sort the letters of the word")
    first = collect(engine_of(model, tokenizer), asked, SamplingParams(max_tokens=30))
    text = max((sample.text for sample in first.values()), key=len)
    params = SamplingParams(max_tokens=30, stop=(text[len(text) // 2 :][:3],))
    mixture = LogitMixture(
        {"other": other}, lambda step: step["tuned"] + (1 + step.places[:, None] % 3) * step["other"]
    )
    for options in ({}, {"mixture": mixture}):
        plain = collect(engine_of(model, tokenizer, **options), asked, params)
        assert collect(drafted(model, tokenizer, by, **options), asked, params) == plain
    assert collect(drafted(model, tokenizer, by), asked, SamplingParams(max_tokens=30)) == first


@pytest.mark.parametrize("params", [SamplingParams(max_tokens=7, max_thinking_tokens=11), SAMPLED], ids=["", "plain"])
def test_thoughts_are_closed_by_force_between_drafts(tiny: Any, params: SamplingParams) -> None:
    """A random model never ends a thought; what closes it was drawn by nobody, and drafts behind it fall."""
    model, tokenizer = tiny("llama")
    engines = [engine_of(model, tokenizer, 4), drafted(model, tokenizer, model, 4, slots=4)]
    for engine in engines:
        engine.chat = Chat(tokenizer, source=THOUGHT)
        engine.chat.stop_ids = {5, 6}
    plain, ours = (collect(engine, requests(9), params) for engine in engines)
    assert ours == plain
    assert any(sample.thought_cut for sample in plain.values()) == (params.max_thinking_tokens is not None)
    assert engines[1].counts["steps"] < engines[0].counts["steps"]


def test_in_a_server_every_answer_has_parameters_of_its_own(tiny: Any) -> None:
    """Questions that come one after another, greedy and drawn, with stop strings and log-probabilities."""
    model, tokenizer = tiny("llama")
    chat = engine_of(model, tokenizer).chat
    manners = [
        SamplingParams(max_tokens=30), SamplingParams(max_tokens=20, temperature=1.0, n=3, seed=3),
        SamplingParams(max_tokens=20, temperature=0.7, top_k=5, stop=("e",)),
    ]  # fmt: skip
    told: list[list[Any]] = []
    for by in (None, tiny("llama", seed=1)[0], model):
        draft = Draft(by, 3) if by else None
        live = build_live_decoder(Decoder(model), chat, fingerprint="x", slots=5, draft=draft)
        events = list[Any]()
        try:
            heard: list[SimpleQueue[AnswerEvent]] = []
            for number, request in enumerate(requests(12)):
                heard.append(SimpleQueue())
                top = 2 if number % 2 else None
                params = manners[number % 3]
                live.ask_question(LiveQuestion(params, heard[-1].put, request=request, top_logprobs=top))
            for number, inbox in enumerate(heard):
                found = sorted((inbox.get(timeout=30) for _ in range(manners[number % 3].n)), key=lambda e: e.index)
                events += [(event.sample, [(d.token, d.start) for d in event.details]) for event in found]
        finally:
            live.close()
        told.append(events)
    assert told[0] == told[1] == told[2]


def test_answers_follow_the_models_distribution(tiny: Any) -> None:
    """The two first tokens of 2,000 drafted answers against the products of float64 softmaxes."""
    model, tokenizer = tiny("llama")
    engine = drafted(model, tokenizer, tiny("llama", seed=1)[0], 2, slots=500, stops=False)
    engine.chat.stop_ids = set()
    params = SamplingParams(max_tokens=2, temperature=0.6, top_k=3, n=2000, keep_ids=True)
    samples = list(engine.sample([(Request("q", [{"role": "user", "content": "what"}]), range(2000))], params))
    prompt = engine.chat.prompt_ids([{"role": "user", "content": "what"}])
    counts: dict[tuple[int, ...], int] = {}
    for sample in samples:
        counts[tuple(sample.ids)] = counts.get(tuple(sample.ids), 0) + 1
    chances = {}
    for one, p in next_chances(model, prompt).items():
        chances |= {(one, two): p * q for two, q in next_chances(model, [*prompt, one]).items()}
    assert set(counts) <= set(chances)
    chi2 = sum((counts.get(pair, 0) - 2000 * p) ** 2 / (2000 * p) for pair, p in chances.items())
    assert chi2 < 26.1  # 99.9 % of 8 degrees of freedom


def next_chances(model: Any, ids: list[int]) -> dict[int, float]:
    """The three likeliest next tokens at temperature 0.6, by plain arithmetic."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -1].double().numpy() / 0.6
    top = np.argsort(-logits)[:3]
    weights = np.exp(logits[top] - logits[top].max())
    return dict(zip(top.tolist(), (weights / weights.sum()).tolist(), strict=True))


def test_where_it_cannot_be_it_is_said_and_not_done(tiny: Any) -> None:
    model, tokenizer = tiny("mistral", sliding_window=16)
    said: list[str] = []
    engine = drafted(model, tokenizer, model, slots=4, say=said.append)
    params = SamplingParams(max_tokens=6)
    assert collect(engine, requests(4), params) == collect(engine_of(model, tokenizer, slots=4), requests(4), params)
    assert said == ["decoding without a draft: the attention of mistral has a window, which is counted in columns"]
