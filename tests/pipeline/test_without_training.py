"""Methods that train nothing: a run of such a one alone, beside trained ones in a comparison, and what is refused."""

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
from holdfast.serving.server import ModelServer, ServerSettings

RECIPE: dict[str, Any] = {
    "model": "lab-small", "data": {"train": "lab:sums", "limit": 40},
    "train": {"max_steps": 2, "batch_tokens": 256}, "optimizer": {"learning_rate": 1e-2},
    "evaluate": {"keep": ["lab:strings"], "items": 4, "live_items": 0, "max_tokens": 8},
}  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    for name in ("Shots", "Vote"):
        monkeypatch.setitem(REGISTRY["inference"], name.lower(), f"methods.inference.ensemble:{name}")
    return tmp_path


def run(*arguments: str, code: int = 0) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == code, result.output
    return result.output


def write_recipe(place: Path, **changes: Any) -> None:
    (place / "r.yaml").write_text(yaml.safe_dump({**RECIPE, **changes}), encoding="utf-8")


def test_it_stands_beside_trained_methods_in_one_comparison(place: Path) -> None:
    write_recipe(place)
    said = run("compare", "r.yaml", "-m", "shots,sft+shots,vote", "--out", "c")
    report = json.loads((place / "c" / "compare.json").read_text(encoding="utf-8"))
    assert {entry["method"]: entry["steps"] for entry in report["runs"]} == {
        "shots": [0], "sft+shots": [2], "vote": [0],
    }  # fmt: skip
    assert report["budget"].startswith("2 steps")
    costs = {entry["method"]: entry["cost"] for entry in report["runs"]}
    per_question = {name: cost["forward_passes"] / cost["questions"] for name, cost in costs.items()}
    assert 1 <= per_question["shots"] <= 8  # a pass for each token of an answer, of at most 8
    assert per_question["vote"] > 2 * per_question["shots"]  # three answers a question
    assert costs["vote"]["answer_seconds"] > 0
    assert "passes" in said
    assert "Forward passes a question" in (place / "c" / "report.html").read_text(encoding="utf-8")
    for name, steps in (("shots", 0), ("sft+shots", 2)):
        folder = place / "c" / f"{name}-seed0"
        one = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        assert one["training"]["steps"] == steps
        assert "shots" in one["model"]["decoding"]
    said = run("train", "r.yaml", "method=shots", "train.max_steps=0", "output=one")
    assert "nothing is trained" in said
    assert "training on" not in said
    run("check", "r.yaml", "method=shots", "train.max_steps=0", "output=two")
    report = json.loads((place / "one" / "report.json").read_text(encoding="utf-8"))
    assert [t["tuned"] for t in report["tasks"]] == [
        t["tuned"] for t in json.loads((place / "c" / "shots-seed0" / "report.json").read_text())["tasks"]
    ]


def test_arms_of_a_file_have_knobs_of_their_own(place: Path) -> None:
    """Two untrained arms of one method beside a trained one, which the names of methods alone could not say."""
    write_recipe(place, train={"batch_tokens": 256})
    (place / "arms.yaml").write_text(
        "plain: [method=sft]\none shot:\n  method: shots\n  inference: {name: shots, shots: 1}\n"
        "two shots: ['method=shots', 'inference={name: shots, shots: 2}']\n",
        encoding="utf-8",
    )
    run("compare", "r.yaml", "--arms", "arms.yaml", "--steps", "2", "--out", "c")
    report = json.loads((place / "c" / "compare.json").read_text(encoding="utf-8"))
    assert {e["method"]: (e["steps"], e["inference"]) for e in report["runs"]} == {
        "plain": ([2], None), "one shot": ([0], "shots"), "two shots": ([0], "shots"),
    }  # fmt: skip
    for content, says in (("[1, 2]", "must be a mapping"), ("a: 3", "a: must be a list"), ("", "must be a mapping")):
        (place / "wrong.yaml").write_text(content, encoding="utf-8")
        assert says in run("compare", "r.yaml", "--arms", "wrong.yaml", code=2)
    assert "cannot be read" in run("compare", "r.yaml", "--arms", "none.yaml", code=2)


def test_what_would_do_nothing_is_refused(place: Path) -> None:
    cases = {
        "method shots trains nothing, but train.max_steps is 2; say method: sft+shots": {"method": "shots"},
        "there is no inference method": {"train": {"max_steps": 0}},
        "inference dial needs a tuned model": {"train": {"max_steps": 0}, "inference": "dial"},
    }
    for says, changes in cases.items():
        write_recipe(place, output="no", **changes)
        for verb in ("check", "train"):
            assert says in run(verb, "r.yaml", code=2).replace("\n", " ")
        assert not (place / "no").exists()


def test_its_model_refers_to_the_base_and_loads_wherever_a_run_does(place: Path) -> None:
    base = load_model("lab-small", device="cpu")
    write_recipe(place)
    said = run("train", "r.yaml", "method=shots", "train.max_steps=0", "output=one")
    for words in (said, (place / "one" / "README.md").read_text(encoding="utf-8")):
        assert "Nothing was trained: the weights are those of lab-small" in " ".join(words.split())
    sizes = [
        sum(file.stat().st_size for file in path.glob("*.safetensors")) for path in (place / "one/model", base.path)
    ]
    assert sizes[0] < 100 < sizes[1]
    assert_same_weights(load_model("one", device="cpu").model, base.model)
    asked = ["--once", "--max-tokens", "6"]
    answers = [
        CliRunner().invoke(app, ["chat", *arguments, *asked], input="What is 3 + 4?\n").stdout
        for arguments in (["one"], ["lab-small", "--inference", "shots"])
    ]
    assert answers[0] == answers[1] != ""
    assert "strings" in run("eval", "one", "lab:strings", "--against", "lab-small", "--items", "2")
    server = ModelServer(ServerSettings(device="cpu"), print, print)
    server.add_model("one", "one")
    server.models["one"].live.close()
    server.loop.close()
    assert "dial 1" in run("dial", "one", "--points", "1")
    run("export", "one", "referring")
    run("export", "one", "whole", "--merge")
    for name, is_whole in (("referring", False), ("whole", True)):
        assert_same_weights(load_model(name, device="cpu").model, base.model)
        assert (place / name / "model.safetensors").exists() == is_whole
        assert (place / name / "inference.json").exists()
    for verb in ("check", "train"):
        assert "trained nothing" in run(verb, "r.yaml", "model=one", "output=no", code=2)


def assert_same_weights(one: Any, other: Any) -> None:
    """See that two models have equal tensors of equal names."""
    states = one.state_dict(), other.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
