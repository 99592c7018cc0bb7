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

from holdfast.cli.app import app
from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.pipeline.budget import compute_budget
from holdfast.pipeline.check import check
from holdfast.pipeline.train import train
from holdfast.recipe.loader import read_recipe
from holdfast.recipe.schema import Recipe

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


def warnings_of(file: str) -> list[str]:
    """What `check` warns of, but for nothing being kept: these recipes measure nothing."""
    return [text for text in check(file)["warnings"] if not text.startswith("nothing is kept")]


def spaced(result: Result) -> str:
    """What was said, without line breaks."""
    return " ".join(result.output.split())


def test_many_short_rows_make_enough_steps_and_every_verb_says_the_same(tiny_dir: TinyDir) -> None:
    file = recipe(tiny_dir(), "rows.jsonl", train={"epochs": 1, "precision": "fp32"})
    for count in (1940, 700):  # the fewer are trained on, in steps as short as they must be for there to be enough
        sums(count)
        found = check(file)
        plan = found["plan"]
        assert plan["steps"] >= 30
        assert count == 700 or 16 <= found["rows"]["kept"] / plan["steps"] <= 64
        assert warnings_of(file) == []
        assert (
            str(compute_budget(read_recipe(file).recipe, None))
            == f"{plan['steps']} steps of {plan['batch_tokens']:,} tokens"
        )

    done = cli("train", file)
    assert done.exit_code == 0, done.output
    size = f"batch_tokens {plan['batch_tokens']:,} (derived): {plan['batch']}"
    assert f"{plan['steps']} steps, {size}" in done.output
    assert "learning rate 2e-05 (derived: objective sft, Taori et al. 2023" in done.output
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
    assert "only 29 steps" in warnings_of(recipe("lab-small", sums(20), train={"max_steps": 29}, output="new"))[0]
    assert warnings_of(recipe("lab-small", sums(20), train={"max_steps": 30}, output="new")) == []


def test_max_steps_go_before_epochs(tiny_dir: TinyDir) -> None:
    """As with every peer: 64 rows, one epoch, twelve steps are twelve steps."""
    settings = {"max_steps": 12, "epochs": 1, "batch_tokens": 512, "precision": "fp32"}
    file = recipe(tiny_dir(), sums(64), train=settings)
    done = cli("train", file)
    assert done.exit_code == 0, done.output
    assert training_of("out")["steps"] == 12
    assert training_of("out")["epochs"] > 2
    notes = [line for line in done.output.splitlines() if "not used" in line]
    assert notes == ["run.yaml:11: train.epochs 1 is not used: train.max_steps 12 goes before it"]
    assert check(file)["plan"]["steps"] == 12
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
    budget = compute_budget(read_recipe(file).recipe, None)
    assert json.loads(Path("cmp/compare.json").read_text())["budget"] == str(budget)
    for run in ("cmp/sft-seed0", "cmp/half-seed0"):
        assert (training_of(run)["steps"], training_of(run)["batch_tokens"]) == (budget.steps, budget.batch_tokens)
    assert "not used" not in done.output


@pytest.mark.parametrize("model", ["lab", "lab-small"])
def test_the_laboratory_keeps_its_step(model: str) -> None:
    assert Recipe(model=model, data={"train": "lab:sums"}).train.batch_tokens == 2048


