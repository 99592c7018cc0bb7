"""The axis table, and the field's names for methods with knobs set."""

from __future__ import annotations

import material
import pytest

from holdfast.axes.axis import AXES, METHOD_AXES
from holdfast.axes.registry import REGISTRY, find_method, home_of, identity_of, method_names, name_of
from holdfast.axes.variants import VARIANTS
from holdfast.errors import UserError
from holdfast.recipe.loader import resolve_any, switch_method
from holdfast.recipe.schema import Recipe
from holdfast.recipe.shorthand import expand_method
from holdfast.training.setup import collect_training_settings

BASE = {"model": "lab", "data": {"train": "lab:story"}, "judge": "number"}


def test_every_axis_has_its_place_in_registry_and_recipe() -> None:
    assert [axis.plural for axis in AXES] == list(REGISTRY)
    recipe = Recipe.model_validate({"model": "lab", "data": {"train": "lab:story"}})
    for axis in AXES:
        assert axis.key in Recipe.model_fields
        if axis.default:
            assert name_of(getattr(recipe, axis.key)) == axis.default
        for name in method_names(axis.plural):
            assert home_of(name) is axis


def test_a_variant_is_its_method_with_knobs_set() -> None:
    for axis, variants in VARIANTS.items():
        for name, variant in variants.items():
            cls, base = find_method(axis, name), find_method(axis, variant.of)
            assert name_of(cls) == name != variant.of
            needed = {key: "lab-small" for key, knob in base.model_fields.items() if knob.is_required()}
            assert cls(**needed) != base(**needed) or not variant.knobs, "a variant that sets nothing is another name"
            assert identity_of(cls(**needed)) == identity_of(base(**{**needed, **variant.knobs}))
            assert cls.summary_line().endswith("]")
            assert f"`{variant.of}`" in cls.reference_page()
            assert base.reference_page().partition("\n")[2] in cls.reference_page()
    assert find_method("objectives", "ewc")(strength=2.0).strength == 2.0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="less than 1"):
        find_method("objectives", "gspo")(clip=2)


def test_variants_are_what_their_papers_set() -> None:
    """The knobs that the pages of the methods name for each paper."""
    for name, axis, knobs in (
        ("gspo", "objectives", {"level": "sequence", "clip": 3e-4, "clip_high": 4e-4}),
        ("dapo", "objectives", {"reduction": "token", "clip": 0.2, "clip_high": 0.28, "beta": 0.0, "level": "token"}),
        ("dr_grpo", "objectives", {"reduction": "constant", "scale": False, "beta": 0.0}),
        ("lwf", "objectives", {"penalty": "kl", "strength": 1.0}),
        ("hft", "tuners", {"share": 0.5}),
        ("wise_ft", "inference", {"point": 0.5}),
    ):
        dumped = find_method(axis, name)().model_dump()
        assert {knob: dumped[knob] for knob in knobs} == knobs


def test_variants_stand_wherever_a_name_stands() -> None:
    for given in ({"method": "ewc+hft"}, {"objective": "ewc", "tuner": "hft"}, {"stages": ["sft", "ewc+hft"]}):
        recipe = resolve_any(BASE | given).recipe
        part = recipe.stages[-1] if recipe.stages else recipe
        assert part.objective.model_dump()["penalty"] == "ewc"
        assert (name_of(part.objective), name_of(part.tuner)) == ("ewc", "hft")
        assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
        assert Recipe.model_validate(recipe.user_settings()) == recipe
    assert resolve_any(BASE | {"method": "ewc"}, ["objective.strength=3"]).recipe.objective.strength == 3  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"objective\.penalty must be ewc, not 'kl'"):
        resolve_any(BASE | {"method": "ewc", "objective": {"penalty": "kl"}})
    with pytest.raises(UserError, match="both ewc and dpo are objectives"):
        expand_method("ewc+dpo")
    with pytest.raises(UserError, match=r"gspoo is not a method; did you mean gspo\?"):
        expand_method("gspoo")
    arm = switch_method(resolve_any(BASE | {"tuner": "lora"}), "dora", among=["dora", "rslora"]).recipe
    assert (name_of(arm.tuner), arm.tuner.model_dump()["dora"]) == ("dora", True)


def test_pairs_imply_an_objective_that_the_recipe_may_change() -> None:
    assert expand_method("pairs") == {"curate": ["pairs"], "objective": ["dpo"]}
    assert expand_method("pairs+ipo") == expand_method("ipo+pairs") == {"curate": ["pairs"], "objective": ["ipo"]}
    assert name_of(resolve_any(BASE | {"method": "pairs", "objective": "ipo"}).recipe.objective) == "ipo"


def test_a_class_of_the_package_is_found_by_its_axis_only() -> None:
    with pytest.raises(UserError, match="number is one of the judges, on which no method chooses; give it as `judge`"):
        expand_method("number")
    assert set(METHOD_AXES) == {axis.key for axis in AXES if axis.in_method}


def test_a_run_of_a_variant_resumes_as_its_method() -> None:
    """What a checkpoint belongs to names the class and its knobs, however the recipe calls it."""
    table = material.table()
    made = [
        collect_training_settings(resolve_any(BASE | {"objective": objective}).recipe, table, 1024)
        for objective in ("ewc", {"name": "anchor", "penalty": "ewc"})
    ]
    assert made[0] == made[1]
