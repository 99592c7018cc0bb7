"""Step 4 of reading a recipe: its stages are spelled out, what each says, laid over what all have in common.

From the lowest layer to the highest, a stage is: the preset's stage, the recipe's own settings, the stage's. A layer's
`method` names the axes it chooses, unless that layer names them itself.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from holdfast.axes.axis import METHOD_AXES
from holdfast.axes.preset import Preset
from holdfast.axes.registry import REGISTRY
from holdfast.core.spelling import suggest_name
from holdfast.errors import UserError
from holdfast.recipe import shorthand
from holdfast.recipe.shorthand import chosen_class, expand_method
from holdfast.recipe.tree import Node, Path, Problems, overlay_mapping, spell_out_names

BASE = "base"
"""As the `model` of a stage: the recipe's own."""

OF_STAGE = "derived: stage"
"""Where the recipe has from a stage what it does not say itself."""

REFERENCE = re.compile(r"stage:(\S+)")
"""Text inside a stage that stands for the run directory of an earlier one."""

OF_STAGES = ("method", *METHOD_AXES, "train")
"""What a recipe with stages says only for them: none of it is used for the whole."""


def preset_of(method: Any) -> tuple[str, type[Preset] | None, str]:
    """The preset in `zephyr+lora`, by name and class, and the rest of it; "" and `None` when there is none."""
    names = method.split("+") if isinstance(method, str) else []
    presets = {name: cls for name in names if (cls := chosen_class("stages", name))}
    name, preset = next(iter(presets.items()), ("", None))
    assert preset is None or issubclass(preset, Preset)
    return name, preset, "+".join(each for each in names if each not in presets)


def axes_of(method: str) -> set[str]:
    """The recipe keys on which a method chooses, those of a preset's stages included.

    Raises:
        UserError: If there is no such method.
    """
    keys = set(expand_method(method))
    _, preset, _ = preset_of(method)
    for stage in preset.stages if preset else ():
        keys |= {"objective", *expand_method(stage["method"]), *(key for key in METHOD_AXES if key in stage)}
    return keys


Stages = list[tuple[Node, Mapping[str, Any]]]
"""Each stage as it was written, and the preset's stage below it, which may be empty."""


def read_stages(tree: Node, problems: Problems) -> Stages:
    """The stages of a recipe; what is wrong with how they are written is added to `problems`."""
    name, preset, _ = preset_of(tree.plain_data("method"))
    stages = tree.value.get("stages") or Node({}, tree.source)
    empty = not stages.plain_data()
    if preset and (empty or stages.is_mapping):
        return _change_stages(name, preset, stages.inner_nodes(), problems)
    if stages.is_list:
        for key, own in stages.inner_nodes().items():
            if not own.is_mapping:
                text = f"must be a method, or a mapping of `key: value`, not {own.plain_data()!r}"
                problems.append((("stages", key), text))
        return [(own, {}) for own in stages.value if own.is_mapping]
    if stages.is_mapping and not empty:
        example = next(iter(REGISTRY["presets"]))
        text = f"must be a list; a mapping changes stages that the method brings, such as {example}"
        problems.append((("stages",), text))
    elif not empty:
        problems.append((("stages",), f"must be a list of stages, not {stages.value!r}"))
    return []


def _change_stages(name: str, preset: type[Preset], changes: Mapping[str, Node], problems: Problems) -> Stages:
    """A preset's stages with the recipe's changes, each under the name or the number of a stage."""
    names = [stage["name"] for stage in preset.stages]
    changes_by_number: dict[int, Node] = {}
    for key, own in changes.items():
        number = int(key) if key.isdigit() else names.index(key) if key in names else len(names)
        if number >= len(names):
            problems.append((("stages", key), f"is not a stage of {name}{suggest_name(key, names)}"))
        elif not own.is_mapping:
            problems.append((("stages", key), f"must be a mapping of `key: value`, not {own.plain_data()!r}"))
        elif number in changes_by_number and changes_by_number[number].value:
            first = (changes_by_number[number].written or ("",))[-1]
            problems.append((("stages", key), f"is given twice, as {first} and as {key}; keep one"))
        else:
            if "name" in own.value:
                problems.append((("stages", key, "name"), f"cannot be changed: the stages of {name} have names"))
            changes_by_number[number] = own
    empty_stages = [Node({}, f"method {name}", ("stages", i)) for i in range(len(names))]
    return [(changes_by_number.get(i, empty_stages[i]), stage) for i, stage in enumerate(preset.stages)]


