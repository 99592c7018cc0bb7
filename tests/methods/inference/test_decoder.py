"""The shared suite of inference methods, by what each declares, and what a decoder makes of them."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.judge import Judging
from holdfast.axes.registry import REGISTRY, find_method, method_names
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import RunError, UserError
from holdfast.evaluation.measure import measure_task
from holdfast.evaluation.method_reach import describe_reach
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.task import Task
from holdfast.generation.decoder import FILE, Decoder, build_decoder, open_decoder, read_setup
from holdfast.generation.factory import build_sample_fn
from holdfast.generation.prompt_ids import answer_ids, prompt_ids
from holdfast.models.loading import LoadedModel, load_model
from holdfast.models.policy import Policy
from holdfast.testing.inference import Lengths

OWN = {
    name.lower(): f"methods.inference.ensemble:{name}" for name in ("Beginning", "Ensemble", "Opening", "Shots", "Vote")
}
METHODS = [*method_names("inference"), *OWN]
ENGINES = ("native", "transformers")
QUESTIONS = [f"Add {a} and {b}{' please' * (a % 3)}" for a in range(3) for b in (12, 7)]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one line of each."""
    for name, path in OWN.items():
        monkeypatch.setitem(REGISTRY["inference"], name, path)


@pytest.fixture
def pair(tiny_dir: Any) -> tuple[LoadedModel, LoadedModel]:
    """A base and a tuned model."""
    return load_model(tiny_dir("llama", seed=0)), load_model(tiny_dir("llama", seed=1))


def decoder_of(name: str, knobs: Any, pair: tuple[LoadedModel, LoadedModel]) -> Decoder:
    cls = find_method("inference", name)
    if name == "calibration":
        knobs = {"gamma": 3.0, "absent": ("the",), "present": ("Paris",), "form": "first_token", **(knobs or {})}
    if name == "pretty":
        knobs = {"teacher": str(pair[0].path), **(knobs or {})}
    if "antiexpert" in cls.model_fields:
        knobs = {"expert": str(pair[1].path), "antiexpert": str(pair[0].path), **(knobs or {})}
    method: Any = cls(**(knobs or {}))
    return build_decoder(method, pair[0] if method.reads_base() else None, pair[1].model, str(pair[0].path))


def knobs_of(name: str, place: Path) -> dict[str, Any]:
    """What a method needs beside its defaults."""
    (place / "facts.csv").write_text("Add,is,a verb\n", encoding="utf-8")
    (place / "notes.md").write_text("To add is to put together.\n", encoding="utf-8")
    return {
        "rag": {"documents": [str(place / "notes.md")], "by": "embedding"},
        "hykge": {"graph": [str(place / "facts.csv")]},
        "self_consistency": {"n": 3},
        "best_of_n": {"n": 3},
    }.get(name, {})


def answers(decoder: Decoder, chat: Chat, engine: str, **params: Any) -> dict[str, Any]:
    judging = Judging(Lengths())
    requests = [(Request(q, [{"role": "user", "content": q}], judging=judging), [0, 1]) for q in QUESTIONS]
    drawn = decoder.build_engine(chat, engine, slots=5, fingerprint="x").sample(
        requests, SamplingParams(max_tokens=6, **params)
    )
    return {f"{s.key} {s.index}": (s.text, s.finish, s.tokens) for s in drawn}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("end", ["neutral", "original"])
def test_declared_ends_are_exact(name: str, end: str, pair: tuple[LoadedModel, LoadedModel], make_rows: Any) -> None:
    """Log-probabilities bit for bit, and the same answers from both engines, greedy and drawn."""
    knobs = getattr(find_method("inference", name), end)
    if knobs is None:
        pytest.skip("declares none")
    decoder, plain = decoder_of(name, knobs, pair), Decoder(pair[end == "neutral"].model)
    batch, chat = collate_sequences(make_rows(9), "padded", 0), Chat(pair[0].tokenizer)
    assert torch.equal(decoder.build_policy(chat).token_logps(batch), plain.build_policy().token_logps(batch).detach())
    score = lambda logits, part: logits.log_softmax(-1).amax(-1)  # noqa: E731
    assert torch.equal(
        decoder.build_policy(chat).over_vocabulary(batch, score),
        plain.build_policy().over_vocabulary(batch, score).detach(),
    )
    question = [{"role": "user", "content": "Add 12 and 30"}]
    assert decoder.transform_prompt(question) == question
    for engine in ENGINES:
        assert answers(decoder, chat, engine) == answers(plain, chat, engine)
        if "sampling" not in decoder.changes:
            warm = {"temperature": 1.0, "seed": 3}
            assert answers(decoder, chat, engine, **warm) == answers(plain, chat, engine, **warm)


