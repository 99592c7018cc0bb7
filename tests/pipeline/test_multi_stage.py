"""Stages: how they are read, how they run one after another, and what is left of them after a kill."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from holdfast.axes.registry import REGISTRY, name_of
from holdfast.core.progress import Progress
from holdfast.errors import GateRefused, UserError
from holdfast.methods.presets import SFTThenDPO, Zephyr
from holdfast.pipeline.check import check
from holdfast.pipeline.compare import compare
from holdfast.pipeline.multi_stage import plan_stage
from holdfast.pipeline.run_dir import recipe_key
from holdfast.pipeline.train import train
from holdfast.recipe.loader import ResolvedRecipe, format_resolved_yaml, read_recipe, resolve_any, switch_method
from holdfast.recipe.schema import Recipe
from holdfast.recipe.stages import stage_key

TWO = """\
model: lab
train: {epochs: 2}
stages:
  - method: sft
    data: {train: lab:story}
  - name: prefer
    method: dpo
    data: {train: pairs.jsonl}
    optimizer: {learning_rate: 1e-5}
output: runs/two
"""


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def staged(*stages: Any, **given: Any) -> Recipe:
    return Recipe.model_validate({"model": "some/model", "data": {"train": "rows.jsonl"}, "stages": stages, **given})


def errors(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        read_recipe(path, overrides)
    return str(caught.value).replace(f"{path.parent}/", "").splitlines()


# How stages are read.


def test_a_stage_is_the_recipe_with_its_own_settings_over_it(write) -> None:
    recipe = read_recipe(write(TWO)).recipe
    first, second = recipe.stages
    assert (first.name, second.name) == ("sft", "prefer")
    assert (first.model, second.model) == ("base", "stage:sft")
    assert (name_of(first.objective), name_of(second.objective)) == ("sft", "dpo")
    assert first.train.epochs == second.train.epochs == 2
    assert (first.data.train, second.data.train, recipe.data.train) == ("lab:story", "pairs.jsonl", "lab:story")
    assert second.optimizer.learning_rate == 1e-5
    assert recipe.label == "sft, prefer"


def test_a_stage_without_method_is_called_by_its_objective() -> None:
    own = {"name": "my.module:Own", "weight": 2}
    named = staged({"objective": "dpo"}, {"objective": {"name": "grpo"}})
    assert [stage.name for stage in named.stages] == ["dpo", "grpo"]
    assert stage_key({"stages": [{"objective": own}, {"objective": "ipo"}]}, "Own") == 0
    with pytest.raises(ValidationError, match="is called dpo, like"):
        staged({"objective": "dpo"}, {"objective": "dpo"})


def test_defaults_follow_the_model_at_the_beginning_of_the_chain() -> None:
    stages = [{"method": "sft"}, {"method": "dpo"}, {"name": "other", "model": "some/other"}, {"name": "after"}]
    rates = [stage.optimizer.learning_rate for stage in staged(*stages, model="lab").stages]
    sizes = [stage.train.batch_tokens for stage in staged(*stages, model="lab").stages]
    assert rates == [3e-4, 3e-4, 2e-5, 2e-5]
    assert sizes == [2048, 2048, "auto", "auto"]


def test_knobs_of_another_method_are_not_inherited() -> None:
    recipe = staged(
        {"name": "a"}, {"name": "b", "tuner": {"alpha": 4}}, {"name": "c", "tuner": "half"},
        {"name": "d", "tuner": "lora"}, tuner={"name": "lora", "r": 2},
    )  # fmt: skip
    tuners = [stage.tuner.model_dump() for stage in recipe.stages]
    assert [name_of(stage.tuner) for stage in recipe.stages] == ["lora", "lora", "half", "lora"]
    assert [tuner.get("r") for tuner in tuners] == [2, 2, None, 2]
    assert tuners[1]["alpha"] == 4


def test_a_stages_method_goes_before_what_the_recipe_chooses() -> None:
    recipe = staged("sft", {"method": "ssr"}, {"name": "plain"}, method="s3ft+lora", objective="ift")
    assert [name_of(stage.objective) for stage in recipe.stages] == ["sft", "ift", "ift"]
    assert [[name_of(c) for c in stage.curate] for stage in recipe.stages] == [["s3ft"], ["ssr"], ["s3ft"]]
    assert {name_of(stage.tuner) for stage in recipe.stages} == {"lora"}


def test_the_recipes_gate_is_for_the_whole() -> None:
    gate = {"max_loss": 2.0}
    recipe = staged("sft", {"name": "b", "evaluate": {"gate": {"min_gain": 1}}}, evaluate={"items": 9, "gate": gate})
    assert recipe.evaluate.gate.max_loss == 2.0
    assert [stage.evaluate.gate.max_loss for stage in recipe.stages] == [None, None]
    assert recipe.stages[1].evaluate.gate.min_gain == 1
    assert recipe.stages[0].evaluate.items == 9


def test_a_recipe_without_stages_is_what_it_was() -> None:
    plain = Recipe(model="lab", data={"train": "lab:story"})
    assert "stages" not in plain.model_dump()
    assert "stages" not in plain.model_dump(mode="json", exclude={"output"})
    assert recipe_key(plain) == recipe_key(Recipe.model_validate({**plain.user_settings(), "stages": []}))
    assert plain.label == "sft"


def test_hugging_face_names_and_names_alone() -> None:
    recipe = staged({"method": "sft", "lora_r": 4, "num_train_epochs": 1}, "dpo", {"method": "s3ft+half"})
    assert (recipe.stages[0].tuner.r, recipe.stages[0].train.epochs) == (4, 1)  # type: ignore[attr-defined]
    assert [stage.name for stage in recipe.stages] == ["sft", "dpo", "s3ft-half"]


@pytest.mark.parametrize(
    "given",
    [
        {"stages": ["sft", {"method": "dpo", "tuner": {"name": "lora", "r": 4}}], "train": {"epochs": 1.0}},
        {"method": "sft_then_dpo"},
        {"method": "sft_then_dpo+lora", "stages": {"dpo": {"objective": {"name": "dpo", "beta": 0.5}}}},
        {"method": "lora", "stages": [{"name": "a", "model": "other/model"}, {"name": "b", "model": "stage:a"}]},
    ],
)
def test_given_and_dumped_are_the_same_recipe(given: dict[str, Any], write, tmp_path: Path) -> None:
    given = {"model": "lab", "data": {"train": "lab:story"}, **given}
    resolved = resolve_any(given)
    recipe, again = resolved.recipe, resolved.recipe.user_settings()
    written = given.get("stages", [])
    assert again.get("stages", []) == [{"method": s} if isinstance(s, str) else s for s in written] or again == given
    assert Recipe.model_validate(again) == Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    write(format_resolved_yaml(resolved), "resolved.yaml")
    assert read_recipe(tmp_path).recipe == recipe
    text = format_resolved_yaml(resolved)
    assert yaml.safe_load(text) == recipe.model_dump(mode="json")
    leaves = [line for line in text.splitlines()[1:] if not line.rstrip().endswith(":")]
    assert [line for line in leaves if "  # " not in line] == []


def test_every_setting_of_a_stage_says_where_it_came_from(write) -> None:
    path = write(TWO)
    sources = read_recipe(path, ["stages.prefer.objective.beta=0.2"]).sources
    assert sources["stages.0.train.epochs"] == f"{path}:2"
    assert sources["stages.1.data.train"] == f"{path}:8"
    assert sources["stages.1.objective.beta"] == "command line"
    assert sources["stages.1.objective.name"] == "method dpo"
    assert sources["stages.0.optimizer.learning_rate"] == "derived: laboratory model"
    assert sources["stages.1.model"] == "derived: the stage before"
    assert sources["stages.1.objective.label_smoothing"] == "paper"
    assert sources["data.train"] == "derived: stage sft"
    own = plan_stage(read_recipe(path), 1, Path("runs/two"), "start").sources
    assert own["optimizer.learning_rate"] == f"{path}:9"
    assert own["train.seed"] == "default"


def test_overrides_reach_stages_by_number_and_by_name(write) -> None:
    path = write(TWO)
    settings = ["stages.1.optimizer.learning_rate=1e-6", "stages.sft.tuner.name=half", "train.epochs=5"]
    first, second = read_recipe(path, [*settings, "stages.prefer.lr=3e-6"][:3]).recipe.stages
    assert (second.optimizer.learning_rate, name_of(first.tuner), second.train.epochs) == (1e-6, "half", 5)
    assert errors(path, "stages.prefr.train.epochs=1") == [
        "command line: stages.prefr is not a stage; did you mean prefer?"
    ]
    own = write(TWO.replace("    method: dpo\n", "    method: dpo\n    train: {epochs: 1}\n"))
    assert read_recipe(own, ["train.epochs=5"]).recipe.stages[0].train.epochs == 5
    every = write(format_resolved_yaml(read_recipe(own)))
    assert errors(every, "train.epochs=5") == [
        "command line: train.epochs: changes no stage, because each says this itself; put stages.NAME. before it"
    ]


WRONG = {
    "all at once": (
        "model: lab\ntrain: {epoch: 1}\nstages:\n  - method: sft\n    data: {train: lab:story, fromat: x}\n"
        "  - method: dpoo\n    data: {train: a}\n    lr: x\n  - method: lora\n    train: {seed: -1}\n",
        [
            ":2: train.epoch is not a setting; did you mean train.epochs?",
            ":5: stages.0.data.fromat is not a setting; did you mean stages.0.data.format?",
            ":6: stages.1.method: dpoo is not a method; did you mean dpo?",
            ":8: stages.1.optimizer.learning_rate must be a number, not 'x'",
            ":9: stages.2.data is missing: Where the rows come from.",
            ":10: stages.2.train.seed must be greater than or equal to 0, not -1",
        ],
    ),
    "a stage that is none": (
        TWO.replace("name: prefer", "model: stage:stf"),
        [":6: stages.1.model cannot be stage:stf: stf is not an earlier stage; did you mean sft?"],
    ),
    "a stage that comes later": (
        TWO.replace("- method: sft", "- method: sft\n    judge: {name: llm, model: 'stage:prefer'}"),
        [":5: stages.0.judge.model cannot be stage:prefer: prefer is not an earlier stage; this is the first"],
    ),
    "a stage itself": (
        TWO.replace("name: prefer", "name: prefer\n    model: stage:prefer"),
        [":7: stages.1.model cannot be stage:prefer: prefer is this stage itself; known: sft"],
    ),
    "two of one name": (
        TWO.replace("name: prefer", "name: sft"),
        [":6: stages.1 is called sft, like stages.0; give one of them another name"],
    ),
    "a stage in a stage": (
        TWO.replace("name: prefer", "stages: [sft]"),
        [":6: stages.1.stages cannot be set here: a stage holds no stages; list all in one row"],
    ),
    "a preset in a stage": (
        TWO.replace("method: sft", "method: zephyr+lora"),
        [":4: stages.0.method cannot be zephyr, which has stages itself; list those in its place"],
    ),
    "an output in a stage": (
        TWO.replace("name: prefer", "output: x"),
        [":6: stages.1.output cannot be set here: a stage's run is in OUTPUT/stages"],
    ),
    "a name that is no name": (
        TWO.replace("name: prefer", "name: base"),
        [":6: stages.1.name must begin with a letter, hold only letters, digits, - and _, and not be base"],
    ),
    "nothing where something is needed": (
        TWO.replace("name: prefer", "name:").replace("method: sft", "method: sft\n    model:"),
        [":5: stages.0.model must be text, not empty", ":7: stages.1.name must be text, not empty"],
    ),
    "no list": (
        "model: lab\ndata: {train: a}\nstages: {a: {method: sft}}\n",
        [":3: stages must be a list; a mapping changes stages that the method brings, such as sft_then_dpo"],
    ),
    "no mapping": (
        "model: lab\ndata: {train: a}\nstages: [sft, 3]\n",
        [":3: stages.1 must be a method, or a mapping of `key: value`, not 3"],
    ),
    "what does not fit together": (
        TWO.replace("method: dpo", "method: s3ft+dpo"),
        [":6: stages.1: objective dpo trains on pairs"],
    ),
    "no stage of the preset": (
        "model: lab\nmethod: sft_then_dpo\ndata: {train: a}\nstages: {dop: {lr: 1}}\n",
        [":4: stages.dop is not a stage of sft_then_dpo; did you mean dpo?"],
    ),
    "a knob of one stage, wrong for the other": (
        "model: lab\nmethod: sft_then_dpo\ndata: {train: a}\nobjective: {beta: 1}\n",
        [":4: objective.beta: sft has no beta (dpo, "],
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_stages_are_one_line_each(name: str, write) -> None:
    text, expected = WRONG[name]
    found = errors(write(text))
    assert len(found) == len(expected), found
    for line, wanted in zip(found, expected, strict=True):
        assert line.startswith(f"recipe.yaml{wanted}")


def test_the_python_api_says_the_same() -> None:
    with pytest.raises(ValidationError, match=r"stages\.1\.model: cannot be stage:stf: stf is not an earlier stage"):
        staged("sft", {"method": "dpo", "model": "stage:stf"})


def test_paths_beside_the_recipe(write, tmp_path: Path) -> None:
    (tmp_path / "pairs.jsonl").write_text("x\n", encoding="utf-8")
    (tmp_path / "base").mkdir()
    resolved = read_recipe(write(TWO + "# \n").rename(tmp_path / "other.yaml"))
    assert resolved.recipe.stages[1].data.train == str(tmp_path / "pairs.jsonl")
    assert resolved.recipe.stages[0].model == "base", "the recipe's model, whatever folder is there"


def test_names_of_stages_become_their_runs() -> None:
    recipe = staged(
        "sft", {"method": "dpo", "judge": {"name": "llm", "model": "stage:sft"}}, {"name": "x", "model": "base"}
    )
    plans = [plan_stage(ResolvedRecipe(recipe), i, Path("runs/x"), "start").recipe for i in range(3)]
    assert plans[1].judge.model == str(Path("runs/x/stages/1-sft"))  # type: ignore[union-attr]
    assert [plan.output for plan in plans] == [str(Path("runs/x/stages") / n) for n in ("1-sft", "2-dpo", "3-x")]
    assert not any(plan.stages for plan in plans)
    assert plans[1].optimizer == recipe.stages[1].optimizer


# Presets.


def preset(method: str = "sft_then_dpo", model: str = "some/model", **given: Any) -> Recipe:
    return Recipe.model_validate({"model": model, "method": method, "data": {"train": "rows.jsonl"}, **given})


def test_a_preset_stands_for_its_stages() -> None:
    recipe = preset("sft_then_dpo+lora")
    assert [stage.name for stage in recipe.stages] == [stage["name"] for stage in SFTThenDPO.stages]
    assert [name_of(stage.objective) for stage in recipe.stages] == ["sft", "dpo"]
    assert {name_of(stage.tuner) for stage in recipe.stages} == {"lora"}
    assert recipe.label == "sft_then_dpo+lora"


def test_a_list_takes_the_place_of_a_presets_stages() -> None:
    recipe = preset(stages=["sft", {"name": "again"}])
    assert [stage.method for stage in recipe.stages] == ["sft", "sft"]
    assert not plan_stage(ResolvedRecipe(recipe), 1, Path("x"), "start").recipe.stages
    assert [stage.name for stage in preset(stages=[]).stages] == ["sft", "dpo"]


def test_what_the_recipe_says_goes_before_the_preset() -> None:
    recipe = preset(train={"epochs": 7}, stages={"dpo": {"train": {"seed": 3}, "objective": {"beta": 0.5}}})
    assert [stage.train.epochs for stage in recipe.stages] == [7, 7]
    assert [stage.train.seed for stage in recipe.stages] == [0, 3]
    assert recipe.stages[1].objective.beta == 0.5  # type: ignore[attr-defined]
    assert resolve_any(recipe, ["stages.1.objective.beta=0.7"]).recipe.stages[1].objective.beta == 0.7  # type: ignore[attr-defined]


def test_knobs_of_the_only_curator() -> None:
    for given in ({"curate": {"n": 8}}, {"curate": {"name": "pairs", "n": 8}}):
        (pairs,) = preset("zephyr", stages={"dpo": given}).stages[1].curate
        assert (pairs.n, pairs.rejected) == (8, "random")  # type: ignore[attr-defined]
    resolved = resolve_any(preset("zephyr"), ["stages.dpo.curate.n=8"])
    assert resolved.sources["stages.1.curate.0.n"] == "command line"
    assert resolved.sources["stages.1.curate.0.rejected"] == "method zephyr"
    assert resolve_any(resolved, ["stages.1.seed=3"]).recipe.stages[1].curate[0].n == 8  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"command line: stages.dpo.curate.q is not a setting"):
        resolve_any(preset("zephyr"), ["stages.dpo.curate.q=8"])
    (worst,) = preset("zephyr", stages={"dpo": {"curate": ["pairs"]}}).stages[1].curate
    assert worst.rejected == "worst"  # type: ignore[attr-defined]


def test_zephyr_is_the_handbooks_recipe() -> None:
    sft, dpo = preset("zephyr").stages
    assert (sft.train.epochs, dpo.train.epochs, dpo.objective.beta) == (1, 1, 0.01)  # type: ignore[attr-defined]
    assert [name_of(curator) for curator in dpo.curate] == ["pairs"]
    assert dpo.curate[0].n == 4  # type: ignore[attr-defined]
    rates = {(model, method): preset(method, model).stages[1].optimizer.learning_rate
             for model in ("lab", "some/model") for method in ("zephyr", "zephyr+lora")}  # fmt: skip
    assert rates["some/model", "zephyr"], rates["some/model", "zephyr+lora"] == Zephyr.rates["dpo"]
    assert (rates["lab", "zephyr"], rates["lab", "zephyr+lora"]) == (3e-4, 1e-3)
    assert preset("zephyr", optimizer={"learning_rate": 1e-3}).stages[1].optimizer.learning_rate == 1e-3


@pytest.mark.parametrize("name", REGISTRY["presets"])
def test_presets_in_a_comparison(name: str) -> None:
    plain = resolve_any(
        {
            "model": "lab",
            "data": {"train": "lab:sums"},
            "objective": {"name": "ift"},
            "tuner": "half",
        }
    )
    arm = switch_method(plain, name, [name, "sft"]).recipe
    assert [name_of(stage.objective) for stage in arm.stages] == ["sft", "dpo"]
    assert {name_of(stage.tuner) for stage in arm.stages} == {"half"}
    other = switch_method(ResolvedRecipe(arm), "s3ft", [name, "s3ft"]).recipe
    assert (other.stages, other.label) == ((), "s3ft")


class Stop(BaseException):
    """In the place of a kill."""


def test_a_comparison_gives_all_stages_together_the_steps_of_one_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plans: list[Recipe] = []

    def planned_only(plan: ResolvedRecipe, ui: Progress) -> None:
        plans.append(plan.recipe)
        if len(plans) == 3:
            raise Stop

    monkeypatch.setattr(sys.modules["holdfast.pipeline.compare"], "train", planned_only)
    recipe = {"model": "lab-small", "data": {"train": "lab:sums"}}
    arms = {"sft": ["method=sft"], "both": ["method=sft_then_dpo"],
            "uneven": ["stages=[{method: sft, max_steps: 30}, {method: dpo, max_steps: 10}]"]}  # fmt: skip
    with pytest.raises(Stop):
        compare(recipe, arms, seeds=[5], steps=9, out=tmp_path)
    assert plans[0].train.max_steps == 9
    assert [[stage.train.max_steps for stage in plan.stages] for plan in plans[1:]] == [[4, 5], [7, 2]]
    assert {stage.train.seed for plan in plans[1:] for stage in plan.stages} == {5}


# Whole runs.

THREE: dict[str, Any] = {
    "model": "lab-small",
    "data": {"train": "lab:sums", "limit": 24},
    "train": {"max_steps": 3, "batch_tokens": 256, "precision": "fp32", "save_every": 0.3},
    "optimizer": {"learning_rate": 3e-3},
    "evaluate": {"keep": ["lab:strings"], "items": 6, "live_items": 0, "every": 0, "max_tokens": 16},
    "stages": [
        {"name": "sft", "tuner": "lora"}, {"method": "dpo"},
        {"name": "again", "model": "base", "train": {"max_steps": 1}},
    ],
}  # fmt: skip


class Killer(Progress):
    """Stops the run once a phase of a stage has advanced so far."""

    def __init__(self, stage: int, phase: str, after: int) -> None:
        super().__init__("silent")
        self.wanted, self.stage, self.told = (stage, phase, after), 0, []

    def write_line(self, text: str) -> None:
        self.told.append(text)
        self.stage += text.startswith("stage ")

    def start_phase(self, name: str, total: int | None = None) -> None:
        super().start_phase(name, total)
        self.advance(0)

    def advance(self, n: int = 1, **shown: Any) -> None:
        super().advance(n, **shown)
        if (self.stage, self.name) == self.wanted[:2] and self.done >= self.wanted[2]:
            raise Stop


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with a cache of its own."""
    root = tmp_path_factory.mktemp("staged")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.setenv("HOLDFAST_CACHE", str(root / "cache"))
        yield root


