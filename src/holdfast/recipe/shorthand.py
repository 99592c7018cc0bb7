"""What a method's name chooses on the axes, and the defaults that depend on other settings.

All of it is filled into the recipe's tree before it is validated, each value with the reason it has.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

from holdfast.axes.axis import BY_PLURAL, METHOD_AXES
from holdfast.axes.elsewhere import method_elsewhere
from holdfast.axes.method import Method
from holdfast.axes.objective import Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.axes.registry import find_method, home_of, method_names, name_of, variant_of
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError
from holdfast.recipe.tree import Node, Problems

PRESETS = BY_PLURAL["presets"]
"""The axis that `method` chooses for all stages together."""


METHODS: dict[str, dict[str, str]] = {
    **{name: {axis.key: name} for axis in (*METHOD_AXES.values(), PRESETS) for name in method_names(axis.plural)},
    "sft": {},
}
"""`method:` shorthands: the axis choices each name of the package stands for. An axis given in the recipe goes before.

`sft` leaves every axis as it is; a preset stands for stages.
"""

CHOOSING = ("rewrite", "add")
"""Effects of curators that write the answers of every row; the others choose among rows, mix or pair what is there."""

LAB_MODELS = ("lab", "lab-small")


def expand_method(method: str) -> dict[str, list[str]]:
    """The choices behind `s3ft` or `s3ft+ift+half`: recipe key to names (several only for `curate`).

    A preset is the choice at `stages`.

    Raises:
        UserError: If a name is unknown, or two choose differently on an axis that takes one.
    """
    chosen: dict[str, list[str]] = {}
    for name in method.split("+"):
        for key, choice in choices_of(name).items():
            if key != "curate" and chosen.get(key, [choice]) != [choice]:
                both = f"{chosen[key][0]} and {choice}"
                raise UserError(f"{method}: both {both} are {METHOD_AXES.get(key, PRESETS).plural}; choose one")
            if (
                key == "curate"
                and _chooses_rows(choice)
                and (others := [c for c in chosen.get(key, []) if _chooses_rows(c)])
            ):
                both = f"{min(others)} and {choice}"
                raise UserError(
                    f"{method}: both {both} choose the rows, and `+` joins methods that do different things; choose "
                    f"one, or let one work on the other's rows with curate: [{both.replace(' and ', ', ')}]"
                )
            chosen.setdefault(key, []).append(choice)
    if any(_curator_effect(curator) == "pair" for curator in chosen.get("curate", [])):
        chosen.setdefault("objective", ["dpo"])  # whatever writes pairs comes with an objective of them
    return chosen


def label_of(method: str) -> str:
    """What a method is called in tables and file names: of a class of the user's own the class's name."""
    return "+".join(name.rpartition(":")[2] for name in method.split("+"))


def choices_of(name: str) -> dict[str, str]:
    """The choices behind one name: of the package, or of a class of the user's own.

    Raises:
        UserError: If there is no such method.
    """
    if name in METHODS:
        return METHODS[name]
    home = home_of(name)
    if home is None:
        raise UserError(f"{name} is not a method{method_elsewhere(name) or suggest_name(name, METHODS)}")
    if not home.in_method and home is not PRESETS:
        raise UserError(f"{name} is one of the {home.plural}, on which no method chooses; give it as `{home.key}`")
    return {home.key: name}


def _curator_effect(curator: str) -> str:
    """What a curator does to the rows, by its name."""
    return str(getattr(find_method("curators", curator), "effect", ""))


def _chooses_rows(curator: str) -> bool:
    return _curator_effect(curator) in CHOOSING


def fill_defaults(tree: Node, problems: Problems) -> None:
    """Complete the axes from the method's shorthand, then the defaults that depend on other settings, in place."""
    method, chosen = tree.plain_data("method") if "method" in tree.value else "sft", dict[str, list[str]]()
    try:
        chosen = expand_method(method) if isinstance(method, str) else {}
    except UserError as error:
        problems.append((("method",), str(error)))
        tree.value["method"].value = "sft"
    fill_curate(tree, chosen.get("curate", []), f"method {method}")
    for key in (axis.key for axis in METHOD_AXES.values() if not axis.several):
        fill_axis(tree, key, chosen.get(key, []), f"method {method}")
    if judge := tree.value.get("judge"):
        judge.spell_out()
    for path, value, reason in _derive_defaults(tree.plain_data()):
        part = tree.find(path[:1])
        if part is None or (part.is_mapping and path[1] not in part.value):
            tree.fill_value(path, value, f"derived: {reason}")