def stage_key(data: Mapping[str, Any], key: str | int) -> str | int:
    """How `data` calls the stage of a name or number: by number in a list, by name among a preset's stages.

    Raises:
        UserError: If no stage has this name.
    """
    _, preset, _ = preset_of(data.get("method"))
    stages = data.get("stages")
    if isinstance(stages, list):
        mappings = [stage if isinstance(stage, dict) else {"method": stage} for stage in stages]
        names = [str(stage.get("name") or _default_stage_name(stage, stage.get("method"))) for stage in mappings]
    elif preset:
        names = [stage["name"] for stage in preset.stages]
    else:
        return key
    number = names.index(key) if key in names else key
    if isinstance(number, str):
        raise UserError(f"stages.{key} is not a stage{suggest_name(number, names)}")
    return number if isinstance(stages, list) or number >= len(names) else names[number]


def fill_recipe(tree: Node, problems: Problems) -> Node:
    """A recipe with all that it does not say itself, and each of its stages with all that the recipe says for them.

    Args:
        tree: The recipe as it was written, aliases read; it is left alone.
        problems: What is wrong is added here, at the place where it was written.
    """
    stages = read_stages(tree, problems)
    common = tree.copy()
    common.value.pop("stages", None)
    if not stages:
        shorthand.fill_defaults(common, problems)
        return common
    chain = _StageChain(common)
    for own, preset in stages:
        chain.add_stage(own, preset, problems)
    whole = _build_whole(common, chain.stages, problems)
    in_list = "stages" in tree.value and tree.value["stages"].is_list and tree.value["stages"].value
    whole.value["stages"] = Node(chain.stages, tree.source_around(("stages",)), ("stages",) if in_list else None)
    return whole


class _StageChain:
    """The stages of a recipe, spelled out one after another.

    Args:
        common: What the recipe says for all of them.
    """

    def __init__(self, common: Node) -> None:
        self.common = common
        self.preset_name, self.preset, self.rest = preset_of(common.plain_data("method"))
        self.stages: list[Node] = []
        self.names: list[str] = []
        self.origins: dict[str, Any] = {BASE: common.plain_data("model")}
        """The model at the beginning of the chain that leads to `base` or `stage:NAME`."""

    def add_stage(self, own: Node, preset: Mapping[str, Any], problems: Problems) -> None:
        """One more stage, laid over the recipe and the preset's stage.

        Args:
            own: What the recipe says of it.
            preset: The preset's stage below it; may be empty.
        """
        at = own.written or ("stages", len(self.stages))
        own = _drop_forbidden(own, at, problems)
        stage = self._overlay_layers(own, preset)
        name, model = str(stage.plain_data("name")), stage.value["model"]
        if name in self.names:
            other = f"stages.{self.names.index(name)}"
            problems.append((at, f"is called {name}, like {other}; give one of them another name"))
        for path, node in stage.leaf_nodes():
            # A class of the user's own may be called stage:Mine.
            match = REFERENCE.fullmatch(node.value) if isinstance(node.value, str) and path[-1] != "name" else None
            if match and match[1] not in self.names:
                problems.append((node.written or (*at, *path), _explain_unknown_stage(match[1], self.names, name)))
        origin = self.origins.get(model.value, model.value) if isinstance(model.value, str) else model.plain_data()
        self.names.append(name)
        self.origins[f"stage:{name}"] = origin
        stage.value["model"] = Node.from_data(origin, "", None)  # of it the defaults are derived
        rates = self.preset.rates.get(name) if self.preset and "method" not in own.value else None
        wrong: Problems = []
        shorthand.fill_defaults(stage, wrong, len(self.stages), rates and (*rates, f"method {self.preset_name}"))
        problems += [(stage.place_of(path, (*at, *path)), text) for path, text in wrong]
        stage.value["model"] = model
        self.stages.append(stage)

    def _overlay_layers(self, own: Node, preset: Mapping[str, Any]) -> Node:
        """The layers of a stage on each other, with its method, name and model."""
        below, common = Node.from_data(preset, f"method {self.preset_name}", None), self.common.copy()
        for key in ("name", "model", "output", "track", "search"):
            common.value.pop(key, None)
        if "evaluate" in common.value and common.value["evaluate"].is_mapping:
            common.value["evaluate"].value.pop("gate", None)  # the recipe's gate is for the whole
        if self.rest:
            common.value["method"].value = self.rest
        else:
            common.value.pop("method", None)
        stage = Node({}, own.source, own.written)
        spell_out_names(below)
        for layer in (below, common, own):
            overlay_mapping(stage, _spell_out_axes(layer))
        method = next((layer.value["method"] for layer in (own, below, common) if "method" in layer.value), None)
        name = _default_stage_name(own.plain_data(), method.value if method else None)
        model, why = (f"stage:{self.names[-1]}", "the stage before") if self.names else (BASE, "the recipe's model")
        stage.value["method"] = method or Node("sft", "default")
        stage.value.setdefault("name", Node(name, "derived: its method"))
        stage.value.setdefault("model", Node(model, f"derived: {why}"))
        return stage


