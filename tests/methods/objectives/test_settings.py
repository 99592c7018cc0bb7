"""Learning rate, epochs and batch where the recipe says nothing: the papers', with their origin, everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from holdfast.axes.objective import Objective
from holdfast.axes.registry import REGISTRY, find_method, name_of
from holdfast.cli.app import app
from holdfast.data.batching.step_size import rows_per_step
from holdfast.pipeline.budget import take_epochs_of_arms
from holdfast.recipe.loader import ResolvedRecipe, read_recipe, resolve_any, switch_method

METHODS_PAGE = Path(__file__).parents[3] / "docs" / "methods.md"


def resolved(model: str = "some/model", **given: Any) -> ResolvedRecipe:
    return resolve_any({"model": model, "data": {"train": "rows.jsonl"}, **given})


@pytest.mark.parametrize(
    ("method", "rate", "epochs"),
    [
        ("sft", 2e-5, 3), ("sft+lora", 1e-4, 3), ("half", 2e-5, 3), ("s3ft", 2e-5, 3), ("ual", 2e-5, 3),
        ("dpo", 1e-6, 1), ("dpo+lora", 1e-5, 1), ("simpo", 6e-7, 1), ("simpo+lora", 6e-6, 1), ("kto", 5e-6, 1),
        ("tpo_l", 5e-7, 1), ("ift", 5e-7, 3), ("ada_dpo+lora", 5e-5, 1), ("ada_dpo", 5e-6, 1), ("una", 3e-6, 2),
        ("uft+lora", 3e-5, 2), ("grpo", 1e-6, 1), ("prompt_distillation+lora", 1e-4, 10), ("neftune", 5e-5, 3),
    ],
)  # fmt: skip
def test_the_papers_numbers_are_the_defaults(method: str, rate: float, epochs: float) -> None:
    found = resolved(method=method)
    assert (found.recipe.optimizer.learning_rate, found.recipe.train.epochs) == (rate, epochs)
    objective = name_of(found.recipe.objective)
    for key in ("optimizer.learning_rate", "train.epochs"):
        assert found.sources[key].startswith(f"derived: objective {objective}, "), key


def test_pairs_train_gently() -> None:
    for name in REGISTRY["objectives"]:
        objective = find_method("objectives", name)
        assert issubclass(objective, Objective)
        usual = objective.settings
        if objective.rows in ("pair", "triple", "group"):
            assert usual.rate <= (9e-6 if name == "reward" else 5e-6), name  # 9e-6: InstructGPT's reward model
            assert usual.epochs == 1, name
        assert usual.rate < usual.learning_rate(True)[0], name


def test_knobs_may_decide() -> None:
    rates = [resolved(objective={"name": "una", **form}).recipe for form in ({}, {"form": "pair"}, {"form": "binary"})]
    assert [recipe.optimizer.learning_rate for recipe in rates] == [3e-6, 5e-7, 5e-7]
    assert rates[1].objective.paper_settings.adapter == 5e-6


def test_what_the_recipe_says_goes_before() -> None:
    given = resolved(method="dpo", optimizer={"learning_rate": 3e-5}, train={"epochs": 4})
    assert (given.recipe.optimizer.learning_rate, given.recipe.train.epochs) == (3e-5, 4)
    assert resolved(method="dpo", optimizer="lomo").recipe.optimizer.learning_rate == 0.03, "it has a rate of its own"
    stages = resolved(stages=["sft", {"method": "dpo"}, {"method": "simpo", "optimizer": {"learning_rate": 1e-3}}])
    assert [stage.optimizer.learning_rate for stage in stages.recipe.stages] == [2e-5, 1e-6, 1e-3]
    assert [stage.train.epochs for stage in stages.recipe.stages] == [3, 1, 1]
    zephyr = resolved(method="zephyr").recipe.stages[1]
    assert (zephyr.optimizer.learning_rate, zephyr.train.epochs) == (5e-7, 1), "the preset's paper has its own"


def test_laboratory_models_keep_their_rate(tmp_path: Path) -> None:
    run = tmp_path / "run" / "model"
    run.mkdir(parents=True)
    (run / "config.json").write_text(json.dumps({"holdfast_lab": True}, indent=2), encoding="utf-8")
    for model in ("lab", "lab-small", str(tmp_path / "run"), str(run)):
        recipe = resolved(model, method="dpo").recipe
        assert (recipe.optimizer.learning_rate, recipe.train.epochs) == (3e-4, 3), model
        assert recipe.train.batch_tokens == 2048
        assert resolved(model, method="ift+lora").recipe.optimizer.learning_rate == 1e-3
    (run / "config.json").write_text("{}", encoding="utf-8")
    assert resolved(str(run), method="dpo").recipe.optimizer.learning_rate == 1e-6


def test_steps_hold_as_many_rows_as_the_papers_where_there_are_rows_for_it() -> None:
    assert [rows_per_step(n, 128) for n in (7679, 7680, 100_000)] == [64, 128, 128]
    assert [rows_per_step(n, 8) for n in (32, 100_000)] == [8, 8]
    assert [rows_per_step(n, 512) for n in (500, 30_719, 30_720)] == [16, 256, 512]


def test_the_page_of_methods_and_show_say_the_same() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| ([\d.e-]+) \| ([\d.e-]+) \| (\d+) \| (\d+) \| (.*) \|$", METHODS_PAGE.read_text(), re.M
    )
    assert [row[0] for row in rows] == list(REGISTRY["objectives"])
    for name, rate, adapter, epochs, batch, source in rows:
        usual = find_method("objectives", name).settings  # type: ignore[attr-defined]
        assert (float(rate), float(adapter)) == (usual.rate, usual.learning_rate(True)[0]), name
        assert (float(epochs), int(batch), source) == (usual.epochs, usual.batch, usual.source), name
    shown = " ".join(CliRunner().invoke(app, ["show", "simpo"]).output.split())
    assert (
        "learning rate 6e-07, with an adapter 6e-06; 1 epoch; steps of up to 128 rows. From: Meng et al. 2024" in shown
    )


def test_check_train_and_resolved_yaml_say_whose_numbers_they_are(
    tiny_dir: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOLDFAST_CACHE", str(tmp_path / "cache"))
    pairs = [{"prompt": f"{i} + 1?", "chosen": str(i + 1), "rejected": str(i)} for i in range(40)]
    Path("pairs.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs), encoding="utf-8")
    content = {
        "model": str(tiny_dir()), "method": "dpo", "data": {"train": "pairs.jsonl", "test": 0},
        "evaluate": {"target": "none", "keep": []}, "output": "out", "train": {"precision": "fp32"},
    }  # fmt: skip
    Path("run.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    origin = "(derived: objective dpo, Rafailov et al. 2023)"
    checked = " ".join(CliRunner().invoke(app, ["check", "run.yaml"]).output.split())
    assert f"learning rate 1e-06 {origin}" in checked
    assert f"epochs 1 {origin}" in checked
    done = CliRunner().invoke(app, ["train", "run.yaml"])
    assert done.exit_code == 0, done.output
    assert f"learning rate 1e-06 {origin}" in " ".join(done.output.split())
    lines = [line.strip() for line in Path("out/resolved.yaml").read_text(encoding="utf-8").splitlines()]
    for line in ("learning_rate: 1.0e-06", "epochs: 1.0"):
        (found,) = [text for text in lines if text.startswith(line)]
        assert "# derived: objective dpo, Rafailov et al. 2023" in found
    assert json.loads(Path("out/report.json").read_text(encoding="utf-8"))["training"]["epochs"] == 1
    assert not [note for note in read_recipe("out").notes if "not used" in note]


def test_methods_are_compared_over_the_epochs_they_agree_on() -> None:
    for given, names, epochs in (
        ({}, ("dpo", "simpo"), 1),
        ({}, ("dpo", "kto", "sft"), 3),
        ({"train": {"epochs": 5}}, ("dpo", "simpo"), 5),
    ):
        common = resolved(**given)
        arms = {name: switch_method(common, name, names) for name in names}
        assert take_epochs_of_arms(common, arms).train.epochs == epochs, names
