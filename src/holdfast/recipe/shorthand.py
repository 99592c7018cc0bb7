"""Step 4 of reading a recipe: what a method's name chooses on the axes, and defaults that depend on other settings.

All of it is filled into the tree of the recipe, or of one of its stages, each value with the reason it has.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.axes.axis import BY_KEY, METHOD_AXES, Axis
from holdfast.axes.elsewhere import method_elsewhere
from holdfast.axes.inference import Inference
from holdfast.axes.method import Method
from holdfast.axes.objective import Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.axes.registry import find_method, home_of, method_names, name_of, variant_of
from holdfast.axes.variants import VARIANTS
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError
from holdfast.recipe.tree import Node, Problems

PRESETS = BY_KEY["stages"]
"""The axis that `method` chooses for all stages together."""


METHODS = tuple(dict.fromkeys(name for axis in (*METHOD_AXES.values(), PRESETS) for name in method_names(axis.plural)))
"""What `method:` may name of the package. An axis given in the recipe goes before; a preset stands for stages."""

ONLINE = "policy_gradient"
"""The objective that a credit comes with."""

CREDIT, VALUE_CREDIT = ["group"], ["gae"]
"""The credit that an objective of rollouts comes with: without and with a value head."""

CHOOSING = ("rewrite", "add")
"""Effects of curators that write the answers of every row; the others choose among rows, mix or pair what is there."""

LAB_MODELS = ("lab", "lab-small", "lab-graded", "lab-vl")


def expand_method(method: str) -> dict[str, list[str]]:
    """The choices behind `s3ft` or `s3ft+ift+half`: recipe key to names (several only for `curate`).

    A preset is the choice at `stages`; `sft` leaves every axis as it is.

    Raises:
        UserError: If a name is unknown, or two choose differently on an axis that takes one.
    """
    chosen: dict[str, list[str]] = {}
    for name in method.split("+"):
        if name == "sft":
            continue
        axis = _axis_chosen_on(name)
        others = chosen.setdefault(axis.key, [])
        if axis.key != "curate" and set(others) - {name}:
            raise UserError(f"{method}: both {others[0]} and {name} are {axis.plural}; choose one")
        if axis.key == "curate" and _chooses_rows(name) and (choosing := list(filter(_chooses_rows, others))):
            raise UserError(
                f"{method}: both {choosing[0]} and {name} choose the rows, and `+` joins methods that do different "
                f"things; choose one, or let one work on the other's rows with curate: [{choosing[0]}, {name}]"
            )
        others.append(name)
    if any(_curator_effect(curator) == "pair" for curator in chosen.get("curate", [])):
        chosen.setdefault("objective", ["dpo"])  # whatever writes pairs comes with an objective of them
    if "credit" in chosen:
        for key, name in _methods_beside(chosen["credit"][0]).items():
            chosen.setdefault(key, [name])
    if getattr(chosen_class("objective", next(iter(chosen.get("objective", [])), None)), "needs_rollouts", False):
        chosen.setdefault("credit", CREDIT)
    return chosen


def _methods_beside(credit: str) -> Mapping[str, str]:
    """What comes with a credit, by its name: an objective, and what else a paper's name stands for."""
    variant = VARIANTS["credits"].get(credit)
    return {"objective": ONLINE, **(variant.brings if variant else {})}


def trains_nothing(method: str) -> bool:
    """Whether a method names only what is done without training: `rag`, but not `sft+rag` or `dial`."""
    parts = method.split("+")
    try:
        classes = [find_method("inference", name) for name in parts]
    except UserError:
        return False
    return all(issubclass(cls, Inference) and not cls.needs_training() for cls in classes)


def label_of(method: str) -> str:
    """What a method is called in tables and file names: of a class of the user's own the class's name."""
    return "+".join(name.rpartition(":")[2] for name in method.split("+"))


