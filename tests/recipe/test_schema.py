"""The recipe's schema: shorthands, derived defaults, what does not fit together."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from holdfast.axes.axis import METHOD_AXES
from holdfast.axes.registry import find_method, name_of
from holdfast.axes.registry import method_names as names_on
from holdfast.errors import UserError
from holdfast.recipe.changes import list_differences, result_settings
from holdfast.recipe.loader import read_recipe, resolve_any
from holdfast.recipe.messages import describe_settings
from holdfast.recipe.peers import ALIASES
from holdfast.recipe.schema import Recipe
from holdfast.recipe.shorthand import METHODS, expand_method


def make(**given: object) -> Recipe:
    return Recipe.model_validate({"model": "some/model", "data": {"train": "rows.jsonl"}, **given})


def names(recipe: Recipe) -> tuple[list[str], str, str, str]:
    return (
        [name_of(c) for c in recipe.curate],
        name_of(recipe.objective),
        name_of(recipe.tuner),
        name_of(recipe.optimizer),
    )


def test_the_shortest_recipe_is_plain_sft() -> None:
    assert names(make()) == ([], "sft", "full", "adamw")


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("s3ft", (["s3ft"], "sft", "full", "adamw")),
        ("ift", ([], "ift", "full", "adamw")),
        ("half", ([], "sft", "half", "adamw")),
        ("lomo", ([], "sft", "full", "lomo")),
        ("s3ft+ift+half+lomo", (["s3ft"], "ift", "half", "lomo")),
        ("sdft+replay", (["sdft", "replay"], "sft", "full", "adamw")),
    ],
)
def test_method_expands(method: str, expected: tuple) -> None:
    given: dict = {"method": method}
    if "replay" in method:
        given["curate"] = ["sdft", {"name": "replay", "path": "general.jsonl"}]
    assert names(make(**given)) == expected


def test_a_given_axis_overrides_the_method() -> None:
    assert names(make(method="half", tuner="lora"))[2] == "lora"
    assert names(make(method="s3ft", curate="sdft"))[0] == ["sdft"]
    assert names(make(method="s3ft", curate=[]))[0] == []


@pytest.mark.parametrize(
    ("given", "called"),
    [
        ({}, "sft"),
        ({"method": "s3ft+half"}, "s3ft+half"),
        ({"method": "pairs", "objective": "grpo", "curate": {"temperature": 1}}, "pairs"),
        ({"objective": "dpo"}, "dpo"),
        (
            {
                "curate": [{"name": "pairs", "temperature": 1}],
                "objective": "grpo",
                "tuner": "lora",
                "inference": "dial",
            },
            "pairs+grpo+lora+dial",
        ),
    ],
)
def test_a_run_is_called_by_its_method_or_by_what_was_chosen(given: dict, called: str, tmp_path: Path) -> None:
    assert make(**given).label == called
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"model": "lab", "data": {"train": "lab:story"}, **given}))
    assert read_recipe(path).recipe.label == called


@pytest.mark.parametrize(
    "curate",
    ["s3ft", {"name": "s3ft"}, ["s3ft"], [{"name": "s3ft"}], {"paraphrase": True}],
)
def test_curate_forms(curate: object) -> None:
    assert make(method="s3ft", curate=curate).curate == make(curate="s3ft").curate


def test_knobs_without_a_name_belong_to_the_chosen_method() -> None:
    recipe = make(method="lora", tuner={"r": 4}, optimizer={"learning_rate": 3e-5})
    assert name_of(recipe.tuner) == "lora"
    assert recipe.tuner.r == 4  # type: ignore[attr-defined]
    assert recipe.optimizer.learning_rate == 3e-5


def test_an_unknown_method_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"s3tf is not a method; did you mean s3ft\?"):
        expand_method("s3tf")
    with pytest.raises(ValidationError, match=r"did you mean s3ft\?"):
        make(method="s3tf")
    with pytest.raises(UserError, match="both half and lora are tuners"):
        expand_method("half+lora")


def test_no_name_is_a_method_on_two_axes() -> None:
    every = [name for axis in METHOD_AXES.values() for name in names_on(axis.plural)]
    assert len(every) == len(set(every))
    assert set(METHODS) >= set(every)


def test_the_learning_rate_follows_the_tuner() -> None:
    full, lora = make(), make(tuner="lora")
    assert full.optimizer.learning_rate == 2e-5
    assert lora.optimizer.learning_rate == find_method("optimizers", "adamw")().learning_rate  # type: ignore[attr-defined]
    assert Recipe(model="lab", data={"train": "lab:story"}).optimizer.learning_rate > lora.optimizer.learning_rate
    assert make(optimizer={"learning_rate": 0.5}).optimizer.learning_rate == 0.5
    own = find_method("optimizers", "lomo")()
    assert make(optimizer="lomo").optimizer == own, "an optimizer with a rate of its own keeps it"


def test_given_is_what_was_given() -> None:
    given = {
        "model": "lab",
        "method": "s3ft",
        "data": {"train": "lab:story"},
        "tuner": {"name": "lora", "r": 4},
        "train": {"epochs": 2.0},
    }
    assert Recipe.model_validate(given).user_settings() == given


def test_a_rate_names_no_optimizer() -> None:
    """Resolved once more with another method, a recipe that gives knobs alone takes that method's choice."""
    plain = make(optimizer={"learning_rate": 0.5})
    assert plain.user_settings()["optimizer"] == {"learning_rate": 0.5}
    switched = resolve_any(plain, ["method=lomo"]).recipe
    assert (name_of(switched.optimizer), switched.optimizer.learning_rate) == ("lomo", 0.5)
    named = resolve_any(make(optimizer={"name": "adamw", "learning_rate": 0.5}), ["method=lomo"]).recipe
    assert name_of(named.optimizer) == "adamw", "what the user chose on an axis overrides a method's choice"


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"replay", "less"}))
def test_a_dumped_recipe_is_the_same_recipe(method: str) -> None:
    knobs = {
        "tis_dpo": {"objective": {"estimate": "ones"}},
        "pretty": {"inference": {"name": "pretty", "teacher": "lab"}},
        **{name: {"inference": {"name": name, "antiexpert": "lab"}} for name in ("proxy", "dexperts", "contrastive")},
    }
    more = knobs.get(method, {})
    recipe = make(method=method, judge="number", **more)
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert Recipe.model_validate(recipe.user_settings()) == recipe


