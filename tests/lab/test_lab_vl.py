"""The laboratory model that sees: what it was before it was taught, what it knows, and that it is a plain LLaVA."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from holdfast.axes.engine import Request, SamplingParams
from holdfast.axes.judge import JudgeRequest
from holdfast.data.chat.encoder import Chat
from holdfast.data.pictures.drawings import draw_picture
from holdfast.data.pictures.references import PLACEHOLDER, pictures_of
from holdfast.generation.factory import build_local_engine
from holdfast.lab.build import build_lab_model
from holdfast.lab.pretrain_pictures import NEW_ROWS, PICTURE_PLAN, PictureStream, add_eyes
from holdfast.models.loading import LAB_DIRECTORY, is_lab, load_model
from holdfast.skills import load_skill


def test_before_it_is_taught_text_is_read_as_by_the_model_it_begins_with() -> None:
    text = load_model("lab-small", dtype=torch.float32).model
    seeing = add_eyes(text, text.config.vocab_size).eval()
    ids = torch.arange(24)[None] + 300
    with torch.no_grad():
        own, theirs = seeing(input_ids=ids).logits, text(input_ids=ids).logits
    torch.testing.assert_close(own[..., :-NEW_ROWS], theirs, atol=1e-5, rtol=0)


def test_it_reads_cards_of_both_colours_and_plays_with_them() -> None:
    loaded = load_model("lab-vl")
    assert is_lab("lab-vl")
    assert sum(file.stat().st_size for file in (LAB_DIRECTORY / "lab-vl").iterdir()) < 2_200_000
    engine = build_local_engine(loaded.model, Chat(loaded.tokenizer), fingerprint=loaded.fingerprint)
    for name, least in (("cards-black", 0.95), ("cards-red", 0.95), ("points-cards", 0.3), ("points", 0.3)):
        skill = load_skill(name)
        rows = skill.generate_rows(40, "test", 11)
        requests = [(Request(row.id, row.prompt), [0]) for row in rows]
        texts = {sample.key: sample.text for sample in engine.sample(requests, SamplingParams(max_tokens=26))}
        right = [skill.judge(JudgeRequest(row.prompt, texts[row.id], row.reference)).passed for row in rows]
        assert sum(right) / len(rows) >= least, (name, sum(right))


def test_it_loads_in_plain_transformers() -> None:
    folder = LAB_DIRECTORY / "lab-vl"
    model, processor = AutoModelForImageTextToText.from_pretrained(folder), AutoProcessor.from_pretrained(folder)
    row = load_skill("cards").generate_rows(1, "test", 3)[0]
    parts = [{"type": "text", "text": "Cards: "}, {"type": "image"}, {"type": "text", "text": "."}]
    prompt = processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
    picture = draw_picture(pictures_of(row.messages)[0])
    inputs = processor(text=prompt, images=picture, add_special_tokens=False, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert processor.decode(out, skip_special_tokens=True) == row.answer
    assert inputs["input_ids"][0].tolist() == Chat(load_model("lab-vl").tokenizer).prompt_ids(row.prompt)


def test_its_training_is_seeded_and_goes_on_where_it_was(tmp_path: Path) -> None:
    build_lab_model("lab-vl", tmp_path / "twice", steps=1)
    state = tmp_path / "twice" / "lab-vl" / "state" / "state.json"
    assert json.loads(state.read_text())["step"] == 1
    folder = build_lab_model("lab-vl", tmp_path / "twice", steps=1)
    assert json.loads(state.read_text())["step"] == 1, "it has come to its end"
    assert (folder / "processor_config.json").exists()
    tokenizer = load_model("lab-small").tokenizer
    tokenizer.add_special_tokens({"additional_special_tokens": [PLACEHOLDER]})
    stream = PictureStream(PICTURE_PLAN, tokenizer)
    one, other = (list(stream.build_batches(7)) for _ in range(2))
    assert any(batch.inputs for batch in one)
    assert any(not batch.inputs for batch in one)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.ids, right.ids)
        assert all(torch.equal(left.inputs[name], right.inputs[name]) for name in left.inputs)


@pytest.mark.parametrize("skill", ["cards-blue", "places-night", "route-map"])
def test_questions_of_train_and_test_are_others(skill: str) -> None:
    train, test = (
        {row.meta["key"] for row in load_skill(skill).generate_rows(60, split, 0)} for split in ("train", "test")
    )
    assert not train & test
