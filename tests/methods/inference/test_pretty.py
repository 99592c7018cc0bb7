"""PreTTY: a teacher's first tokens and no others, prefixes out of files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.axes.engine import Request, SamplingParams
from holdfast.data.chat.encoder import Chat
from holdfast.errors import UserError
from holdfast.evaluation.method_reach import describe_reach
from holdfast.evaluation.task import Task
from holdfast.generation.decoder import Decoder, build_decoder
from holdfast.generation.prompt_ids import answer_ids
from holdfast.lab.reproduce.at_the_logits import measure_agreement
from holdfast.methods.inference.pretty import PIECE, Pretty
from holdfast.models.loading import LoadedModel, load_model
from holdfast.models.policy import Policy

QUESTIONS = ["Add 1 and 2", "Add 12 and 7 please", "Reverse lamp"]


def answers(decoder: Decoder, chat: Chat, engine: str = "native", prefill: str = "") -> dict[str, str]:
    requests = [(Request(q, [{"role": "user", "content": q}], prefill=prefill), [0]) for q in QUESTIONS]
    drawn = decoder.build_engine(chat, engine, slots=2, fingerprint="x").sample(requests, SamplingParams(max_tokens=6))
    return {sample.key: sample.text for sample in drawn}


@pytest.fixture
def pair(tiny_dir: Any) -> tuple[LoadedModel, LoadedModel]:
    """A teacher, and the model that goes on."""
    return load_model(tiny_dir("llama", seed=0)), load_model(tiny_dir("llama", seed=1))


@pytest.mark.parametrize("engine", ["native", "transformers"])
def test_the_first_tokens_are_the_teachers(engine: str, pair: tuple[LoadedModel, LoadedModel]) -> None:
    """No token: the model's answer; all of them: the teacher's; k: the model's, where the teacher's k were forced."""
    chat, (teacher, model) = Chat(pair[0].tokenizer), pair
    own, taught = answers(Decoder(model.model), chat, engine), answers(Decoder(teacher.model), chat, engine)
    assert own != taught
    for k in (0, 1, 2, 6):
        method = Pretty(teacher=str(teacher.path), tokens=k)
        texts = answers(build_decoder(method, None, model.model, str(model.path)), chat, engine)
        if k in (0, 6):
            assert texts == (taught if k else own)
            continue
        for question in QUESTIONS:
            first = chat.text_of(answer_ids(chat, taught[question])[:k])
            assert texts[question].startswith(first)
            if answer_ids(chat, first) == answer_ids(chat, taught[question])[:k]:
                rest = answers(Decoder(model.model), chat, engine, prefill=first)[question]
                assert (first + rest).startswith(texts[question])


@torch.no_grad()
def test_agreement_is_counted_along_the_tuned_answers(pair: tuple[LoadedModel, LoadedModel]) -> None:
    """At each token by teacher forcing, against passes over each beginning alone; a model agrees with itself."""
    chat, (tuned, base) = Chat(pair[0].tokenizer), pair
    texts = ["the cat is", "France", "what is the answer to it"]
    talks: list[Any] = [
        [{"role": "user", "content": q}, {"role": "assistant", "content": text}]
        for q, text in zip(QUESTIONS, texts, strict=True)
    ]
    by_place: dict[int, list[bool]] = {}
    for ids, mask in chat.encode_many(talks):
        for place, at in enumerate(np.flatnonzero(mask)):
            one, other = (int(m.model(torch.tensor([ids[:at].tolist()])).logits[0, -1].argmax()) for m in (base, tuned))
            by_place.setdefault(place, []).append(one == other)
    expected = [sum(some) / len(some) for _, some in sorted(by_place.items())]
    policies = (Policy(base.model), Policy(tuned.model))
    assert measure_agreement(*policies, talks, chat) == pytest.approx(expected)
    assert len({len(some) for some in by_place.values()}) > 1  # answers of different lengths
    assert set(measure_agreement(policies[1], policies[1], talks, chat)) == {1.0}


def test_texts_give_the_first_words(tmp_path: Path, pair: tuple[LoadedModel, LoadedModel]) -> None:
    rows = [{"question": "q", "answer": text} for text in ("Le chat dort", "Le chat mange", "Un chien")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "d.tsv").write_text("cat\tchat\nsleeps\tdort\nthe\tle\n")
    (tmp_path / "d.json").write_text(json.dumps({"猫": "cat"}))
    ask = [{"role": "user", "content": "Translate: the cat sleeps."}]
    for k, expected in ((1, "Le"), (2, "Le chat"), (0, "")):
        assert Pretty(answers=str(tmp_path / "a.jsonl"), tokens=k).prefix(ask) == expected
    for k, expected in ((1, "le"), (2, "le chat"), (9, "le chat dort"), (0, "")):
        assert Pretty(dictionary=str(tmp_path / "d.tsv"), tokens=k).prefix(ask) == expected
    assert Pretty(dictionary=str(tmp_path / "d.json")).prefix([{"role": "user", "content": "黒い猫です"}]) == "cat"
    assert PIECE.findall("黒い猫 is 12 cats!") == ["黒", "い", "猫", " is", " 12", " cats", "!"]
    chat, method = Chat(pair[0].tokenizer), Pretty(answers=str(tmp_path / "a.jsonl"))
    decoder = build_decoder(method, None, pair[1].model, str(pair[1].path))
    assert decoder.changes == ("prefix",)
    assert all(text.startswith("Le chat") for text in answers(decoder, chat).values())
    assert method.content_fingerprint() != Pretty(dictionary=str(tmp_path / "d.tsv")).content_fingerprint()


def test_what_cannot_begin_an_answer_is_refused(tmp_path: Path) -> None:
    for knobs in ({}, {"teacher": "lab", "answers": "x"}):
        with pytest.raises(ValidationError, match="one of teacher, answers and dictionary"):
            Pretty(**knobs)
    (tmp_path / "bad.tsv").write_text("cat\tchat\nonly one\n")
    (tmp_path / "none.tsv").write_text("\n")
    for name, says in (("bad.tsv", r"bad.tsv:2: must be WORD"), ("none.tsv", "no words"), ("no.tsv", "no such file")):
        with pytest.raises(UserError, match=says) as error:
            Pretty(dictionary=str(tmp_path / name)).check_ready()
        assert "\n" not in str(error.value)
    by_text, by_teacher = Pretty(answers="a.jsonl"), Pretty(teacher="lab")
    choice = Task("arc", "choice", [])
    with pytest.raises(UserError, match="pretty changes prefix, of which arc can see nothing"):
        describe_reach(by_text, [choice])
    assert describe_reach(by_teacher, [choice]) == []