def _axis_chosen_on(name: str) -> Axis:
    """The axis on which a name chooses: of the package, or of a class of the user's own.

    Raises:
        UserError: If there is no such method.
    """
    axis = home_of(name)
    if axis is None:
        raise UserError(f"{name} is not a method{method_elsewhere(name) or suggest_name(name, METHODS)}")
    if not axis.in_method and axis is not PRESETS:
        raise UserError(f"{name} is one of the {axis.plural}, on which no method chooses; give it as `{axis.key}`")
    return axis


def _curator_effect(curator: str) -> str:
    """What a curator does to the rows, by its name."""
    return str(getattr(find_method("curators", curator), "effect", ""))


def _chooses_rows(curator: str) -> bool:
    return _curator_effect(curator) in CHOOSING


def fill_defaults(
    tree: Node, problems: Problems, number: int = 0, preset_rates: tuple[float, float, str] | None = None
) -> None:
    """Complete the axes from the method's shorthand, then the defaults that depend on other settings, in place.

    Args:
        number: Of a stage, counted from 0.
        preset_rates: Of a stage, the learning rates of base weights and of an adapter by its preset, and the source.
    """
    method, chosen = tree.plain_data("method"), dict[str, list[str]]()
    try:
        chosen = expand_method(method) if isinstance(method, str) else {}
    except UserError as error:
        problems.append((("method",), str(error)))
        tree.value["method"].value = "sft"
    _join_credit_and_objective(tree.plain_data(), chosen)
    for key in METHOD_AXES:
        fill_axis(tree, key, chosen.get(key, []), f"method {method}")
    for path, value, source in _derive_defaults(tree.plain_data(), number, preset_rates):
        part = tree.find(path[:1])
        if part is None or (part.is_mapping and path[1] not in part.value):
            tree.fill_value(path, value, source)


def _join_credit_and_objective(data: dict[str, Any], chosen: dict[str, list[str]]) -> None:
    """A credit brings an objective that reads advantages, and such an objective a credit, into `chosen`."""
    objective = data.get("objective")
    if data.get("credit") is not None:
        credit = chosen_class("credit", data["credit"])
        for key, name in _methods_beside("" if credit is None else name_of(credit)).items():
            chosen.setdefault(key, [name])
    elif getattr(chosen_class("objective", objective), "needs_rollouts", False):
        knobs = objective if isinstance(objective, dict) else getattr(objective, "__dict__", {})
        chosen.setdefault("credit", VALUE_CREDIT if knobs.get("value_weight") else CREDIT)


def fill_axis(tree: Node, key: str, choice: list[str], reason: str) -> None:
    """Name the method at `key`, names being spelled out: as given, as the recipe's method chooses, or the default.

    At `curate` one name, one mapping, or a list of either; a mapping without a name is the method's only curator's.
    """
    axis, node = METHOD_AXES[key], tree.value.get(key)
    names, source = choice or ([axis.default] if axis.default else []), reason if choice else "default"
    if node is None or node.value is None:
        choices = [{"name": name} for name in names]
        if axis.several or choices:
            tree.fill_value((key,), choices if axis.several else choices[0], source)
        return
    if axis.several and not node.is_list:
        node = tree.value[key] = Node([node], node.source, node.written)
    for item in node.value if axis.several else [node]:
        if item.is_mapping and "name" not in item.value and len(names) == 1:
            item.value = {"name": Node(names[0], source), **item.value}


