"""Questions that join a running batch are answered as in a batch of their own, whatever comes and goes beside them."""

from __future__ import annotations

import itertools
import queue
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from holdfast.axes.engine import Engine, Request, Sample, SamplingParams
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.generation.decoder import Decoder, build_decoder
from holdfast.generation.growing_batch import GrowingBatch
from holdfast.generation.live_batch import LiveBatch
from holdfast.generation.live_decoder import LiveDecoder, build_live_decoder
from holdfast.generation.live_engine import AnswerEvent, ContextOverflow, LiveQuestion, NoLogprobs
from holdfast.generation.native import NativeEngine
from holdfast.generation.prompt_ids import prompt_ids
from holdfast.generation.text_stream import TextStream
from holdfast.models.loading import load_model
from holdfast.recipe.choices import choose_method
from holdfast.testing.inference import QUESTIONS, build_tried_decoder, model_pair

WORDS = ["what", "is", "the", "capital", "of", "France", "answer", "sort", "letters", "12", "30"]
OWN = {
    name.lower(): f"methods.inference.ensemble:{name}" for name in ("Ensemble", "Opening", "Beginning", "Shots", "Vote")
}


def conversations(count: int) -> list[list[dict[str, Any]]]:
    rng = random.Random(1)
    return [[{"role": "user", "content": " ".join(rng.choices(WORDS, k=rng.randint(1, 20)))}] for _ in range(count)]


def early_stopping(tokenizer: Any) -> Chat:
    """A chat in which many tokens end a turn, so that a random model's answers differ in length."""
    chat = Chat(tokenizer, "sort the letters")
    chat.stop_ids = {tokenizer.eos_token_id, *range(5, 15)}
    return chat


class Asked:
    """A question and all that its listener was told."""

    def __init__(self, live: LiveDecoder, params: SamplingParams, **more: Any) -> None:
        self.events: queue.SimpleQueue[AnswerEvent] = queue.SimpleQueue()
        self.question = LiveQuestion(params, self.events.put, **more)
        live.ask_question(self.question)

    def wait(self) -> tuple[list[Sample], list[AnswerEvent]]:
        """Its samples, and all events in between."""
        samples: dict[int, Sample] = {}
        between = []
        while len(samples) < self.question.params.n:
            event = self.events.get(timeout=30)
            if event.error:
                raise event.error
            if event.sample:
                samples[event.index] = event.sample
            between.append(event)
        return [samples[index] for index in sorted(samples)], between


def expected(engine: Engine, request: Request, params: SamplingParams) -> list[Sample]:
    return sorted(engine.sample([(request, range(params.n))], params), key=lambda sample: sample.index)


@pytest.fixture
def open_live() -> Any:
    """`open_live(decoder, chat, slots=8)` -> a `LiveDecoder` that is closed at the end."""
    opened: list[LiveDecoder] = []

    def build(decoder: Decoder, chat: Chat, slots: int = 8) -> LiveDecoder:
        opened.append(build_live_decoder(decoder, chat, fingerprint="x", slots=slots))
        return opened[-1]

    yield build
    for live in opened:
        live.close()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # joined weights in several threads; the model's own pass in one
