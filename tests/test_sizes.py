"""Steps that fit the data, as a user meets them: `check`, `train`, `compare`, and a run that was killed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from holdfast.check import check
from holdfast.cli.app import app
from holdfast.compare import budget_of
from holdfast.recipe import Recipe
from holdfast.recipe_file import read_recipe
from holdfast.run import train
from holdfast.ui import Progress

TinyDir = Callable[..., Path]
NOTHING: dict[str, Any] = {"target": "none", "keep": []}


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh directory with its own cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    return tmp_path


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def sums(count: int) -> str:
    """A file of short rows."""
    rows = [{"prompt": f"What is {i} + {i + 1}?", "completion": str(2 * i + 1)} for i in range(count)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "rows.jsonl"


def recipe(model: Path | str, train_file: str, **more: Any) -> str:
    """A recipe file that measures nothing."""
    content = {"model": str(model), "data": {"train": train_file, "test": 0}, "evaluate": NOTHING, "output": "out"}
    Path("run.yaml").write_text(yaml.safe_dump(content | more), encoding="utf-8")
    return "run.yaml"


def training_of(run: str) -> dict[str, Any]:
    return json.loads((Path(run) / "report.json").read_text(encoding="utf-8"))["training"]


def spaced(result: Result) -> str:
    """What was said, without line breaks."""
    return " ".join(result.output.split())


def test_three_thousand_short_rows_make_enough_steps_and_every_verb_says_the_same(tiny_dir: TinyDir) -> None:
    file = recipe(tiny_dir(), sums(3000), train={"epochs": 1, "precision": "fp32"})
    found = check(file)
    plan = found["plan"]
    assert plan["steps"] >= 30
    assert 16 <= found["rows"]["kept"] / plan["steps"] <= 64
    assert found["warnings"] == []
    assert str(budget_of(read_recipe(file).recipe, None)) == f"{plan['steps']} steps of {plan['batch_tokens']:,} tokens"

    done = cli("train", file)
    assert done.exit_code == 0, done.output
    size = f"batch_tokens {plan['batch_tokens']:,} (derived): {plan['batch']}"
    assert f"{plan['steps']} steps, {size}" in done.output
    assert "learning rate 2e-05 (derived: tuner full moves the base weights)" in done.output
    training = training_of("out")
    assert (training["steps"], training["batch_tokens"], training["batch"]) == (
        plan["steps"], plan["batch_tokens"], size,
    )  # fmt: skip
    assert training["warnings"] == []
    newest = max(Path("out/checkpoints").iterdir())
    assert json.loads((newest / "state.json").read_text())["made_by"]["train.batch_tokens"] == plan["batch_tokens"]
    lines = Path("out/resolved.yaml").read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if "batch_tokens" in line]
    assert line.split() == f"batch_tokens: auto # default: {size}".split()
    for page in ("out/report.html", "out/README.md"):
        assert "little will be learned" not in Path(page).read_text(encoding="utf-8")
    assert "already finished" in cli("train", "out").output, "its resolved.yaml is the same recipe"
    assert size in Path("out/resolved.yaml").read_text(encoding="utf-8")


def test_few_steps_are_warned_of_by_check_train_and_report(tiny_dir: TinyDir) -> None:
    file = recipe(tiny_dir(), sums(20), train={"epochs": 1, "precision": "fp32"})
    text = "only 2 steps: little will be learned; give more rows, more train.epochs, or train.max_steps (now"
    for verb in ("check", "train"):
        assert f"warning: {text}" in spaced(cli(verb, file)), verb
    assert training_of("out")["warnings"][0].startswith(text)
    for page in ("report.html", "README.md"):
        assert "only 2 steps: little will be learned" in (Path("out") / page).read_text(encoding="utf-8")
    assert "only 29 steps" in check(recipe("lab-small", sums(20), train={"max_steps": 29}))["warnings"][0]
    assert check(recipe("lab-small", sums(20), train={"max_steps": 30}))["warnings"] == []


def test_max_steps_go_before_epochs(tiny_dir: TinyDir) -> None:
    """As with every peer: 64 rows, one epoch, a hundred steps are a hundred steps."""
    settings = {"max_steps": 100, "epochs": 1, "batch_tokens": 512, "precision": "fp32"}
    file = recipe(tiny_dir(), sums(64), train=settings)
    done = cli("train", file)
    assert done.exit_code == 0, done.output
    assert training_of("out")["steps"] == 100
    assert training_of("out")["epochs"] > 20
    notes = [line for line in done.output.splitlines() if "not used" in line]
    assert notes == ["run.yaml:11: train.epochs 1 is not used: train.max_steps 100 goes before it"]
    assert check(file)["plan"]["steps"] == 100
    assert "not used" not in cli("check", recipe(tiny_dir(), "rows.jsonl", train={"max_steps": 3})).output
    staged = {"stages": [{"method": "sft", "train": {"epochs": 2}}, "dpo"], "train": {"max_steps": 40}}
    (note,) = read_recipe(recipe("lab-small", "lab:sums", **staged)).notes
    assert "train.epochs 2 is not used: train.max_steps 40 goes before it" in note


class Stopped(Exception):
    """Stands for a kill."""


class StopsAt(Progress):
    """A voice that ends the run in the middle of a step."""

    def advance(self, n: int = 1, **shown: Any) -> None:
        super().advance(n, **shown)
        if self.name == "train" and self.done == 25:
            raise Stopped


def test_a_killed_run_goes_on_with_the_same_step(tiny_dir: TinyDir) -> None:
    file = recipe(tiny_dir(), sums(500), train={"epochs": 1, "precision": "fp32"})
    with pytest.raises(Stopped):
        train(file, ui=StopsAt("silent"))
    done = cli("train", file)
    assert done.exit_code == 0, done.output
    assert "resumed after step" in done.output
    assert cli("train", file, "output=whole").exit_code == 0
    assert training_of("out")["batch_tokens"] == training_of("whole")["batch_tokens"]
    one, other = (load_file(f"{run}/model/model.safetensors") for run in ("out", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_compare_gives_every_method_the_same_step(tiny_dir: TinyDir) -> None:
    evaluate = {"target": "test", "keep": [], "items": 2, "live_items": 0, "max_tokens": 4}
    data = {"train": sums(40), "test": 0.1}
    file = recipe(tiny_dir(), "", data=data, evaluate=evaluate, train={"precision": "fp32"})
    done = cli("compare", file, "--methods", "sft,half", "--out", "cmp")
    assert done.exit_code == 0, done.output
    budget = budget_of(read_recipe(file).recipe, None)
    assert json.loads(Path("cmp/compare.json").read_text())["budget"] == str(budget)
    for run in ("cmp/sft-seed0", "cmp/half-seed0"):
        assert (training_of(run)["steps"], training_of(run)["batch_tokens"]) == (budget.steps, budget.batch_tokens)
    assert "not used" not in done.output


@pytest.mark.parametrize("model", ["lab", "lab-small"])
def test_the_laboratory_keeps_its_step(model: str) -> None:
    assert Recipe(model=model, data={"train": "lab:sums"}).train.batch_tokens == 2048


def test_settings_that_do_not_fit_the_model_or_the_rows_are_warned_of() -> None:
    steps = {"max_steps": 30}
    found = check(recipe("lab-small", sums(40), tuner={"name": "lora", "r": 1024}, train=steps))["warnings"]
    assert len(found) == 1
    assert found[0].startswith("tuner.r 1,024 is larger than ")
    assert "set a smaller r, or tuner: full" in found[0]
    assert check(recipe("lab-small", "rows.jsonl", tuner="lora", train=steps))["warnings"] == []

    found = check(recipe("lab-small", "rows.jsonl", train={"batch_tokens": 4, **steps}))["warnings"]
    assert len(found) == 1
    assert found[0].startswith("train.batch_tokens 4 is smaller than 40 of the rows")

    rows = [{"prompt": f"Say {i}", "completion": str(i), "label": True} for i in range(40)]
    Path("kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = check(recipe("lab-small", "kto.jsonl", method="kto", train=steps))["warnings"]
    assert found == [
        "label is true in all 40 rows: objective kto learns from the difference; add rows with label false, or use "
        "objective sft"
    ]