def test_hugging_face_names() -> None:
    recipe = Recipe.model_validate(
        {
            "model_name_or_path": "some/model",
            "train_file": "rows.jsonl",
            "learning_rate": 1e-3,
            "lr_scheduler_type": "constant_with_warmup",
            "num_train_epochs": 2,
            "max_seq_length": 512,
            "lora_r": 4,
            "lora_alpha": 8,
            "output_dir": "out",
            "seed": 7,
            "data_seed": 8,
            "bf16": True,
            "train": {"max_steps": -1, "gradient_checkpointing": True},
        }
    )
    ours = make(
        optimizer={"learning_rate": 1e-3, "schedule": "constant"},
        tuner={"name": "lora", "r": 4, "alpha": 8},
        train={
            "epochs": 2, "max_length": 512, "seed": 7, "seeds": {"order": 8}, "precision": "bf16",
            "gradient_checkpointing": True,
        },
        output="out",
    )  # fmt: skip
    assert recipe == ours
    assert [recipe.train.order_seed, recipe.train.init_seed, recipe.train.noise_seed] == [8, 7, 7]


def test_a_run_without_seeds_of_its_own_is_called_as_before_there_were_any() -> None:
    plain, given = result_settings(make()), result_settings(make(train={"seeds": {"noise": 0}}))
    assert "seeds" not in plain["train"]
    assert given["train"] == {**plain["train"], "seeds": {"noise": 0}}
    assert list_differences(make(), make(train={"seeds": {"noise": 0}})) == [
        "train.seeds.noise is not set here and 0 there"
    ]


def test_rows_per_device_become_tokens() -> None:
    given = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_seq_length": 100}
    assert make(**given).train.batch_tokens == 800


def test_every_alias_means_a_setting_that_exists() -> None:
    known = describe_settings({"tuner": "lora", "optimizer": "adamw", "objective": "dpo"}) | describe_settings(
        {"objective": "neftune", "tuner": "lisa"}
    )
    assert [f"{alias} -> {target}" for alias, (target, _) in ALIASES.items() if target not in known] == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"objective": "dpo", "curate": "s3ft"}, "objective dpo trains on pairs .* curator s3ft writes"),
        ({"optimizer": "lomo", "train": {"micro_tokens": 100}}, "lomo updates inside the backward pass"),
        ({"data": {"train": "a", "test": 0}}, "data.test is 0"),
        ({"evaluate": {"target": "none", "gate": {"min_gain": 1}}}, "min_gain needs a target"),
        ({"evaluate": {"keep": [], "gate": {"max_loss": 1}}}, "max_loss needs something to keep"),
        ({"data": {"train": "a", "test": 1.5}}, "share from 0 to below 1"),
        ({"output": "runs/{name}"}, r"must not hold \{name\}"),
        ({"output": "runs/{"}, "not a pattern"),
        ({"sampling": {"engine": "vlm"}}, "must be native, transformers, vllm or an address"),
        ({"train": {"seed": True}}, "must not be true"),
        ({"train": {"epochs": float("nan")}}, "finite|greater than 0"),
        ({"tuner": {"name": "lora", "r": True}}, "must not be true"),
        ({"tuner": {"name": "lora", "rank": 3}}, "Extra inputs"),
        ({"tuner": 3}, "must be a name, or a mapping with a name"),
    ],
)
def test_what_does_not_fit_is_refused(given: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        make(**given)


def test_one_text_is_a_list_of_one() -> None:
    recipe = make(evaluate={"keep": "lab"}, sampling={"stop": "\n\n"})
    assert (recipe.evaluate.keep, recipe.sampling.stop) == (("lab",), ("\n\n",))


def test_a_class_of_the_users_own(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own_loss.py").write_text(
        "from holdfast.axes.objective import Objective\n"
        "class Mine(Objective):\n    '''Mine.'''\n    strength: float = 1.0\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    recipe = make(objective={"name": "my_own_loss:Mine", "strength": 2})
    assert recipe.objective.strength == 2  # type: ignore[attr-defined]
    assert Recipe.model_validate(recipe.model_dump()) == recipe
    with pytest.raises(ValidationError, match="there is no module nowhere"):
        make(objective="nowhere:Mine")
    with pytest.raises(ValidationError, match="it belongs to the objectives; give it as `objective`"):
        make(curate="my_own_loss:Mine")


def test_import_is_lazy() -> None:
    code = (
        "import sys, holdfast; assert 'pydantic' not in sys.modules and 'torch' not in sys.modules\n"
        "holdfast.Recipe; assert 'pydantic' in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
