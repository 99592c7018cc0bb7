"""Models are saved in the type they came in, with one card and ordinary rights; what was measured is what is saved."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from holdfast.cli.app import app
from holdfast.models.loading import load_model

RECIPE = {
    "data": {"train": "rows.jsonl", "test": 0},
    "optimizer": {"learning_rate": 0.05},
    "train": {"max_steps": 3, "batch_tokens": 128, "max_length": 64},
    "evaluate": {"target": "text:text.txt", "keep": [], "live_items": 2, "every": 0.5},
}
IDS = torch.arange(3, 60)[None]


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, done.output
    return done.output


def types(folder: Path) -> set[torch.dtype]:
    return {t.dtype for file in folder.glob("*.safetensors") for t in load_file(file).values()}


def logits(folder: Path) -> torch.Tensor:
    with torch.no_grad():
        return load_model(folder).model(input_ids=IDS).logits


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return {name: p.float() for name, p in AutoModelForCausalLM.from_pretrained(folder).named_parameters()}


@pytest.fixture(params=["full", "lora"])
def trained(request: pytest.FixtureRequest, tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A run of a bf16 model in `out`, with a umask that lets the group read."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    model, tokenizer = tiny("llama")
    model.bfloat16().save_pretrained("base")
    tokenizer.save_pretrained("base")
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("text.txt").write_text("The capital of France is Paris. " * 20, encoding="utf-8")
    recipe = RECIPE | {"model": "base", "tuner": request.param, "output": "out"}
    Path("run.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    before = os.umask(0o027)
    try:
        run("train", "run.yaml")
    finally:
        os.umask(before)
    return request.param


def test_a_bf16_model_comes_out_as_one_and_is_what_was_measured(trained: str) -> None:
    saved = Path("out/model")
    assert types(saved) == {torch.bfloat16 if trained == "full" else torch.float32}  # an adapter's matrices stay exact
    report = json.loads(Path("out/report.json").read_text())
    assert report["model"]["dtype"] == "bfloat16"
    assert report["model"]["measured_dtype"] == "float32"
    (task,) = report["tasks"]
    run("eval", "out", "text:text.txt", "--against", "base", "--out", "again")
    (again,) = json.loads(Path("again/report.json").read_text())["tasks"]
    assert (again["base"], again["tuned"]) == (task["base"], task["tuned"])
    assert task["base"] != task["tuned"]


def test_one_card_and_rights_as_the_umask_says(trained: str) -> None:
    for card in (Path("out/README.md"), Path("out/model/README.md")):
        text = card.read_text()
        assert "fine-tuned with" in text
        assert "More Information Needed" not in text
    assert 'from_pretrained(".", dtype="float32")' in Path("out/model/README.md").read_text()
    files = [path for path in Path("out").rglob("*") if path.is_file()]
    assert any(path.suffix == ".safetensors" and "step" in str(path) for path in files)
    assert {oct(path.stat().st_mode & 0o777) for path in files} == {"0o640"}


def test_exports_are_in_the_type_that_was_asked_for(trained: str) -> None:
    plain = logits(Path("out"))
    run("export", "out", "same")
    assert torch.equal(logits(Path("same")), plain)
    run("export", "out", "merged", "--merge")
    assert types(Path("merged")) == {torch.bfloat16}
    run("export", "out", "exact", "--merge", "--dtype", "fp32")
    assert types(Path("exact")) == {torch.float32}
    torch.testing.assert_close(logits(Path("exact")), plain, atol=1e-4, rtol=0)
    run("export", "out", "half", "--dial", "0.5", "--dtype", "fp16")
    assert types(Path("half")) == {torch.float16}
    assert "0.5 of the way" in Path("half/README.md").read_text()
    # What is folded in is added in fp32 and rounded once.
    exact, merged, base, half = (weights(Path(name)) for name in ("exact", "merged", "base", "half"))
    for name, weight in exact.items():
        assert torch.equal(merged[name], weight.bfloat16().float())
        assert torch.equal(half[name], torch.lerp(base[name], weight, 0.5).half().float())
    for folder in ("same", "merged", "exact", "half"):
        assert "fine-tuned with" in Path(folder, "README.md").read_text()
        assert json.loads(Path("exact/config.json").read_text())["dtype"] == "float32"
    assert "must be fp32, bf16, fp16, not int8" in run("export", "out", "no", "--dtype", "int8", code=2)
    if trained == "lora":
        assert "add --merge" in run("export", "out", "no", "--dtype", "fp32", code=2)
    assert not Path("no").exists()