def test_settings_that_do_not_fit_the_model_or_the_rows_are_warned_of() -> None:
    steps = {"max_steps": 30}
    with pytest.raises(UserError, match=r"tuner\.r 128 is above the rank of every matrix it would update"):
        warnings_of(recipe("lab-small", sums(40), tuner={"name": "lora", "r": 128}, train=steps))
    assert warnings_of(recipe("lab-small", "rows.jsonl", tuner="lora", train=steps)) == []

    found = warnings_of(recipe("lab-small", "rows.jsonl", train={"batch_tokens": 4, **steps}))
    assert len(found) == 1
    assert found[0].startswith("train.batch_tokens 4 is smaller than 40 of the rows")

    rows = [{"prompt": f"Say {i}", "completion": str(i), "label": True} for i in range(40)]
    Path("kto.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found = warnings_of(recipe("lab-small", "kto.jsonl", method="kto", train=steps))
    assert found == [
        "label is true in all 40 rows: objective kto learns from the difference; add rows with label false, or use "
        "objective sft"
    ]


# ---- rows that are too long ----------------------------------------------------------------------------------------

CONTEXT = 64


def long_rows(count: int, words: int, short: int = 0) -> str:
    """A file of rows whose answers have about four tokens a word, and short ones behind them."""
    rows = [{"prompt": f"Write {i}.", "completion": "zebra " * words} for i in range(count)]
    rows += [{"prompt": f"Say {i}.", "completion": str(i)} for i in range(short)]
    Path("long.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return "long.jsonl"


def small(tiny_dir: TinyDir) -> Path:
    """A model with learned positions: there is no embedding beyond its context."""
    return tiny_dir("gpt2", n_positions=CONTEXT)


@pytest.mark.parametrize("policy", ["auto", "drop", "cut", "window", "error"])
def test_rows_longer_than_the_context_are_never_trained_beyond_it(policy: str, tiny_dir: TinyDir) -> None:
    train_settings = {"max_length": 512, "max_steps": 2, "precision": "fp32"}
    data = {"train": long_rows(8, 50, short=4), "test": 0, "too_long": policy}
    file = recipe(small(tiny_dir), "", data=data, train=train_settings)
    checked, done = cli("check", file), cli("train", file)
    for result in (checked, done):
        assert "train.max_length 512 is more than the model's context: the limit is 64 tokens" in spaced(result)
        assert result.exit_code == (2 if policy == "error" else 0), result.output
    if policy == "error":
        for result in (checked, done):
            assert "8 rows are longer than 64 tokens, the model's context, the longest (long.jsonl:1, " in result.output
        assert not Path("out").exists()
        return
    training = training_of("out")
    warning = "8 of 12 rows (67%) are longer than 64 tokens, the model's context, and are left out; set data.too_long"
    if policy in ("auto", "drop"):
        assert training["dropped"] == {"longer than the model's context": 8}
        assert training["rows"] == 4
        for result in (checked, done):
            assert warning in spaced(result)
        assert "8 of 12 rows (67%) are longer" in Path("out/report.html").read_text(encoding="utf-8")
    else:
        assert (training["rows"], training["dropped"]) == (12, {})
        assert "left out" not in done.output
    assert training["windows"] == 0


def test_nothing_is_measured_or_written_when_no_row_fits(tiny_dir: TinyDir) -> None:
    """Told before the base is measured, and by `check` in the same words."""
    data = {"train": long_rows(12, 50), "test": 0.2}
    file = recipe(small(tiny_dir), "", data=data, evaluate={"keep": [], "items": 2, "max_tokens": 4})
    checked, done = cli("check", file), cli("train", file)
    assert checked.exit_code == done.exit_code == 2
    for result in (checked, done):
        (line,) = [line for line in result.output.splitlines() if line.startswith("holdfast:")]
        assert line.startswith("holdfast: none of the 10 rows can be trained on (10 longer than the model's context)")
        assert line.endswith("set data.too_long to cut, which trains on their beginnings")
    assert "measure base" not in done.output
    assert not Path("out").exists()
    prompts = [{"prompt": "zebra " * 50, "completion": "Yes."} for _ in range(4)]
    Path("prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in prompts), encoding="utf-8")
    said = cli("check", file, "data.train=prompts.jsonl", "data.test=0", "evaluate.target=none", "data.too_long=cut")
    assert "(4 answer cut to nothing)" in said.output
    assert "the prompt alone is too long: shorten the prompts, or take a model with a longer context" in said.output


def test_few_long_rows_are_counted_without_a_warning(tiny_dir: TinyDir) -> None:
    file = recipe(small(tiny_dir), long_rows(2, 50, short=40), train={"max_steps": 30})
    found = check(file)
    assert found["rows"]["dropped"] == {"longer than the model's context": 2}
    assert warnings_of(file) == []
    assert found["rows"]["limit"] == "64 tokens, the model's context"
    within = check(recipe(small(tiny_dir), "long.jsonl", train={"max_steps": 30, "max_length": 32}))
    assert within["rows"]["limit"] == "32 tokens, train.max_length"
    assert within["rows"]["dropped"] == {"longer than max_length": 2}


@pytest.mark.parametrize("policy", ["auto", "window"])
def test_long_plain_text_trains_in_windows_by_default(policy: str, tiny_dir: TinyDir) -> None:
    text = "".join(f"Line {i} of a long story about a zebra.\n" for i in range(40))
    Path("text.jsonl").write_text(json.dumps({"text": text}) + "\n" + json.dumps({"text": "Short."}) + "\n")
    data = {"train": "text.jsonl", "test": 0, "too_long": policy}
    file = recipe(small(tiny_dir), "", data=data, train={"max_steps": 3, "precision": "fp32"})
    done = cli("train", file)
    assert done.exit_code == 0, done.output
    training = training_of("out")
    assert (training["rows"], training["dropped"]) == (2, {})
    assert training["windows"] > 10
    assert f"1 long text is cut into {training['windows']} windows of at most 64 tokens" in done.output
    assert check(file)["rows"]["windows"] == training["windows"]
    dropped = check(recipe(small(tiny_dir), "", data=data | {"too_long": "drop"}, train={"max_steps": 3}))
    assert dropped["rows"]["dropped"] == {"longer than the model's context": 1}


def test_the_old_name_of_the_setting_is_read() -> None:
    resolved = read_recipe(recipe("lab-small", "", data={"train": "lab:sums", "on_long": "truncate"}))
    assert resolved.recipe.data.too_long == "cut"
    assert "data.on_long is read as data.too_long" in resolved.notes[0]
