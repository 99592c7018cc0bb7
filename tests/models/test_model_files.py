"""What is wrong with a model's folder is said in one line, with the folder; the fingerprint sees what is loaded."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.errors import UserError
from holdfast.models.loading import fingerprint_of, load_model, load_skeleton


def change(path: Path, **settings: Any) -> None:
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text(encoding="utf-8")) | settings), encoding="utf-8")


def index(path: Path, name: str) -> None:
    """An index in the place of the one file of weights, all of which are in `name`."""
    weights = load_file(path / "model.safetensors")
    text = json.dumps({"metadata": {}, "weight_map": dict.fromkeys(weights, name)})
    (path / "model.safetensors.index.json").write_text(text, encoding="utf-8")
    (path / "model.safetensors").rename(path / "other.safetensors")


def no_number(path: Path, value: float) -> None:
    weights = load_file(path / "model.safetensors")
    weights["model.norm.weight"][3] = value
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def cut(path: Path, content: bytes) -> None:
    (path / "model.safetensors").write_bytes(content)


BAD: dict[str, tuple[Callable[[Path], None], str]] = {
    "an index naming a pickle": (lambda p: index(p, "evil.bin"), "names evil.bin, which is no .safetensors file"),
    "an index naming another folder": (lambda p: index(p, "../x.safetensors"), "names ../x.safetensors, which is no"),
    "an index naming what is not there": (lambda p: index(p, "gone.safetensors"), "gone.safetensors is missing"),
    "an index of nothing": (
        lambda p: (index(p, "other.safetensors"), (p / "model.safetensors.index.json").write_text("[1]"))[0],
        "no index of weights"),
    "weights by another name": (lambda p: change(p, transformers_weights="other.safetensors"), "names other weights"),
    "NaN": (lambda p: no_number(p, float("nan")), "weight model.norm.weight holds values that are no numbers"),
    "infinity": (lambda p: no_number(p, float("inf")), "weight model.norm.weight holds values that are no numbers"),
    "cut": (lambda p: cut(p, (p / "model.safetensors").read_bytes()[:-100]), "model.safetensors: broken weights"),
    "empty": (lambda p: cut(p, b""), "model.safetensors: broken weights"),
    "a huge header": (lambda p: cut(p, struct.pack("<Q", 2**63) + b"{}"), "model.safetensors: broken weights"),
    "no header": (lambda p: cut(p, struct.pack("<Q", 4) + b"nope"), "model.safetensors: broken weights"),
    "a million layers": (lambda p: change(p, num_hidden_layers=1_000_000), "says 1,000,000 layers"),
    "no layers": (lambda p: change(p, num_hidden_layers=-1), "says -1 layers"),
    "layers in words": (lambda p: change(p, num_hidden_layers="two"), "not a causal language model"),
    "an unknown activation": (lambda p: change(p, hidden_act="evil"), "not a causal language model"),
    "unknown rotary positions": (lambda p: change(p, rope_parameters={"rope_type": "evil"}), "not a causal"),
    "another shape": (lambda p: change(p, intermediate_size=60), "the weights have other shapes than config.json says"),
    "code of its own": (
        lambda p: change(p, model_type="mine", auto_map={"AutoConfig": "x.Y", "AutoModelForCausalLM": "x.Z"}),
        "code from a model's folder is never run"),
    "settings that are none": (lambda p: (p / "config.json").write_text("[]") and None, "no settings of a model in it"),
    "settings nested deep": (lambda p: (p / "config.json").write_text("[" * 99_999) and None, "cannot be read"),
    "a broken tokenizer": (lambda p: (p / "tokenizer.json").write_text('{"model": 5}') and None, "no tokenizer that"),
}  # fmt: skip


TURNS = "{% for m in messages %}{{ m['content'] }}{{ eos_token }}{% endfor %}"
ENDLESS = {
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}": "takes more than 2 s to compute",
    "{% for i in range(9999999) %}.{% endfor %}": "counts too far (Range too big",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "calls itself without end",
    "{{ 'x' * 20000000000 }}": "takes more than 512 MiB of memory",
    "{{ 'x' * 2000000 }}": "writes more than 1,000,000 characters around a few words",
    "{% if enable_thinking %}{{ 'x'.center(20000000000) }}{% endif %}": "takes more than 512 MiB of memory",
}


def test_templates_without_an_end_are_refused_by_every_verb_in_one_line(
    tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tiny_dir("llama")
    Path("rows.jsonl").write_text('{"prompt": "Q", "completion": "A"}\n' * 4, encoding="utf-8")
    own = {"model": str(path), "data": {"train": "rows.jsonl", "test": 0}, "evaluate": {"target": "none", "keep": []}}
    Path("run.yaml").write_text(yaml.safe_dump(own), encoding="utf-8")
    for source, fault in ENDLESS.items():
        (path / "chat_template.jinja").write_text(source + TURNS, encoding="utf-8")
        for verb in (["check", "run.yaml"], ["eval", str(path), "rows.jsonl", "--judge", "exact"]):
            said = run(*verb, code=2).splitlines()[-1]
            assert f"{path}: the chat template {fault}" in said, (source, said)
            assert "put the model's own template there" in said
    (path / "chat_template.jinja").write_text(TURNS + "{% if messages|length > 9 %}{{ 1 / 0 }}{% endif %}", "utf-8")
    rows = [{"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}] * 5}] * 2
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert "the chat template fails (ZeroDivisionError: division by zero)" in run("check", "run.yaml", code=2)


def test_adapters_and_recipes_with_endless_expressions_are_refused(
    tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import LoraConfig, get_peft_model

    monkeypatch.chdir(tmp_path)
    base = tiny_dir("llama")
    layers = r"model\.layers\.[0-9]+\..*\.(q|v)_proj"
    get_peft_model(load_model(base).model, LoraConfig(target_modules=layers)).save_pretrained("adapter")  # type: ignore[arg-type]
    settings = json.loads(Path("adapter/adapter_config.json").read_text(encoding="utf-8"))
    settings["base_model_name_or_path"] = str(base)
    Path("rows.jsonl").write_text('{"prompt": "Q", "completion": "A"}\n' * 4, encoding="utf-8")
    measure = ("eval", "adapter", "rows.jsonl", "--judge", "exact")
    Path("adapter/adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    run(*measure)
    evil = "(([a-z._0-9]+)+)+X"
    Path("adapter/adapter_config.json").write_text(json.dumps(settings | {"target_modules": evil}), encoding="utf-8")
    said = run(*measure, code=2)
    assert f"adapter_config.json: the regular expression {evil} does not come to an end" in said, said
    recipe = {
        "model": str(base), "data": {"train": "rows.jsonl", "test": 0}, "evaluate": {"target": "none", "keep": []},
        "tuner": {"name": "lora", "target_modules": evil},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    assert f"tuner.target_modules: {evil} does not come to an end" in run("check", "run.yaml", code=2)


@pytest.mark.parametrize("name", BAD)
def test_folders_are_refused_in_one_line(name: str, tiny_dir: Any) -> None:
    path = tiny_dir("llama")
    harm, text = BAD[name]
    harm(path)
    with pytest.raises(UserError) as caught:
        load_model(path)
    said = str(caught.value)
    assert text in said
    assert str(path) in said
    assert "\n" not in said
    for advice in ("trust_remote_code=True", "ignore_mismatched_sizes=True", "weights_only=False"):
        assert advice not in said


def test_shards_are_loaded_by_the_index_and_seen_by_the_fingerprint(tiny_dir: Any) -> None:
    path = tiny_dir("llama")
    index(path, "other.safetensors")
    before = fingerprint_of(path)
    assert load_model(path).fingerprint == before
    shutil.copy(path / "other.safetensors", path / "stray.safetensors")
    assert fingerprint_of(path) == before, "what is not loaded says nothing"
    weights = load_file(path / "other.safetensors")
    weights["lm_head.weight"][0, 0] += 1
    save_file(weights, path / "other.safetensors", metadata={"format": "pt"})
    assert fingerprint_of(path) != before
    assert load_skeleton(path).lm_head.weight.is_meta


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture
def begun(tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with a LoRA run of two of its four steps, as a kill leaves it, on the model in `base`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    shutil.copytree(tiny_dir("llama"), "base")
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "model": "base", "method": "sft", "tuner": "lora", "data": {"train": "rows.jsonl", "test": 0},
        "train": {"max_steps": 4, "epochs": 9, "batch_tokens": 128, "save_every": 0.25, "keep_checkpoints": 9},
        "evaluate": {"target": "none", "keep": [], "every": 0}, "output": "out",
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path


def test_a_run_does_not_go_on_and_an_adapter_does_not_lie_on_other_weights(begun: Path, tiny_dir: Any) -> None:
    run("train", "run.yaml")
    mark = json.loads(Path("out/run.json").read_text(encoding="utf-8"))
    Path("out/run.json").write_text(json.dumps(mark | {"finished": False}), encoding="utf-8")
    for step in ("step-000003", "step-000004"):
        shutil.rmtree(Path("out/checkpoints") / step)
    Path("base").rename("kept")
    shutil.copytree(tiny_dir("llama", seed=7), "base")
    said = run("train", "run.yaml", code=2)
    assert "model: the weights of base are not those that out/checkpoints/step-000002 began at" in said
    for verb in (["chat", "out", "--once"], ["eval", "out", "rows.jsonl", "--judge", "exact"]):
        assert "this adapter was trained on other weights" in run(*verb, code=2)
    shutil.rmtree("base")
    Path("kept").rename("base")
    assert "resumed after step 2 of 4" in run("train", "run.yaml")
    assert isinstance(load_model("out").model, torch.nn.Module)