@pytest.fixture(scope="module")
def whole(place: Path) -> Path:
    return train({**THREE, "output": "whole"}).path


def report_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "report.json").read_text(encoding="utf-8"))


def weights(run: Path) -> bytes:
    return next((run / "model").glob("*.safetensors")).read_bytes()


def test_every_stage_is_a_run(whole: Path) -> None:
    homes = [whole / "stages" / name for name in ("1-sft", "2-dpo", "3-again")]
    for home in homes:
        for made in ("README.md", "report.html", "resolved.yaml", "log.jsonl", "curated.jsonl", "checkpoints", "model"):
            assert (home / made).exists(), made
        assert read_recipe(home).recipe.output == str(home)
    models = [read_recipe(home).recipe.model for home in homes]
    assert models == ["lab-small", str(homes[0] / "merged"), "lab-small"], "an adapter is folded in before the next"
    reports = [report_of(home) for home in homes]
    assert [report["training"]["steps"] for report in reports] == [3, 3, 1]
    fingerprints = [report["model"]["fingerprint"] for report in reports]
    assert fingerprints[0] == fingerprints[2] != fingerprints[1]


def test_the_whole_compares_the_last_stage_with_the_first_base(whole: Path) -> None:
    from holdfast.evaluation.results_store import ResultsStore
    from holdfast.models.loading import load_model

    report, last = report_of(whole), report_of(whole / "stages" / "3-again")
    assert report["tasks"] == last["tasks"], "this last stage starts from the base itself"
    assert weights(whole) == weights(whole / "stages" / "3-again")
    assert load_model(whole).fingerprint == load_model(whole / "stages" / "3-again").fingerprint
    assert [(s["name"], s["model"], s["rows"], s["steps"]) for s in report["stages"]] == [
        ("sft", "base", 24, 3), ("dpo", "stage:sft", 24, 3), ("again", "base", 24, 1)
    ]  # fmt: skip
    target = report["tasks"][0]["name"]
    for stage, when in zip(report["stages"], ("1-sft", "2-dpo", "final"), strict=True):
        base, items = (ResultsStore(whole / "eval" / name).read_measurements()[target][1] for name in ("base", when))
        gain = 100 * sum(i.score - b.score for i, b in zip(items, base, strict=True)) / len(base)
        assert stage["gain"]["delta"] == pytest.approx(gain)
    assert report["gain"] == report["stages"][-1]["gain"]
    assert [point["step"] for point in report["curves"]] == [0, 3, 6, 7]
    assert report["training"]["steps"] == 7
    assert report["method"] == "sft, dpo, again"
    for page in ("report.html", "README.md"):
        text = (whole / page).read_text(encoding="utf-8")
        assert "stage:sft" in text
        assert "again" in text