@pytest.mark.parametrize("form", ["choice", "first_token"])
def test_a_gamma_of_nothing_is_the_tuned_model(
    form: str, pair: tuple[LoadedModel, LoadedModel], make_rows: Any
) -> None:
    """With labels that it would be added to, as well."""
    decoder, plain = decoder_of("calibration", {"gamma": 0.0, "form": form}, pair), Decoder(pair[1].model)
    batch, chat = collate_sequences(make_rows(9), "padded", 0), Chat(pair[0].tokenizer)
    assert torch.equal(decoder.build_policy(chat).token_logps(batch), plain.build_policy().token_logps(batch).detach())
    assert answers(decoder, chat, "native") == answers(plain, chat, "native")
    assert decoder.choice_bias("the") == 0


@pytest.mark.parametrize("name", METHODS)
def test_what_weights_do_not_say_is_written_and_read_back(
    name: str, pair: tuple[LoadedModel, LoadedModel], tmp_path: Path
) -> None:
    decoder, tuned = decoder_of(name, knobs_of(name, tmp_path), pair), replace(pair[1], path=tmp_path)
    decoder.write_setup(tmp_path)
    assert (tmp_path / FILE).exists() == bool(decoder.changes)
    again = open_decoder(tuned)
    assert (again.identity, again.changes) == (decoder.identity, decoder.changes)
    assert decoder.answer_fingerprint("w") == again.answer_fingerprint("w") != ("w" if decoder.changes else "")
    if decoder.changes:
        chat = Chat(pair[0].tokenizer)
        assert answers(again, chat, "native") == answers(decoder, chat, "native")


def test_a_file_that_cannot_be_followed_is_refused(pair: tuple[LoadedModel, LoadedModel], tmp_path: Path) -> None:
    decoder, tuned = decoder_of("ensemble", {}, pair), replace(pair[1], path=tmp_path)
    decoder.write_setup(tmp_path)
    content = json.loads((tmp_path / FILE).read_text())
    assert "plain transformers knows nothing of it" in read_setup(tmp_path).line
    for change, says in (
        ({"models": {"base": {"name": content["models"]["base"]["name"], "fingerprint": "0"}}}, "are not those"),
        ({"models": {"base": {"name": "/nowhere/at-all", "fingerprint": "0"}}}, "base: "),
        ({"inference": {"name": "ensembl"}}, "ensembl is not one of"),
        ({"version": 9}, "another version"),
    ):
        (tmp_path / FILE).write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=says) as error:
            open_decoder(tuned)
        assert str(tmp_path / FILE) in str(error.value)
        assert "\n" not in str(error.value)


@torch.no_grad()
def mixed(pair: tuple[LoadedModel, LoadedModel], ids: list[int], weight: float) -> torch.Tensor:
    """Logits [L, V] of the ensemble, by the models' own forward passes."""
    base, tuned = (loaded.model(input_ids=torch.tensor([ids])).logits[0] for loaded in pair)
    return weight * tuned + (1 - weight) * base


@pytest.mark.parametrize("engine", ENGINES)
def test_an_ensemble_decodes_as_a_loop_by_hand(engine: str, pair: tuple[LoadedModel, LoadedModel]) -> None:
    decoder, chat = decoder_of("ensemble", {"weight": 0.3}, pair), Chat(pair[0].tokenizer)
    drawn = answers(decoder, chat, engine)
    for question in QUESTIONS[::2]:
        ids = prompt_ids(chat, [Request("k", [{"role": "user", "content": question}])])[0]
        start = len(ids)
        while len(ids) < start + 6 and ids[-1] not in chat.stop_ids:
            ids.append(int(mixed(pair, ids, 0.3)[-1].argmax()))
        assert drawn[f"{question} 0"][0] == chat.text_of([i for i in ids[start:] if i not in chat.stop_ids])


