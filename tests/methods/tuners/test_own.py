"""A tuner of a user's own trains, saves, loads, merges and is described right; a wrong one is refused at once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner

from holdfast.axes.registry import REGISTRY
from holdfast.cli.app import app
from holdfast.models.loading import load_model
from holdfast.models.merging import compute_distance, probe_logps

SETTINGS: dict[str, Any] = {
    "model": "base",
    "data": {"train": "rows.jsonl", "test": 0},
    "optimizer": {"learning_rate": 0.05},
    "train": {"max_steps": 3, "epochs": 3, "batch_tokens": 128, "max_length": 64},
    "evaluate": {"target": "text:text.txt", "keep": [], "live_items": 2, "every": 0.5},
    "sampling": {"max_tokens": 4},
    "output": "out",
}


def run(*arguments: str, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(arguments))
    assert done.exit_code == code, (done.output, done.exception)
    return done.output


@pytest.fixture
def place(tiny_dir: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with rows and `run.yaml`, and the model `base`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    monkeypatch.syspath_prepend(Path(__file__).parent)
    monkeypatch.setitem(REGISTRY["tuners"], "textbook_bitfit", "bitfit:BitFit")
    (tmp_path / "base").symlink_to(tiny_dir("llama"))
    rows = [{"prompt": f"Add {i} and 2.", "completion": f"The answer is {i + 2}."} for i in range(12)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    Path("text.txt").write_text("The capital of France is Paris. " * 20, encoding="utf-8")
    Path("run.yaml").write_text(yaml.safe_dump(SETTINGS), encoding="utf-8")
    return tmp_path


def card(folder: str) -> tuple[dict[str, Any], str]:
    text = Path(folder, "README.md").read_text(encoding="utf-8")
    return yaml.safe_load(text.split("---")[1]), text


def measured_again(folder: str) -> None:
    """`eval` of a folder gives what the run measured of its model."""
    (task,) = json.loads(Path("out/report.json").read_text())["tasks"]
    run("eval", folder, "text:text.txt", "--against", "base", "--out", f"eval-{folder}")
    (again,) = json.loads(Path(f"eval-{folder}/report.json").read_text())["tasks"]
    assert (again["base"], again["tuned"]) == (task["base"], pytest.approx(task["tuned"], abs=1e-4))
    assert task["base"] != task["tuned"]


@pytest.mark.parametrize("name", ["VeRA", "Scales"])
def test_what_peft_knows_is_an_adapter_that_peft_reads(place: Path, name: str) -> None:
    run("train", "run.yaml", f"tuner=own_tuners:{name}")
    matter, text = card("out")
    assert matter["library_name"] == "peft"
    assert "AutoPeftModelForCausalLM" in text
    assert ("--enable-lora" in text) == (name == "VeRA")
    assert ("vLLM cannot serve them beside their base." in text) == (name == "Scales")
    assert (place / "out/model/adapter_config.json").exists()
    assert not (place / "out/model/tuner.json").exists(), "PEFT's own format needs no word of ours"
    run("export", "out", "merged", "--merge")
    matter, text = card("merged")
    assert matter["library_name"] == "transformers"
    assert "AutoModelForCausalLM.from_pretrained" in text
    assert compute_distance(*(probe_logps(load_model(name).model) for name in ("out", "merged"))).most < 1e-4
    for folder in ("out", "merged"):
        measured_again(folder)


def test_a_tuner_with_a_file_of_its_own_is_read_by_its_class(place: Path) -> None:
    run("train", "run.yaml", "tuner={name: 'own_tuners:Shift', scale: 2}")
    matter, text = card("out")
    assert matter["library_name"] == "own_tuners"
    assert 'model = own_tuners.read("model", base="base")' in text
    assert "vLLM cannot serve them beside their base." in text
    names = sorted(path.name for path in (place / "out/model").iterdir() if path.suffix in (".json", ".safetensors"))
    assert names == ["chat_settings.json", "shift.safetensors", "tokenizer.json", "tokenizer_config.json", "tuner.json"]
    assert load_model("out").tuner.scale == 2  # type: ignore[attr-defined]
    start, tuned = (probe_logps(load_model(name).model) for name in ("base", "out"))
    assert compute_distance(start, tuned).most > 0.01
    run("export", "out", "again")
    assert torch.equal(probe_logps(load_model("again").model), tuned)
    assert card("again")[0]["library_name"] == "own_tuners"
    assert 'own_tuners.read(".", base="base")' in card("again")[1]
    for folder in ("out", "again"):
        measured_again(folder)
    said = "what tuner own_tuners:Shift trains cannot be folded into the weights"
    assert said in run("export", "out", "no", "--merge", code=2)
    assert said in run("export", "out", "no", "--dial", "0.5", code=2)
    assert not Path("no").exists()
    Path("out/model/tuner.json").write_text('{"tuner": {"name": "own_tuners:Nothing"}, "base": "base"}')
    assert "out/model/tuner.json: own_tuners:Nothing is not a Method class" in run("eval", "out/model", code=2)
    Path("out/model/tuner.json").write_text("[]")
    assert "does not name a tuner and its base" in run("eval", "out/model", code=2)


WRONG = {
    "tuner={name: lora, target_modules: [nope]}": "tuner.target_modules: nope not found in LlamaForCausalLM",
    "tuner=textbook_bitfit": "tuner: bitfit trains biases, and LlamaForCausalLM has none; choose lora or full",
    "tuner={name: half, share: 0, embeddings: false}": "leaves nothing to train",
    "tuner=own_tuners:Shift inference=dial": "inference dial needs plain weights: what tuner own_tuners:Shift trains",
}


def test_a_wrong_tuner_is_refused_before_anything_is_there(place: Path) -> None:
    for settings, said in WRONG.items():
        words = settings.replace(" inference", "\ninference").split("\n")
        for verb in ("train", "check", "curate"):
            line = run(verb, "run.yaml", "method=ssr", "judge=exact", *words, code=2)
            assert said in " ".join(line.split()), (verb, line)
        assert not Path("out").exists()


def test_rows_that_are_curated_are_used_again_where_only_the_training_changes(place: Path) -> None:
    recipe = ["run.yaml", "method=ssr", "judge=exact"]
    run("curate", *recipe)
    rows = Path("out/curated.jsonl").read_bytes()
    for changed in ("tuner=half", "optimizer.learning_rate=0.01", "train.max_steps=2", "tuner=lora"):
        said = " ".join(run("curate", *recipe, changed).split())
        assert "takes the place of a run that had trained nothing yet" in said
        assert "out/curated.jsonl: its 12 rows are used again" in said, changed
    assert Path("out/curated.jsonl").read_bytes() == rows
    for changed in ("judge=number", "train.seed=1", "sampling.temperature=0.5"):
        assert "used again" not in run("curate", *recipe, changed), changed