def test_nothing_is_measured_twice(whole: Path, place: Path) -> None:
    drawn: dict[str, int] = {}
    for journal in (whole, *sorted((whole / "stages").iterdir())):
        lines = (journal / "samples.jsonl").read_text(encoding="utf-8").splitlines()
        drawn[journal.name] = sum(json.loads(line)["kind"] == "sample" for line in lines)
    # Twelve questions of a model: base and result of the first stage; of the second again both, since the adapter's
    # weights are rounded when they are folded in; of the third the result; of the whole run nothing.
    assert drawn == {"1-sft": 24, "2-dpo": 24, "3-again": 12, whole.name: 0}


def test_a_finished_run_is_left_alone(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    voice = Killer(9, "", 0)
    assert train({**THREE, "output": "whole"}, ui=voice).report == report_of(whole)
    assert ["already finished" in line for line in voice.told] == [True]
    assert before == {path: path.stat().st_mtime_ns for path in whole.rglob("*.safetensors")}
    with pytest.raises(UserError, match="holds another run"):
        train({**THREE, "output": "whole", "train": {"max_steps": 4}})


def run_until(*where: Any, **changes: Any) -> list[str]:
    voice = Killer(*where)
    with pytest.raises(Stop):
        train({**THREE, "output": "killed", **changes}, ui=voice)
    return [line for line in voice.told if line.startswith("stage")]


def stamps(paths: Sequence[Path]) -> list[int]:
    return [path.stat().st_mtime_ns for home in paths for path in sorted((home / "model").iterdir())]


def test_killed_inside_and_between_stages_it_goes_on(whole: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(place / "other-cache"))
    first, second = Path("killed/stages/1-sft"), Path("killed/stages/2-dpo")
    run_until(2, "train", 2)
    assert not (second / "model").exists()
    done = stamps([first])
    lines = run_until(3, "load", 0)
    assert [("already finished" in line) for line in lines] == [True, False, False]
    assert weights(second) == weights(whole / "stages" / "2-dpo"), "bit for bit as without the kill"
    # Between two stages, what has not begun may be changed; what is done stays.
    later = [*THREE["stages"][:2], {**THREE["stages"][2], "optimizer": {"learning_rate": 1e-3}}]
    done += stamps([second])
    voice = Killer(9, "", 0)
    run = train({**THREE, "output": "killed", "stages": later}, ui=voice)
    assert sum("already finished" in line for line in voice.told) == 2
    assert stamps([first, second]) == done
    assert weights(run.path) != weights(whole)
    assert run.report["stages"][1]["gain"] == report_of(whole)["stages"][1]["gain"]


def test_another_first_stage_does_not_take_the_place_of_a_finished_one(place: Path) -> None:
    recipe = {**THREE, "stages": [{"name": "one", "train": {"max_steps": 1}}, "dpo"], "output": "guarded"}
    voice = Killer(2, "load", 0)
    with pytest.raises(Stop):
        train(recipe, ui=voice)
    with pytest.raises(UserError, match=r"1-one: holds another run"):
        train({**recipe, "stages": [{"name": "one", "train": {"max_steps": 2}}, "dpo"]})
    with pytest.raises(UserError, match="guarded: holds another run"):
        train({key: value for key, value in recipe.items() if key != "stages"})


def test_a_stages_own_gate_stops_the_run_there(place: Path) -> None:
    stages = [{"name": "one", "train": {"max_steps": 1}, "evaluate": {"gate": {"min_gain": 200}}}, "dpo"]
    for _ in range(2):
        with pytest.raises(GateRefused, match="stage 1 of 2, one: the gate refused"):
            train({**THREE, "stages": stages, "output": "gated"})
    assert not Path("gated/stages/2-dpo").exists()
    assert not Path("gated/report.json").exists()


def test_a_comparison_goes_on_without_the_method_that_a_stages_gate_stops(place: Path) -> None:
    common = {k: v for k, v in THREE.items() if k != "stages"} | {"evaluate": {**THREE["evaluate"], "live_items": 0}}
    stopped = "[{name: one, evaluate: {gate: {min_gain: 200}}}, dpo]"
    report = compare(common, {"two": [f"stages={stopped}"], "sft": ["method=sft"]}, steps=2, out="between")
    assert [run["method"] for run in report["runs"]] == ["sft"]
    assert list(report["refused"]) == ["two"]
    assert report["refused"]["two"][0].startswith("seed 0, stage 1 of 2, one: the gate refused this result: ")
    assert "two is left out, a stage&#39;s own gate stopped it" in Path("between/report.html").read_text("utf-8")
    assert not Path("between/sft-seed0/checkpoints").exists()  # finished, so that nothing goes on from them
    assert list(Path("between").glob("two-seed0/stages/*/checkpoints"))
    with pytest.raises(GateRefused, match=r"^two: seed 0, stage 1 of 2"):
        compare(common, {"two": [f"stages={stopped}"]}, steps=2, out="between")


def test_what_a_later_stage_names_is_looked_at_first(place: Path) -> None:
    for wrong, text in (
        ({"method": "dpo", "data": {"train": "none.jsonl"}}, "none.jsonl"),
        ({"name": "b", "model": "whole/stages"}, "config.json is missing"),
        ({"name": "b", "evaluate": {"keep": ["lab:sumz"]}}, "did you mean sums"),
    ):
        with pytest.raises(UserError, match=text):
            train({**THREE, "stages": ["sft", wrong], "output": "refused"})
        assert not Path("refused").exists()


def test_an_adapter_is_no_base_to_train_on(whole: Path) -> None:
    for verb in (check, train):
        with pytest.raises(UserError, match=r"1-sft is an adapter, on which no other training can build"):
            verb({**THREE, "model": str(whole / "stages" / "1-sft"), "stages": [], "output": "refused"})
    assert not Path("refused").exists()