def test_choices_are_scored_as_by_hand(pair: tuple[LoadedModel, LoadedModel]) -> None:
    decoder, chat = decoder_of("ensemble", {"weight": 0.3}, pair), Chat(pair[0].tokenizer)
    choices = ["the capital", "Paris", "42"]
    rows = [Row([{"role": "user", "content": q}], reference=1, meta={"choices": choices}, id=q) for q in QUESTIONS[:3]]
    subject = EvaluatedModel("x", chat, policy=decoder.build_policy(), prompt=decoder.transform_prompt)
    for item, row in zip(measure_task(Task("t", "choice", rows), subject), rows, strict=True):
        by_hand = []
        for choice in choices:
            before = list(chat.prompt_ids(row.prompt))
            ids = before + chat.tokenizer(choice, add_special_tokens=False)["input_ids"]
            logps = mixed(pair, ids, 0.3).log_softmax(-1)
            by_hand.append(sum(float(logps[i - 1, ids[i]]) for i in range(len(before), len(ids))))
        assert item.response == choices[int(np.argmax(by_hand))]
        assert item.reason == "log-likelihoods " + ", ".join(f"{value:.2f}" for value in by_hand)


def test_models_of_other_kinds_mix_too(tiny_dir: Any) -> None:
    """A cache for each: other layers, other heads; the same tokens."""
    pair = load_model(tiny_dir("gpt2", seed=0)), load_model(tiny_dir("qwen2", seed=1, num_hidden_layers=3))
    decoder, chat = decoder_of("ensemble", {"weight": 0.4}, pair), Chat(pair[0].tokenizer)
    drawn = answers(decoder, chat, "native")
    assert drawn == answers(decoder, chat, "transformers")
    ids = prompt_ids(chat, [Request("k", [{"role": "user", "content": QUESTIONS[0]}])])[0]
    first = int(mixed(pair, ids, 0.4)[-1].argmax())
    assert drawn[f"{QUESTIONS[0]} 0"][0].startswith(chat.text_of([first] if first not in chat.stop_ids else []))


def test_prompts_reach_likelihoods_and_votes_count(pair: tuple[LoadedModel, LoadedModel]) -> None:
    chat, tuned = Chat(pair[0].tokenizer), Policy(pair[1].model)
    decoder = decoder_of("shots", {"shots": 2}, pair)
    row = Row([{"role": "user", "content": "Add 3 and 4"}], reference=0, meta={"choices": ["7", "8"]}, id="r")
    asked = replace(row, messages=decoder.transform_prompt(row.messages))
    by_method = EvaluatedModel(
        "x",
        chat,
        build_sample_fn(decoder.build_engine(chat, fingerprint="x")),
        decoder.build_policy(),
        prompt=decoder.transform_prompt,
    )
    by_hand = EvaluatedModel(
        "x", chat, build_sample_fn(Decoder(pair[1].model).build_engine(chat, fingerprint="x")), tuned
    )
    for kind in ("choice", "held_out"):
        answered = [r if kind == "choice" else r.with_answer("7", "gold") for r in (row, asked)]
        one, other = (
            measure_task(Task("t", kind, [r]), s) for r, s in zip(answered, (by_method, by_hand), strict=True)
        )
        assert one[0].score == other[0].score
        assert one[0].reason == other[0].reason
    vote = decoder_of("vote", {"n": 5, "temperature": 3.0}, pair)
    assert len(set(answers(vote, chat, "native").values())) > len(QUESTIONS)  # two samples of a question differ
    assert set(answers(vote, chat, "native")) == {f"{q} {i}" for q in QUESTIONS for i in (0, 1)}


def test_a_given_beginning_is_a_part_of_the_answer(pair: tuple[LoadedModel, LoadedModel]) -> None:
    """As a forced beginning is continued; with the tokens of the beginning; a request's own goes before it."""
    chat, decoder = Chat(pair[0].tokenizer), decoder_of("beginning", {"text": "the capital"}, pair)
    plain = Decoder(pair[1].model)
    ask = [{"role": "user", "content": QUESTIONS[0]}]
    for prefill in ("", "Paris"):
        requests = [(Request("k", ask, prefill=prefill), [0])]
        forced = [(Request("k", ask, prefill=prefill or "the capital"), [0])]
        (one,), (other,) = (
            list(d.build_engine(chat, fingerprint="x").sample(r, SamplingParams(max_tokens=5)))
            for d, r in ((decoder, requests), (plain, forced))
        )
        added = "" if prefill else "the capital"
        assert one.text == added + other.text
        assert one.tokens == other.tokens + len(chat.tokenizer.encode(added, add_special_tokens=False))


