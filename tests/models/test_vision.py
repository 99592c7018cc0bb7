"""LLaVA, Qwen2-VL and SmolVLM of a few thousand parameters: ids, log-probabilities, training, sampling, saving."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText
from typer.testing import CliRunner, Result

import vision_models
from holdfast.axes.engine import Request, SamplingParams
from holdfast.cli.app import app
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.pictures.drawings import draw_picture
from holdfast.data.pictures.processor import find_processor
from holdfast.data.pictures.reader import read_picture
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.evaluation.measure import measure_task
from holdfast.evaluation.subject import EvaluatedModel
from holdfast.evaluation.task import Task
from holdfast.evaluation.tasks.multiple_choice import append_choice
from holdfast.generation.factory import build_local_engine
from holdfast.methods.tuners.modules import resolve_targets
from holdfast.models.eyes import eye_parameters
from holdfast.models.layer_list import find_layer_list
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy

KEYS = ["lab:cards/3S.JD", "lab:cards/4S.5D.6C", "lab:map/shop.bank"]


def answer(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": text}


ROWS = [
    Row([{"role": "user", "content": "what <image> is it?", "images": KEYS[:1]}, answer("3 J")]),
    Row([{"role": "user", "content": "none"}, answer("ok")]),
    Row(
        [
            {"role": "user", "content": "<image>and<image>?", "images": KEYS[1:]}, answer("yes"),
            {"role": "user", "content": "<image>", "images": KEYS[:1]}, answer("no"),
        ]
    ),
]  # fmt: skip


@pytest.fixture
def folder_of(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Callable[[str], Path]:
    return lambda family: make_once(f"vision-{family}", vision_models.MAKE[family])


@pytest.mark.parametrize("family", vision_models.FAMILIES)
def test_rows_are_read_as_plain_transformers_reads_them(family: str, folder_of: Callable[[str], Path]) -> None:
    loaded = load_model(folder_of(family))
    chat, policy = Chat(loaded.tokenizer), Policy(loaded.model)
    processor = chat.pictures.processor
    assert processor is not None
    table, report = build_table(ROWS, chat, max_length=400)
    assert (report.pictures, report.picture_tokens > 8) == (4, True)
    together = table.collate_rows([0, 1, 2], "padded", chat.pad_id)
    assert together is not None
    logps = policy.token_logps(together)
    for number, row in enumerate(ROWS):
        batch = table.collate_rows([number], "padded", chat.pad_id)
        assert batch is not None
        # What transformers' processor makes of the conversation's text, answers and all.
        rendering = chat.template.render([row.messages])[0]
        pictures = [read_picture(key) for message in row.messages for key in message.get("images", [])]
        images = {"images": [pictures]} if pictures else {}
        theirs = processor.processor(text=[rendering], **images, add_special_tokens=False, return_tensors="pt")
        length = batch.input_ids.shape[1]
        assert torch.equal(theirs["input_ids"][:, :length], batch.input_ids), "but for what stands behind the answer"
        theirs = {name: value for name, value in theirs.items() if name not in ("attention_mask", "token_type_ids")}
        logits = loaded.model(**theirs).logits[:, :length].flatten(0, 1)
        plain = torch.log_softmax(logits[batch.label_positions], -1).gather(1, batch.labels[:, None])[:, 0]
        torch.testing.assert_close(policy.token_logps(batch), plain, atol=1e-5, rtol=0)
        torch.testing.assert_close(logps[together.sequence == number], plain, atol=1e-5, rtol=0)
        embeds = policy.embed_tokens(batch.input_ids)
        torch.testing.assert_close(policy.token_logps(batch, embeds), plain, atol=1e-5, rtol=0)
    shown = [{**ROWS[0].messages[0], "images": ["lab:cards/9H.9D"]}, ROWS[0].messages[1]]
    changed = build_table([replace(ROWS[0], messages=shown), *ROWS[1:]], chat, max_length=400)[0]
    batch = changed.collate_rows([0, 1, 2], "padded", chat.pad_id)
    assert batch is not None
    others, is_first = policy.token_logps(batch), together.sequence == 0
    torch.testing.assert_close(others[~is_first], logps[~is_first], atol=1e-6, rtol=0)
    assert not torch.allclose(others[is_first], logps[is_first], atol=1e-4), "a picture is of its own row alone"
    first = together.select_roles(0)
    assert {name: value.shape for name, value in first.inputs.items()} == {
        name: value.shape for name, value in together.inputs.items()
    }
    with pytest.raises(UserError, match=r"line of their own: set train\.layout: padded"):
        table.collate_rows([0], "packed", chat.pad_id)


@pytest.mark.parametrize("family", vision_models.FAMILIES)
def test_sampling_sees_the_pictures_of_its_own_prompt(family: str, folder_of: Callable[[str], Path]) -> None:
    loaded = load_model(folder_of(family))
    chat = Chat(loaded.tokenizer)
    engine = build_local_engine(loaded.model, chat, fingerprint=loaded.fingerprint)
    assert engine.fingerprint.startswith("transformers"), "the native engine does not know pictures"
    requests = [(Request(f"{i}", row.prompt), [0]) for i, row in enumerate(ROWS)]
    samples = {one.key: one.text for one in engine.sample(requests, SamplingParams(max_tokens=6))}
    model, processor = loaded.model, chat.pictures.processor
    assert processor is not None
    for number, row in enumerate(ROWS):
        rendering = chat.prompt_text(row.prompt)
        pictures = [read_picture(key) for message in row.prompt for key in message.get("images", [])]
        images = {"images": [pictures]} if pictures else {}
        inputs = processor.processor(text=[rendering], **images, add_special_tokens=False, return_tensors="pt")
        inputs.pop("token_type_ids", None)
        ids = model.generate(**inputs, max_new_tokens=6, do_sample=False, eos_token_id=sorted(chat.stop_ids))[0]
        rest = [i for i in ids[inputs["input_ids"].shape[1] :].tolist() if i not in chat.stop_ids]
        assert samples[f"{number}"] == chat.text_of(rest)


@pytest.mark.parametrize("family", vision_models.FAMILIES)
def test_choices_are_weighed_beside_the_pictures_of_their_question(
    family: str, folder_of: Callable[[str], Path]
) -> None:
    loaded = load_model(folder_of(family))
    chat, policy = Chat(loaded.tokenizer), Policy(loaded.model)
    options = {"choices": ["3 J", "no way"]}
    shown = [replace(row, reference=0, meta=options, messages=row.prompt, id=str(i)) for i, row in enumerate(ROWS[::2])]
    items = measure_task(Task("cards", "choice", shown), EvaluatedModel("m", chat, policy=policy))
    for row, item in zip(shown, items, strict=True):
        ends = [replace(row, messages=append_choice(row.prompt, text)) for text in options["choices"]]
        table = build_table(ends, chat, max_length=400)[0]
        batch = table.collate_rows([0, 1], "padded", chat.pad_id)
        assert batch is not None
        logps, last = policy.token_logps(batch), torch.diff(batch.sequence, append=torch.tensor([-1])) != 0
        per_choice = [logps[(batch.sequence == i) & ~last].sum().item() for i in range(2)]  # without the turn's end
        assert [float(v) for v in item.reason.removeprefix("log-likelihoods ").split(", ")] == pytest.approx(
            per_choice, abs=0.01
        )


def write_data(folder: Path, count: int = 6) -> Path:
    """Rows of a picture file each, one of them a text."""
    folder.mkdir()
    lines = [{"messages": [{"role": "user", "content": "a text alone"}, answer("no")]}]
    for number in range(count):
        draw_picture(f"lab:cards/{number + 1}S.JD").resize((20 + number, 30)).save(folder / f"{number}.png")
        content = [{"type": "image", "path": f"{number}.png"}, {"type": "text", "text": "how many?"}]
        lines.append({"messages": [{"role": "user", "content": content}, answer(str(number))]})
    (folder / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder / "train.jsonl"


def run(tmp_path: Path, verb: str, model: Path, rows: Path, **more: Any) -> Result:
    recipe = {
        "model": str(model), "data": {"train": str(rows), "test": 0.3},
        "train": {"max_steps": 1, "precision": "fp32"}, "output": str(tmp_path / "out"),
        "evaluate": {"target": "none", "keep": ["none"], "every": 0, "max_tokens": 4}, **more,
    }  # fmt: skip
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return CliRunner().invoke(app, [verb, str(tmp_path / "run.yaml")])


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))


TUNERS: dict[str, Any] = {"llava": "full", "qwen2_vl": "lora", "smolvlm": {"name": "lora", "target_modules": "q_proj"}}


@pytest.mark.parametrize("family", vision_models.FAMILIES)
def test_a_run_trains_the_language_part_and_its_result_sees(
    family: str, folder_of: Callable[[str], Path], tmp_path: Path
) -> None:
    model, train = folder_of(family), write_data(tmp_path / "data")
    before = load_file(model / "model.safetensors")
    done = run(tmp_path, "train", model, train, tuner=TUNERS[family])
    assert done.exit_code == 0, done.output
    assert "pictures, " in done.output
    assert "tokens (" in done.output
    saved = tmp_path / "out" / "model"
    loaded = load_model(saved)
    causal: Any = loaded.model.get_base_model() if family != "llava" else loaded.model
    eyes = eye_parameters(causal)
    assert len(eyes) > 8
    if family == "llava":
        after = load_file(saved / "model.safetensors")
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved
        assert all("language_model" in name or "lm_head" in name for name in moved), "eyes are frozen by default"
        plain = AutoModelForImageTextToText.from_pretrained(saved)
        assert type(plain).__name__ == "LlavaForConditionalGeneration"
        assert "AutoModelForImageTextToText" in (saved / "README.md").read_text(encoding="utf-8")
    else:
        adapted = load_file(saved / "adapter_model.safetensors")
        assert adapted
        assert not any(part in name for name in adapted for part in ("vision", "visual", "connector"))
        assert "PeftModel.from_pretrained" in (saved / "README.md").read_text(encoding="utf-8")
    chat = Chat(loaded.tokenizer)
    assert chat.pictures.processor is not None
    assert chat.pictures.fingerprint == Chat(load_model(model).tokenizer).pictures.fingerprint
    assert chat.prompt_ids(ROWS[0].prompt) == Chat(load_model(model).tokenizer).prompt_ids(ROWS[0].prompt)


def test_eyes_train_where_the_recipe_says_so(
    folder_of: Callable[[str], Path], tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.jsonl"
    text.write_text('{"prompt": "a", "answer": "b"}\n', encoding="utf-8")
    model, train = folder_of("llava"), write_data(tmp_path / "data", 2)
    settings = {"max_steps": 1, "precision": "fp32", "vision": "trained"}
    done = run(tmp_path, "train", model, train, train=settings)
    assert done.exit_code == 0, done.output
    before, after = (load_file(p / "model.safetensors") for p in (model, tmp_path / "out" / "model"))
    assert any("vision" in name for name in after if not torch.equal(after[name], before[name]))
    for verb in ("check", "train"):
        refused = run(tmp_path, verb, model, train, train=settings, tuner="lora", output=str(tmp_path / "no"))
        assert refused.exit_code == 2
        assert "leaves eyes alone" in refused.output
    blind = run(
        tmp_path, "train", tiny_dir("llama"), train, train=settings, data={"train": str(text), "test": 0}, output="no"
    )
    assert blind.exit_code == 2
    assert "cannot train what is not there" in blind.output
    assert not list(tmp_path.glob("no*")), "nothing is measured before it is refused"


def test_check_shows_a_placeholder_and_counts(folder_of: Callable[[str], Path], tmp_path: Path) -> None:
    train = write_data(tmp_path / "data")
    done = run(tmp_path, "check", folder_of("llava"), train)
    assert done.exit_code == 0, done.output
    assert "<image x4>" in done.output
    assert "<image><image>" not in done.output
    assert "how many?" in done.output
    for verb in ("check", "train"):
        packed = run(tmp_path, verb, folder_of("llava"), train, train={"max_steps": 1, "layout": "packed"})
        assert packed.exit_code == 2
        assert "rows with pictures are not packed" in packed.output
    assert not (tmp_path / "out").exists(), "nothing is measured before it is refused"


def test_what_cannot_be_done_is_one_line(
    folder_of: Callable[[str], Path], tiny_dir: Callable[..., Path], tmp_path: Path
) -> None:
    train = write_data(tmp_path / "data", 3)
    for verb in ("check", "train"):
        blind = run(tmp_path, verb, tiny_dir("llama"), train, data={"train": str(train), "test": 0})
        assert blind.exit_code == 2
        line = blind.output.strip().splitlines()[-1]
        assert "is a model without eyes" in line, blind.output
        assert "train.jsonl:2" in line
    whole = write_data(tmp_path / "more", 3)
    data = Path(tmp_path / "data" / "1.png").read_bytes()
    (tmp_path / "data" / "1.png").write_bytes(data[: len(data) // 2])
    for split in ({"train": str(train), "test": 0}, {"train": str(whole), "test": str(train)}):
        measured = {"target": "test" if split["test"] else "none", "keep": ["none"], "every": 0, "max_tokens": 4}
        damaged = run(tmp_path, "check", folder_of("llava"), train, data=split, evaluate=measured)
        assert damaged.exit_code == 2, split
        assert "train.jsonl:3: " in damaged.output
        assert "1.png: a damaged picture" in damaged.output
    assert not (tmp_path / "out").exists()
    chat = Chat(load_model(folder_of("llava")).tokenizer)
    literal = [{"role": "user", "content": "a text with <image> in it"}, answer("no")]
    with pytest.raises(UserError, match="0 pictures, and as tokens 1 places"):
        chat.encode(literal)


def test_only_the_language_part_is_adapted_and_found(folder_of: Callable[[str], Path]) -> None:
    for family in vision_models.FAMILIES:
        model = load_model(folder_of(family)).model
        decoder = model.get_decoder()
        assert find_layer_list(model) is decoder.layers
        for targets, count in (("all-linear", 7), ("attention", 4), ("mlp", 3), (("q_proj", "v_proj"), 2)):
            paths = resolve_targets(model, targets)
            assert len(paths) == count, (family, targets, paths)
            assert all(model.get_submodule(path) in list(decoder.modules()) for path in paths)
        assert resolve_targets(model, r".*vision.*q_proj") == r".*vision.*q_proj", "an expression may name eyes"
    assert find_processor(folder_of("llava")) is not None


def test_rows_without_pictures_reach_no_pixels(folder_of: Callable[[str], Path]) -> None:
    loaded = load_model(folder_of("llava"))
    chat = Chat(loaded.tokenizer)
    table, report = build_table(ROWS[1:2], chat, max_length=100)
    assert table.pictures is None
    assert report.picture_lines() == []
    batch = table.collate_rows([0], "packed", chat.pad_id)
    assert batch is not None
    assert not batch.inputs
    ids = np.array(chat.prompt_ids(ROWS[0].prompt))
    lost = batch
    lost.input_ids = torch.from_numpy(ids)[None]
    lost.position_ids = torch.arange(len(ids))[None]
    with pytest.raises(UserError, match="what reads them here reads text alone"):
        Policy(loaded.model).token_logps(lost)