def fill_axis(tree: Node, key: str, choice: list[str], reason: str) -> None:
    """Name the method at `key`: as given, as the recipe's method chooses, or the axis's default."""
    node, reason = tree.value.get(key), reason if choice else "default"
    name = choice[0] if choice else METHOD_AXES[key].default
    if node is not None and node.value is not None:
        node.spell_out()
        if node.is_mapping and "name" not in node.value:
            node.value = {"name": Node(name, reason), **node.value}
    elif name:
        tree.value.pop(key, None)
        tree.fill_value((key, "name"), name, reason)


def fill_curate(tree: Node, choice: list[str], reason: str) -> None:
    """One name, one mapping, or a list of either; a mapping without a name belongs to the method's only curator."""
    node = tree.value.get("curate")
    if node is None or node.value is None:
        tree.fill_value(("curate",), [{"name": name} for name in choice], reason if choice else "default")
        return
    if not node.is_list:
        node = tree.value["curate"] = Node([node], node.source, node.written)
    for item in node.value:
        item.spell_out()
        if item.is_mapping and "name" not in item.value and len(choice) == 1:
            item.value = {"name": Node(choice[0], reason), **item.value}


def _derive_defaults(data: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """`(path, value, reason)` of the defaults that depend on other settings; used where the recipe is silent.

    This is the one place where the objective's learning rate and epochs (`Objective.settings`) become the recipe's.
    Laboratory models, a thousandth of the size of those that papers train, have a rate of their own for all objectives.
    """
    tuner, optimizer, objective = (chosen_class(data, key) for key in ("tuner", "optimizer", "objective"))
    adapter, own_rate = getattr(tuner, "adapter", False), optimizer is None or not uses_common_rate(optimizer)
    if is_lab_model(data.get("model")):
        if not own_rate:
            yield ("optimizer", "learning_rate"), 1e-3 if adapter else 3e-4, "laboratory model"
        yield ("train", "batch_tokens"), 2048, "laboratory model"
    elif objective is not None and issubclass(objective, Objective):
        knobs = data["objective"]
        usual = (
            knobs.paper_settings
            if isinstance(knobs, Objective)
            else objective.settings_of(_merge_knobs(knobs, objective))
        )
        rate, source = usual.learning_rate(adapter)
        if not own_rate:
            yield ("optimizer", "learning_rate"), rate, f"objective {name_of(objective)}, {source}"
        yield ("train", "epochs"), usual.epochs, f"objective {name_of(objective)}, {usual.source}"


def _merge_knobs(value: Any, method: type[Method]) -> dict[str, Any]:
    """Knobs as the recipe has them, over those that the method's name stands for."""
    preset = variant_of(method)
    return {**(preset.knobs if preset else {}), **(value if isinstance(value, dict) else {})}


def is_lab_model(model: Any) -> bool:
    """Whether a model is a laboratory model by name, or by the configuration in its folder or run directory."""
    if not isinstance(model, (str, pathlib.Path)):
        return False
    if model in LAB_MODELS:
        return True
    folder = pathlib.Path(model).expanduser()
    files = (folder / part / "config.json" for part in ("model", "."))
    config_file = next((file for file in files if file.is_file()), None)
    return config_file is not None and '"holdfast_lab": true' in config_file.read_text(
        encoding="utf-8", errors="replace"
    )


def uses_common_rate(optimizer: type[Method]) -> bool:
    """Whether the optimizer keeps the common default rate (one with a rate of its own knows better)."""
    mine, common = optimizer.model_fields.get("learning_rate"), Optimizer.model_fields["learning_rate"]
    return mine is not None and mine.default == common.default


def chosen_class(data: dict[str, Any], key: str) -> type[Method] | None:
    """The class chosen at a recipe key, or `None` while the choice is not a valid one."""
    value = data.get(key)
    if isinstance(value, Method):
        return type(value)
    name = value.get("name") if isinstance(value, dict) else value
    try:
        return find_method(METHOD_AXES[key].plural, name) if isinstance(name, str) else None
    except UserError:
        return None