def test_choices_are_picked_with_a_bias(pair: tuple[LoadedModel, LoadedModel]) -> None:
    chat, choices = Chat(pair[0].tokenizer), ["Paris", "the capital", "42"]
    rows = [Row([{"role": "user", "content": q}], reference=1, meta={"choices": choices}, id=q) for q in QUESTIONS[:3]]
    picked = {}
    for bias in (0.0, 1e3, -1e3):
        decoder = decoder_of("beginning", {"text": "the", "bias": bias}, pair)
        subject = EvaluatedModel(
            "x", chat, policy=decoder.build_policy(), prompt=decoder.transform_prompt, choice_bias=decoder.choice_bias
        )
        items = measure_task(Task("t", "choice", rows), subject)
        picked[bias] = [item.response for item in items]
        assert all("log-likelihoods" in item.reason for item in items)
    assert picked[1e3] == ["the capital"] * 3
    assert "the capital" not in picked[-1e3]


def test_what_no_task_sees_is_refused(pair: tuple[LoadedModel, LoadedModel]) -> None:
    def task(name: str, kind: str) -> Task:
        return Task(name, kind, [])  # type: ignore[arg-type]

    vote, shots = find_method("inference", "vote")(), find_method("inference", "shots")()
    dial = find_method("inference", "dial")()
    texts, arc, sums = task("prose", "perplexity"), task("arc", "choice"), task("sums", "generate")
    for method, tasks, says in (
        (vote, [texts, arc], "vote changes sampling and attempts, of which prose, arc can see nothing"),
        (shots, [texts], "whose answers are sampled"),
    ):
        with pytest.raises(UserError, match=says) as error:
            describe_reach(method, tasks)  # type: ignore[arg-type]
        assert "\n" not in str(error.value)
    assert describe_reach(vote, [sums, arc]) == [  # type: ignore[arg-type]
        "inference: vote changes sampling and attempts; arc: measured without it, as it cannot be seen there"
    ]
    assert describe_reach(dial, [texts, arc, sums]) == describe_reach(shots, [arc, sums]) == []  # type: ignore[arg-type]


@torch.no_grad()
def test_a_method_knows_where_in_the_answer_it_is(pair: tuple[LoadedModel, LoadedModel]) -> None:
    """Both engines and likelihoods: the first token of each answer of a conversation, and no other."""
    chat, plain = Chat(pair[0].tokenizer), Policy(pair[1].model)
    decoder = decoder_of("opening", {"text": "Paris", "bias": 3.0}, pair)
    token, *_ = answer_ids(chat, "Paris")
    for engine in ENGINES:
        forced = decoder_of("opening", {"text": "Paris", "bias": 1e4}, pair)
        texts = {text for text, _, _ in answers(forced, chat, engine).values()}
        assert all(text.startswith(chat.text_of([token])) for text in texts)
        assert any(not text.startswith(chat.text_of([token, token])) for text in texts)
    turns = [{"role": role, "content": text} for role, text in zip(("user", "assistant") * 2, "abcd", strict=True)]
    texts = [turns, [{"role": "user", "content": "Add 1 and 2"}, {"role": "assistant", "content": "Paris, 42"}]]
    rows = [EncodedSequence(ids, mask, row) for row, (ids, mask) in enumerate(chat.encode_many(texts))]
    for layout in ("padded", "packed"):
        batch = collate_sequences(rows, layout, chat.pad_id)
        flat = batch.input_ids.flatten()
        first = torch.tensor([int(p) - 1 not in batch.label_positions.tolist() for p in batch.label_positions])
        assert first.sum() == 3
        logits = torch.cat([plain.model(input_ids=r[None]).logits[0] for r in _split_rows(flat, rows, layout, batch)])
        z = logits[batch.label_positions]
        z[:, token] += 3.0 * first
        by_hand = z.log_softmax(-1).gather(1, batch.labels[:, None])[:, 0]
        torch.testing.assert_close(decoder.build_policy(chat).token_logps(batch), by_hand, atol=2e-5, rtol=0)


def _split_rows(flat: torch.Tensor, rows: list[EncodedSequence], layout: str, batch: Any) -> list[torch.Tensor]:
    """The sequences of a batch, each alone (of padded lines with their padding)."""
    if layout == "padded":
        return list(flat.view_as(batch.input_ids))
    return [flat[a:b] for a, b in itertools.pairwise(batch.cu_seqlens.tolist())]


def test_texts_need_a_tokenizer(pair: tuple[LoadedModel, LoadedModel], make_rows: Any) -> None:
    decoder = decoder_of("opening", {}, pair)
    with pytest.raises(RunError, match="no tokenizer was given"):
        decoder.build_policy().token_logps(collate_sequences(make_rows(2), "padded", 0))
