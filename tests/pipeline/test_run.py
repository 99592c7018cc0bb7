"""Whole runs through the command line, as a user types them, on the smaller laboratory model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from typer.testing import CliRunner, Result

from holdfast.cli.app import app
from processes import launch

MODEL = "lab-small"
QUICK: dict[str, Any] = {
    "model": MODEL,
    "train": {"max_steps": 2, "batch_tokens": 512, "precision": "fp32"},
    "sampling": {"max_tokens": 32},
    "evaluate": {"keep": ["lab:strings"], "items": 4, "live_items": 2, "every": 0.5, "max_tokens": 16},
}
QUESTIONS = [(f"What is {a} + {b}?", str(a + b)) for a in range(4) for b in range(5)]


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh directory with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def recipe(path: Path, **changes: Any) -> str:
    """Write a quick recipe; `section__key=value` changes it."""
    data = json.loads(json.dumps(QUICK))
    for name, value in changes.items():
        here = data
        *sections, key = name.split("__")
        for section in sections:
            here = here.setdefault(section, {})
        here[key] = value
    path.write_text(yaml.safe_dump(data), encoding="utf-8")
    return str(path)


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def report_of(run: str | Path) -> dict[str, Any]:
    return json.loads((Path(run) / "report.json").read_text(encoding="utf-8"))


def weights(run: str | Path) -> dict[str, torch.Tensor]:
    """The fp32 weights of the last checkpoint: the saved model has them rounded to the type it came in."""
    from safetensors.torch import load_file

    return load_file(max((Path(run) / "checkpoints").glob("step-*")) / "model.safetensors")


FORMATS = {
    "alpaca": [{"instruction": q, "input": "", "output": a} for q, a in QUESTIONS],
    "sharegpt": [{"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]} for q, a in QUESTIONS],
    "messages": [
        {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]} for q, a in QUESTIONS
    ],
    "prompt": [{"prompt": q, "completion": a} for q, a in QUESTIONS],
}


@pytest.mark.parametrize("name", FORMATS)
def test_trains_on_files_without_being_told_the_format(name: str, place: Path) -> None:
    file = recipe(place / "run.yaml", data={"train": lines(place / "train.jsonl", FORMATS[name])}, output="out")
    result = cli("train", file)
    assert result.exit_code == 0, result.output
    report = report_of("out")
    assert report["training"]["rows"] == 18
    assert report["tasks"][0]["role"] == "target"
    assert report["tasks"][0]["judge"] == "number"
    for made in ("README.md", "report.html", "resolved.yaml", "env.json", "data.json", "log.jsonl", "curated.jsonl"):
        assert (place / "out" / made).exists(), made


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_the_saved_model_is_the_trained_one(tuner: str, place: Path) -> None:
    """Law 7: plain transformers or PEFT read the same log-probabilities that the run measured with."""
    file = recipe(place / "run.yaml", data={"train": "lab:sums", "limit": 40}, tuner=tuner, output="out")
    assert cli("train", file).exit_code == 0
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    from holdfast.models.loading import load_model

    loader = AutoPeftModelForCausalLM if tuner == "lora" else AutoModelForCausalLM
    ids = torch.arange(5, 25)[None]
    with torch.no_grad():
        theirs = loader.from_pretrained("out/model", dtype=torch.float32).eval()(input_ids=ids).logits.log_softmax(-1)
        ours = load_model("out").model(input_ids=ids).logits.log_softmax(-1)
        base = load_model(MODEL).model(input_ids=ids).logits.log_softmax(-1)
    assert (theirs - ours).abs().max() < 1e-5
    assert (theirs - base).abs().max() > 1e-4  # it did move


def test_base_against_base_is_exactly_nothing() -> None:
    """Law 1, through the command line."""
    result = cli("eval", MODEL, "lab:strings", "lab:sums", "--against", MODEL, "--items", "10", "--out", "same")
    assert result.exit_code == 0, result.output
    for task in report_of("same")["tasks"]:
        assert (task["delta"], task["won"], task["lost"]) == (0, 0, 0)
        assert task["low"] < 0 < task["high"], "ten questions that did not flip do not show that none would"


def test_a_gate_refuses_with_code_3_and_keeps_everything(place: Path) -> None:
    changes = {"optimizer": {"name": "adamw", "learning_rate": 1.0}, "evaluate__gate": {"max_loss": 0.5}}
    file = recipe(place / "run.yaml", data={"train": "lab:sums", "limit": 40}, output="out", **changes)
    result = cli("train", file)
    assert result.exit_code == 3, result.output
    assert not report_of("out")["gate"]["passed"]
    assert (place / "out" / "model" / "config.json").exists()


def test_a_finished_run_is_not_repeated_and_another_is_refused(place: Path) -> None:
    file = recipe(place / "run.yaml", data={"train": "lab:sums", "limit": 40}, output="out")
    assert cli("train", file).exit_code == 0
    before = (place / "out" / "model" / "model.safetensors").stat().st_mtime_ns
    again = cli("train", file)
    assert again.exit_code == 0
    assert (place / "out" / "model" / "model.safetensors").stat().st_mtime_ns == before
    other = cli("train", file, "train.seed=5")
    assert other.exit_code == 2
    assert "holds another run" in other.output


def test_a_mended_recipe_takes_the_place_of_a_run_that_did_nothing(place: Path) -> None:
    changes = {"data": {"train": "lab:strings", "limit": 12}, "evaluate__keep": ["lab:sums"], "output": "out"}
    file = recipe(place / "run.yaml", method="ssr", **changes)
    broken = cli("train", file, "sampling.engine=http://127.0.0.1:9/v1")
    assert broken.exit_code == 2, broken.output
    assert "127.0.0.1:9" in broken.output
    mended = cli("train", file)
    assert mended.exit_code == 0, mended.output


def test_s3ft_end_to_end_and_the_dial(place: Path) -> None:
    file = recipe(place / "run.yaml", method="s3ft", data={"train": "lab:strings", "limit": 24}, output="out")
    result = cli("train", file, "evaluate.keep=[lab:sums]")
    assert result.exit_code == 0, result.output
    curation = report_of("out")["curation"]
    assert sum(curation["counts"].values()) == 24
    assert set(curation["counts"]) <= {"model", "paraphrase", "gold"}
    for point, name in ((0.0, "base"), (1.0, "tuned"), (0.5, "half")):
        assert cli("export", "out", name, "--dial", str(point), "--dtype", "fp32").exit_code == 0
    from holdfast.models.loading import load_model

    base, tuned, half = (dict(load_model(place / n).model.named_parameters()) for n in ("base", "tuned", "half"))
    original = dict(load_model(MODEL).model.named_parameters())
    for name, weight in original.items():
        assert torch.equal(base[name], weight)
        assert torch.allclose(half[name], (weight + tuned[name]) / 2, atol=1e-7)


def test_a_run_is_evaluated_with_its_own_system_message(place: Path) -> None:
    data = {"train": "lab:strings", "limit": 24, "system": "Answer each question twice, in capital letters."}
    file = recipe(place / "run.yaml", data=data, evaluate__keep=["lab:sums"], output="out")
    assert cli("train", file).exit_code == 0
    assert cli("eval", "out", "--against", MODEL, "--out", "again").exit_code == 0
    for when, then in (("final", "tuned"), ("base", "base")):
        texts = [(place / folder / "eval" / name / "strings.jsonl").read_text(encoding="utf-8")
                 for folder, name in (("out", when), ("again", then))]  # fmt: skip
        assert texts[0] == texts[1]


def test_compare_skips_what_is_done(place: Path) -> None:
    file = recipe(place / "run.yaml", data={"train": "lab:strings", "limit": 24}, evaluate__keep=["lab:sums"])
    first = cli("compare", file, "--methods", "sft,half", "--seeds", "2", "--out", "cmp")
    assert first.exit_code == 0, first.output
    found = json.loads((place / "cmp" / "compare.json").read_text(encoding="utf-8"))
    assert [run["method"] for run in found["runs"]] == ["sft", "half"]
    assert all(run["seeds"] == [0, 1] for run in found["runs"])
    stamps = {p: p.stat().st_mtime_ns for p in (place / "cmp").glob("*/model/*.safetensors")}
    assert len(stamps) == 4
    assert cli("compare", file, "--methods", "sft,half", "--seeds", "2", "--out", "cmp").exit_code == 0
    assert stamps == {p: p.stat().st_mtime_ns for p in (place / "cmp").glob("*/model/*.safetensors")}


def test_replay_is_mixed_in(place: Path) -> None:
    data = {"train": "lab:strings", "limit": 36, "replay": {"path": "lab", "share": 0.25}}
    file = recipe(place / "run.yaml", data=data, evaluate__keep=["lab:sums"], output="out")
    assert cli("train", file).exit_code == 0
    assert report_of("out")["curation"]["counts"] == {"gold": 36, "replay": 12}


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_end_with_the_weights_of_one(kind: str, place: Path) -> None:
    """The whole command, in what `accelerate launch` sets; that itself is started by the page on scaling."""
    # Shards run the model's own forward and one process a quicker one. They differ in rounding, which Adam's smallest
    # eps makes whole steps of where a gradient is next to nothing.
    optimizer = {"name": "adamw", "eps": 1e-5}
    file = recipe(place / "run.yaml", data={"train": "lab:sums", "limit": 40}, optimizer=optimizer, output="one")
    assert cli("train", file).exit_code == 0
    sharded = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "ACCELERATE_USE_CPU": "true"}
    env = os.environ | {"OMP_NUM_THREADS": "1"} | (sharded if kind == "fsdp2" else {})
    launch(["-m", "holdfast", "train", file, "output=two"], place, env)
    one, two = weights("one"), weights("two")
    assert max(float((one[name] - two[name]).abs().max()) for name in one) < 1e-5
    assert any(not torch.equal(one[name], two[name]) for name in one)  # two did share the work


BAD = {
    "an unknown key": ({"train__max_lenght": 3}, "max_lenght is not a setting; did you mean"),
    "a missing file": ({"data": {"train": "nothing.jsonl"}}, "nothing.jsonl"),
    "a model that is none": ({"model": "place"}, "config.json is missing"),
    "a judge that fits no row": ({"judge": "number", "data": {"train": "texts.jsonl"}}, "judge number fits none"),
    "nothing that fits": ({"train__max_length": 3}, "max_length"),
    "a method that is none": ({"method": "neftun"}, "did you mean neftune"),
    "a skill that is none": ({"data": {"train": "lab:sum"}}, "did you mean sums"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(name: str, place: Path) -> None:
    (place / "place").mkdir()
    lines(place / "texts.jsonl", [{"prompt": f"Say hello {i}", "completion": "hello there"} for i in range(20)])
    changes, expected = BAD[name]
    file = recipe(place / "run.yaml", **{"data": {"train": "lab:sums", "limit": 40}, "output": "out", **changes})
    result = cli("train", file)
    assert result.exit_code == 2, result.output
    told = [line for line in result.output.splitlines() if line.startswith("holdfast:")]
    assert len(told) == 1
    assert expected in told[0]
    assert "Traceback" not in result.output
    assert not (place / "out" / "model").exists()


def test_check_shows_the_plan(place: Path) -> None:
    file = recipe(place / "run.yaml", data={"train": lines(place / "t.jsonl", FORMATS["alpaca"])})
    result = cli("check", file)
    assert result.exit_code == 0, result.output
    assert "»" in result.output
    assert "memory" in result.output
    assert not (place / "runs").exists()