def test_answers_do_not_depend_on_who_else_asks(
    kind: str, tiny: Any, open_live: Callable[..., LiveDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny(kind)
    chat, decoder = early_stopping(tokenizer), Decoder(model)
    manners = [
        SamplingParams(max_tokens=12),
        SamplingParams(max_tokens=30, temperature=1.0, seed=3, n=3),
        SamplingParams(max_tokens=20, temperature=0.7, top_p=0.8, seed=4),
        SamplingParams(max_tokens=40, temperature=1.3, top_k=5, seed=5, n=2, stop=("e", "ab")),
    ]
    talks = conversations(20)
    for k in range(0, 20, 3):  # most begin with the chat's own system message, which is read once
        talks[k] = [{"role": "system", "content": "answer"}, *talks[k]]
    jobs = [(Request("", talk), manners[k % 4]) for k, talk in enumerate(talks)]
    engine = decoder.build_engine(chat, fingerprint="x")
    wanted = [expected(engine, request, params) for request, params in jobs]
    sizes: list[int] = []
    step = GrowingBatch.decode_step

    def count_slots(self: GrowingBatch) -> Any:
        sizes.append(len(self.live))
        return step(self)

    monkeypatch.setattr(GrowingBatch, "decode_step", count_slots)
    live = open_live(decoder, chat)
    asked = []
    for number, (request, params) in enumerate(jobs):
        asked.append(Asked(live, params, request=request, streams=number % 2 == 0, top_logprobs=None))
        if number % 5 == 0:
            time.sleep(0.01)  # some come while others are answered
    for one, samples in zip(asked, wanted, strict=True):
        found, events = one.wait()
        assert found == samples
        for before, after in itertools.pairwise(events):
            if before.index == after.index and after.sample is None:
                assert after.text.startswith(before.text)
    assert len(live.source.job.shared_ids) >= 8
    assert max(sizes) <= 8
    assert len(set(sizes)) > 1  # it grew or shrank


def test_log_probabilities_are_the_models(tiny: Any, open_live: Callable[..., LiveDecoder]) -> None:
    model, tokenizer = tiny()
    chat = early_stopping(tokenizer)
    live = open_live(Decoder(model), chat)
    request = Request("", conversations(1)[0])
    params = SamplingParams(max_tokens=12, temperature=1.0, top_k=3, seed=1)
    (sample,), events = Asked(live, params, request=request, top_logprobs=4).wait()
    details = events[-1].details
    ids = [detail.token for detail in details]
    assert chat.text_of(ids) == sample.text
    assert len(ids) == sample.tokens - (sample.finish == "stop")
    prompt = prompt_ids(chat, [request])[0]
    with torch.no_grad():
        logps = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0].double(), -1)[len(prompt) - 1 :]
    for k, detail in enumerate(details):
        assert detail.logprob == pytest.approx(float(logps[k, detail.token]), abs=1e-4)
        best = logps[k].topk(4)
        assert [token for token, _ in detail.top] == best.indices.tolist()
        assert [value for _, value in detail.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        assert detail.start == len(chat.text_of(ids[:k]).rstrip("\ufffd"))


def test_nobody_waits_for_what_is_cancelled(tiny: Any, open_live: Callable[..., LiveDecoder]) -> None:
    model, tokenizer = tiny(max_position_embeddings=4096)
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.pad_token_id}
    live = open_live(Decoder(model), chat, slots=1)
    talks = conversations(3)
    endless = Asked(live, SamplingParams(max_tokens=4000), request=Request("", talks[0]), streams=True)
    assert not endless.events.get(timeout=30).sample
    waiting = Asked(live, SamplingParams(max_tokens=4000), request=Request("", talks[1]))
    last = Asked(live, SamplingParams(max_tokens=3), request=Request("", talks[2]))
    waiting.question.cancel_answer()
    endless.question.cancel_answer()
    (sample,), _ = last.wait()  # the only slot is free again
    assert sample.tokens <= 3
    assert waiting.events.empty()


def test_what_cannot_be_asked_is_refused_and_harms_nobody(tiny: Any, open_live: Callable[..., LiveDecoder]) -> None:
    model, tokenizer = tiny()
    live = open_live(Decoder(model), Chat(tokenizer))
    params = SamplingParams(max_tokens=4)
    with pytest.raises(ContextOverflow, match=r"the prompt has .* tokens, and the model's context length of 256"):
        Asked(live, params, request=Request("", [{"role": "user", "content": "what " * 300}]))
    with pytest.raises(UserError, match=r"token 9999 .* is unknown to the model"):
        Asked(live, params, prompt=[9999])
    with pytest.raises(UserError, match="the prompt is empty"):
        Asked(live, params, text="")
    assert len(Asked(live, params, text="The capital").wait()[0]) == 1