def _default_stage_name(own: Mapping[str, Any], method: Any) -> str:
    """The name of a stage that has none: its method, or else its objective."""
    objective = own.get("objective")
    objective_name = objective.get("name") if isinstance(objective, dict) else objective
    return str(method or objective_name or "sft").rpartition(":")[2].replace("+", "-")


def _drop_forbidden(own: Node, at: Path, problems: Problems) -> Node:
    """What a stage says, without what only a recipe can say, each of which is a problem."""
    out = own.copy()
    if out.value.pop("stages", None) is not None:
        problems.append(((*at, "stages"), "cannot be set here: a stage holds no stages; list all in one row"))
    if out.value.pop("output", None) is not None:
        problems.append(((*at, "output"), "cannot be set here: a stage's run is in OUTPUT/stages"))
    name, preset, _ = preset_of(out.plain_data("method"))
    if preset:
        problems.append(((*at, "method"), f"cannot be {name}, which has stages itself; list those in its place"))
        out.value["method"].value = "sft"
    return out


def _spell_out_axes(layer: Node) -> Node:
    """A layer with the axes that its method chooses; the method itself is left out."""
    layer, method = layer.copy(), layer.plain_data("method")
    layer.value.pop("method", None)
    try:
        chosen = expand_method(method) if isinstance(method, str) else {}
    except UserError:
        return layer  # it is said when the whole is filled in
    chosen.pop("stages", None)
    if isinstance(method, str) and "sft" in method.split("+"):
        chosen.setdefault("objective", ["sft"])  # a stage called sft is none of what the recipe says for others
    for key, names in chosen.items():
        shorthand.fill_axis(layer, key, names, f"method {method}")
    return layer


def _explain_unknown_stage(reference: str, names: list[str], own: str) -> str:
    """What is wrong with a reference to a stage that is not among the `names` of the earlier ones."""
    reason = "is this stage itself" if reference == own else "is not an earlier stage"
    return f"cannot be stage:{reference}: {reference} {reason}" + (
        suggest_name(reference, names) if names else "; this is the first"
    )


def _build_whole(common: Node, stages: list[Node], problems: Problems) -> Node:
    """The recipe's own settings. What it does not say of the data, it has from the first stage.

    Its rows are read as the first stage with the same ones reads them.
    """
    whole, mine = common.copy(), common.value.get("data")
    if mine is None or (mine.is_mapping and "train" not in mine.value):
        theirs, judge = stages[0].plain_data("data"), stages[0].plain_data("judge")
        # A first stage without data is told so itself.
        data = {"train": "", **(theirs if isinstance(theirs, dict) else {})}
        whole.fill_value(("data",), data, _stage_source(stages[0]))
        if mine is not None:
            whole.value["data"] = Node({**whole.value["data"].value, **mine.value}, mine.source, mine.written)
        if "judge" not in common.value and isinstance(judge, dict):
            whole.fill_value(("judge",), judge, _stage_source(stages[0]))
    rows = whole.plain_data("data", "train")
    source = next((stage for stage in stages if stage.plain_data("data", "train") == rows), stages[0])
    for key in METHOD_AXES:
        own, theirs = whole.value.get(key), source.plain_data(key)
        if own is None and key in ("objective", "curate"):
            whole.fill_value((key,), theirs, _stage_source(source))
        elif own is not None and own.is_mapping and "name" not in own.value and isinstance(theirs, dict):
            # Knobs alone are those of the method that a stage has.
            own.value = {"name": Node(theirs.get("name"), _stage_source(source)), **own.value}
    shorthand.fill_defaults(whole, problems)
    return whole


def _stage_source(stage: Node) -> str:
    return f"{OF_STAGE} {stage.plain_data('name')}"