def _derive_defaults(
    data: dict[str, Any], number: int, preset_rates: tuple[float, float, str] | None
) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """`(path, value, source)` of the defaults that depend on other settings; used where the recipe is silent.

    This is the one place where the objective's learning rate and epochs (`Objective.settings`) become the recipe's.
    Laboratory models, a thousandth of the size of those that papers train, have a rate of their own for all objectives.
    """
    tuner, optimizer, objective = (chosen_class(key, data.get(key)) for key in ("tuner", "optimizer", "objective"))
    adapter, common_rate = getattr(tuner, "adapter", False), optimizer is not None and _uses_common_rate(optimizer)
    factor = getattr(tuner, "rate_factor", 1.0)
    times = f", times {factor:g} for {name_of(tuner)}" if tuner is not None and factor != 1 else ""
    if number and (knob := getattr(tuner, "counts_stages", "")):
        yield ("tuner", knob), number, f"derived: stage {number + 1}"
    train = data.get("train")
    if isinstance(method := data.get("method"), str) and trains_nothing(method):
        yield ("train", "max_steps"), 0, f"derived: method {method} trains nothing"
    if (knob := getattr(tuner, "follows_length", "")) and isinstance(train, dict) and train.get("max_length"):
        yield ("tuner", knob), train["max_length"], "derived: train.max_length"
    yield from _derive_variant_settings(objective)
    if (credit := chosen_class("credit", data.get("credit"))) is not None:
        yield from _derive_variant_settings(credit)
        yield from _derive_online_defaults(data, credit)
    if is_lab_model(data.get("model")):
        if common_rate:
            lab_rate = float(f"{factor * (1e-3 if adapter else 3e-4):.12g}")
            yield ("optimizer", "learning_rate"), lab_rate, f"derived: laboratory model{times}"
        if credit is None:
            yield ("train", "batch_tokens"), 2048, "derived: laboratory model"
    elif objective is not None and issubclass(objective, Objective):
        knobs = data["objective"]
        if isinstance(knobs, Objective):
            usual = knobs.paper_settings
        else:
            defaults = {knob: info.default for knob, info in objective.model_fields.items()}
            usual = objective.settings_of(defaults | (knobs if isinstance(knobs, dict) else {}))
        rate: float | str
        rate, paper = usual.learning_rate(adapter)
        source = f"derived: objective {name_of(objective)}, {paper}"
        if preset_rates:
            rate, source = preset_rates[1 if adapter else 0], preset_rates[2]
        if common_rate:
            rate = rate if factor == 1 else float(f"{factor * float(rate):.12g}")
            yield ("optimizer", "learning_rate"), rate, source + times
        if credit is None:
            yield ("train", "epochs"), usual.epochs, f"derived: objective {name_of(objective)}, {usual.source}"


def _derive_online_defaults(data: dict[str, Any], credit: type[Method]) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """Defaults of online learning: answers are drawn from the policy as it is, and rounds say how long a run is."""
    section = data.get("online")
    online: dict[str, Any] = section if isinstance(section, dict) else {}
    counts = [online.get("rounds", 120), online.get("updates", 1), online.get("minibatches", 1)]
    yield ("sampling", "temperature"), 1.0, "derived: online learning"
    if all(isinstance(count, int) and count > 0 for count in counts):
        yield ("train", "max_steps"), counts[0] * counts[1] * counts[2], "derived: online.rounds"
    if getattr(credit, "needs_values", False):
        yield ("objective", "value_weight"), 0.1, f"derived: credit {name_of(credit)}"
    sampling, reads = data.get("sampling"), chosen_class("objective", data.get("objective"))
    has_longest = reads is not None and "longest" in reads.model_fields
    if (
        has_longest
        and isinstance(sampling, dict)
        and isinstance(longest := sampling.get("max_tokens"), int)
        and longest > 0
    ):
        yield ("objective", "longest"), longest, "derived: sampling.max_tokens"


def _derive_variant_settings(method: type[Method] | None) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """Settings elsewhere in the recipe that a variant's paper goes with."""
    if method is None or (variant := variant_of(method)) is None:
        return
    for path, value in variant.settings.items():
        section, key = path.split(".")
        yield (section, key), value, f"derived: {name_of(method)}, {variant.paper}"


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


def _uses_common_rate(optimizer: type[Method]) -> bool:
    """Whether the optimizer keeps the common default rate (one with a rate of its own knows better)."""
    mine, common = optimizer.model_fields.get("learning_rate"), Optimizer.model_fields["learning_rate"]
    return mine is not None and mine.default == common.default


def chosen_class(key: str, choice: Any) -> type[Method] | None:
    """The class that a choice at a recipe key names, or `None` while it is not a valid one."""
    if isinstance(choice, Method):
        return type(choice)
    name = choice.get("name") if isinstance(choice, dict) else choice
    try:
        return find_method(BY_KEY[key].plural, name) if isinstance(name, str) else None
    except UserError:
        return None