def test_an_error_of_the_model_is_told_and_the_next_batch_begins_anew(
    tiny: Any, open_live: Callable[..., LiveDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = tiny()
    live = open_live(Decoder(model), Chat(tokenizer))
    asked = [Request("", talk) for talk in conversations(2)]
    with monkeypatch.context() as patch:
        patch.setattr(LiveBatch, "decode_step", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            Asked(live, SamplingParams(max_tokens=4), request=asked[0]).wait()
    assert Asked(live, SamplingParams(max_tokens=4), request=asked[1]).wait()[0]


@pytest.mark.parametrize("name", list(OWN))
def test_methods_answer_as_in_a_batch(
    name: str, tiny_dir: Any, open_live: Callable[..., LiveDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(REGISTRY["inference"], name, OWN[name])
    base, tuned = load_model(tiny_dir("llama", seed=0)), load_model(tiny_dir("llama", seed=1))
    method: Any = find_method("inference", name)()
    decoder = build_decoder(method, base if method.reads_base() else None, tuned.model, str(base.path))
    chat, params = Chat(tuned.tokenizer), SamplingParams(max_tokens=6, n=2, seed=9, temperature=0.8)
    live = open_live(decoder, chat)
    asked = [Asked(live, params, request=Request(f"q{k}", talk)) for k, talk in enumerate(conversations(5))]
    engine = decoder.build_engine(chat, fingerprint="x")
    for k, (one, talk) in enumerate(zip(asked, conversations(5), strict=True)):
        assert one.wait()[0] == expected(engine, Request(f"q{k}", talk), params)
    attempts = bool(decoder.methods_changing("attempts"))
    assert live.is_whole == attempts
    assert bool(asked[0].question.answer_tokens) == attempts
    if attempts:
        with pytest.raises(NoLogprobs, match="answers are made by vote out of several attempts"):
            Asked(live, params, request=Request("", conversations(1)[0]), top_logprobs=1)
    if {"prompt", "prefix", "attempts"} & {*decoder.changes}:
        with pytest.raises(UserError, match=f"answers are made by {name}, which asks with a conversation"):
            Asked(live, params, text="The capital")


def test_registered_methods_answer_as_in_a_batch(
    tmp_path: Path, open_live: Callable[..., LiveDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("What is 3 + 4? It is 7.\n")
    (tmp_path / "facts.csv").write_text("3,and 4 make,7\n")
    knobs: dict[str, dict[str, Any]] = {
        "self_consistency": {"n": 3}, "best_of_n": {"n": 2}, "rag": {"documents": ["notes.txt"], "by": "embedding"},
        "hykge": {"graph": ["facts.csv"], "hypothesis_tokens": 6}, "proxy": {"antiexpert": "lab-small"},
        "reflexion": {"trials": 2, "judge": {"name": "python", "function": f"{tmp_path / 'check.py'}:judge"}},
    }  # fmt: skip
    (tmp_path / "check.py").write_text("def judge(response, row):\n    return '7' in response\n")
    chat = model_pair()[2]
    talks = [[{"role": "user", "content": text}] for text in QUESTIONS[:3]]
    params = SamplingParams(max_tokens=6, n=2, seed=5, temperature=0.8)
    for name, own in knobs.items():
        method: Any = choose_method("inference", {"name": name, **own})
        decoder = build_tried_decoder(method)
        engine, live = decoder.build_engine(chat, fingerprint="x"), open_live(decoder, chat)
        asked = [Asked(live, params, request=Request(f"q{k}", talk)) for k, talk in enumerate(talks)]
        for k, (one, talk) in enumerate(zip(asked, talks, strict=True)):
            assert one.wait()[0] == expected(engine, Request(f"q{k}", talk), params), name
        assert live.is_whole == (name in ("self_consistency", "best_of_n", "hykge", "reflexion"))


def test_a_method_that_fails_is_told(tiny: Any, open_live: Callable[..., LiveDecoder]) -> None:
    from methods.inference.ensemble import Vote

    class Broken(Vote):
        def attempts(self, request: Request) -> Any:
            yield [request]
            raise ArithmeticError("no votes")

    model, tokenizer = tiny()
    live = open_live(Decoder(model, [Broken()]), Chat(tokenizer))
    with pytest.raises(ArithmeticError, match="no votes"):
        Asked(live, SamplingParams(max_tokens=2), request=Request("", conversations(1)[0])).wait()


def test_models_that_only_generate_can_run_answer_whole(
    tiny: Any, open_live: Callable[..., LiveDecoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("holdfast.generation.factory.native_lacks", lambda model: "a cache of that kind")
    model, tokenizer = tiny()
    chat, decoder = early_stopping(tokenizer), Decoder(model)
    live = open_live(decoder, chat)
    assert live.is_whole
    params = [SamplingParams(max_tokens=8 + k % 2, temperature=1.0, seed=k, n=2) for k in range(6)]
    asked = [Asked(live, p, request=Request("", talk)) for p, talk in zip(params, conversations(6), strict=True)]
    engine = NativeEngine(model, chat, fingerprint="x")
    for one, p, talk in zip(asked, params, conversations(6), strict=True):
        samples = sorted(engine.sample([(Request("", talk), range(2))], p), key=lambda s: s.index)
        assert [(s.text, s.finish) for s in one.wait()[0]] == [(s.text, s.finish) for s in samples]
    with pytest.raises(NoLogprobs):
        Asked(live, params[0], request=Request("", conversations(1)[0]), top_logprobs=1)


def test_text_grows_by_whole_characters(tokenizer: Any) -> None:
    chat = Chat(tokenizer)
    text = "Zwölf Boxkämpfer 🥊 jagen Viktor, 東京.\n"
    stream, seen = TextStream(chat), [""]
    for token in tokenizer.encode(text, add_special_tokens=False):
        stream.add_token(token)
        assert stream.text.startswith(seen[-1])
        assert "\ufffd" not in stream.text
        seen.append(stream.text)
    assert stream.text == text
    assert len(set(seen)) > 10
    broken = tokenizer.encode("é", add_special_tokens=False)[0]  # half a character, again and again
    stream = TextStream(chat)
    for count in range(1, 100):
        stream.add_token(broken)
        assert chat.text_of([broken] * count).startswith(stream.text)
        assert len(stream.text) >= count - 3


def test_closing_ends_the_threads(tiny: Any) -> None:
    model, tokenizer = tiny(max_position_embeddings=4096)
    chat = Chat(tokenizer)
    chat.stop_ids = {tokenizer.pad_token_id}
    live = build_live_decoder(Decoder(model), chat, fingerprint="x")
    Asked(live, SamplingParams(max_tokens=4000), request=Request("", conversations(1)[0]))
    live.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "holdfast-decode"]
