"""The stages of a recipe, spelled out: what each says, laid over what all have in common.

Plain dictionaries, before anything is validated, as in `shorthand.py`, whose two steps (`read_aliases`, `fill_in`) are
here taken for a recipe with its stages. From the lowest layer to the highest, a stage is: the preset's stage, the
recipe's own settings, the stage's. A layer's `method` names the axes it chooses, unless that layer names them itself.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from holdfast.axes.axis import METHOD_AXES
from holdfast.axes.preset import Preset
from holdfast.axes.registry import REGISTRY, find, home_of
from holdfast.core.spelling import nearest
from holdfast.errors import UserError
from holdfast.recipe import shorthand
from holdfast.recipe.overlay import Pile
from holdfast.recipe.shorthand import LAB_MODELS, PRESETS, Filled, Path, chosen_class, expand

BASE = "base"
"""As the `model` of a stage: the recipe's own."""

OF_STAGE = "derived: stage"
"""Where the recipe has from a stage what it does not say itself."""

REFERENCE = re.compile(r"stage:(\S+)")
"""Text inside a stage that stands for the run directory of an earlier one."""

OF_STAGES = ("method", *METHOD_AXES, "train")
"""What a recipe with stages says only for them: none of it is used for the whole."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One stage as it was written.

    Args:
        at: Where.
        own: Its mapping.
        preset: The preset's stage below it; may be empty.
    """

    at: Path
    own: dict[str, Any]
    preset: Mapping[str, Any] = field(default_factory=dict)


def preset_of(method: Any) -> tuple[str, type[Preset] | None, str]:
    """The preset in `zephyr+lora`, by name and class, and the rest of it; "" and `None` when there is none."""
    names = method.split("+") if isinstance(method, str) else []
    found = [name for name in names if _is_preset(name)]
    if not found:
        return "", None, method if isinstance(method, str) else ""
    preset = find("presets", found[0])
    assert issubclass(preset, Preset)
    return found[0], preset, "+".join(name for name in names if name not in found)


def _is_preset(name: str) -> bool:
    try:
        return home_of(name) is PRESETS
    except UserError:  # of a class of the user's own; `expand` says it
        return False


def axes_of(method: str) -> set[str]:
    """The recipe keys on which a method chooses, those of a preset's stages included.

    Raises:
        UserError: If there is no such method.
    """
    keys = set(expand(method))
    _, preset, _ = preset_of(method)
    for stage in preset.stages if preset else ():
        keys |= {"objective", *expand(stage["method"]), *(key for key in METHOD_AXES if key in stage)}
    return keys


def read_aliases(data: dict[str, Any]) -> Filled:
    """`shorthand.read_aliases` for the recipe and each of its stages; a stage that is a text is its method."""
    out = shorthand.read_aliases(data)
    if isinstance(out.data.get("stages"), tuple):
        out.data["stages"] = list(out.data["stages"])
    stages: Any = out.data.get("stages")
    items: Any = enumerate(stages) if isinstance(stages, list) else stages.items() if isinstance(stages, dict) else ()
    for key, own in list(items):
        if isinstance(own, str):
            stages[key] = {"method": own}
        elif isinstance(own, dict):
            inner, at = shorthand.read_aliases(own), ("stages", key)
            stages[key] = inner.data
            out.moved |= {(*at, *new): (*at, *old) for new, old in inner.moved.items()}
            out.notes += [((*at, *path), text) for path, text in inner.notes]
            out.problems += [((*at, *path), text) for path, text in inner.problems]
    return out


def entries(given: Mapping[str, Any]) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """The stages as they were written, those of the method's preset below them, and what is wrong with the writing."""
    name, preset, _ = preset_of(given.get("method"))
    stages = given.get("stages")
    if preset and (not stages or isinstance(stages, dict)):
        return _changed(name, preset, stages or {})
    if not stages:
        return [], []
    if isinstance(stages, dict):
        some = next(iter(REGISTRY["presets"]))
        return [], [(("stages",), f"must be a list; a mapping changes stages that the method brings, such as {some}")]
    if not isinstance(stages, (list, tuple)):
        return [], [(("stages",), f"must be a list of stages, not {stages!r}")]
    found: list[Entry] = []
    problems: list[tuple[Path, str]] = []
    for i, own in enumerate(stages):
        if isinstance(own, dict):
            found.append(Entry(("stages", i), own))
        else:
            problems.append((("stages", i), f"must be a method, or a mapping of `key: value`, not {own!r}"))
    return found, problems


def _changed(name: str, preset: type[Preset], changes: dict[str, Any]) -> tuple[list[Entry], list[tuple[Path, str]]]:
    """A preset's stages with the recipe's changes, each under the name or the number of a stage."""
    names = [stage["name"] for stage in preset.stages]
    found = [Entry(("stages", i), {}, stage) for i, stage in enumerate(preset.stages)]
    problems: list[tuple[Path, str]] = []
    for key, own in changes.items():
        number = int(key) if key.isdigit() else names.index(key) if key in names else len(names)
        if number >= len(names):
            problems.append((("stages", key), f"is not a stage of {name}{nearest(key, names)}"))
        elif not isinstance(own, dict):
            problems.append((("stages", key), f"must be a mapping of `key: value`, not {own!r}"))
        elif found[number].own:
            problems.append((("stages", key), f"is given twice, as {found[number].at[1]} and as {key}; keep one"))
        else:
            if "name" in own:
                problems.append((("stages", key, "name"), f"cannot be changed: the stages of {name} have names"))
            found[number] = Entry(("stages", key), own, preset.stages[number])
    return found, problems


def stage_key(data: Mapping[str, Any], key: str | int) -> str | int:
    """How `data` calls the stage of a name or number: by number in a list, by name among a preset's stages.

    Raises:
        UserError: If no stage has this name.
    """
    _, preset, _ = preset_of(data.get("method"))
    stages = data.get("stages")
    if preset and not isinstance(stages, list):
        names = [stage["name"] for stage in preset.stages]
        found: str | int = names[key] if isinstance(key, int) and key < len(names) else key
    elif isinstance(stages, list):
        called = [stage if isinstance(stage, dict) else {"method": stage} for stage in stages]
        names = [str(stage.get("name") or _called(stage, stage.get("method"))) for stage in called]
        found = names.index(key) if isinstance(key, str) and key in names else key
    else:
        return key
    if isinstance(found, str) and found not in names:
        raise UserError(f"stages.{key} is not a stage{nearest(found, names)}")
    return found


def fill_in(given: dict[str, Any]) -> Filled:
    """`shorthand.fill_in` for the recipe and each of its stages, which then hold all that the recipe says for them.

    In the result, `moved` says of what a stage has from the recipe where it stands there.
    """
    stages, problems = entries(given)
    common = {key: value for key, value in given.items() if key != "stages"}
    if not stages:
        out = shorthand.fill_in(common)
        out.problems += problems
        return out
    names: list[str] = []
    filled: list[Filled] = []
    origins: list[Any] = []
    for entry in stages:
        filled.append(_stage(entry, common, names, origins))
    out = _whole(common, filled)
    out.data["stages"] = [stage.data for stage in filled]
    out.problems += problems
    for number, stage in enumerate(filled):
        at = ("stages", number)
        out.origins |= {(*at, *path): reason for path, reason in stage.origins.items()}
        out.moved |= {(*at, *path): old for path, old in stage.moved.items()}
        out.problems += stage.problems
    return out


def _stage(entry: Entry, common: dict[str, Any], names: list[str], origins: list[Any]) -> Filled:
    """One stage in full. Paths of `origins` and `moved` are its own, those of `problems` the user's.

    Args:
        names, origins: Of the stages before, and the models they descend from; this one's are added.
    """
    own, problems = _allowed(entry)
    preset_name, preset, rest = preset_of(common.get("method"))
    pile = Pile()
    below = {key: value for key, value in entry.preset.items() if key != "name"}
    pile.lay(_spelled(below), lambda path: f"method {preset_name}")
    shared = {key: value for key, value in common.items() if key not in ("model", "output", "track", "method")}
    if isinstance(shared.get("evaluate"), dict):  # the recipe's gate is for the whole
        shared["evaluate"] = {key: value for key, value in shared["evaluate"].items() if key != "gate"}
    pile.lay(_spelled({**shared, "method": rest} if rest else shared), lambda path: path)
    pile.lay(_spelled(own), lambda path: (*entry.at, *path))
    known = own.get("method", entry.preset.get("method", rest))
    method = known if "method" in own else known or "sft"
    if "method" not in own:
        pile.came["method",] = f"method {preset_name}" if entry.preset else ("method",) if rest else "default"
    name = str(own.get("name", entry.preset.get("name", _called(own, known))))
    if "name" not in own:
        pile.came["name",] = f"method {preset_name}" if entry.preset else "derived: its method"
    model = own.get("model", f"stage:{names[-1]}" if names else BASE)
    if "model" not in own:
        pile.came["model",] = "derived: the stage before" if names else "derived: the recipe's model"
    if name in names:
        problems.append((entry.at, f"is called {name}, like stages.{names.index(name)}; give one of them another name"))
    for path, wanted in _references({**pile.data, "model": model}):
        if text := _unknown(wanted, names, name):
            problems.append((pile.stands(path, entry.at), text))
    origins.append(_descends(model, common.get("model"), names, origins))
    names.append(name)
    pile.data |= {"method": method, "model": origins[-1]}
    if preset and "method" not in own:
        _paper_rate(pile, preset.rates.get(name), f"method {preset_name}")
    _count(pile, len(names) - 1)
    out = shorthand.fill_in(pile.data)
    pile.came |= out.origins
    problems += [(pile.stands(path, entry.at), text) for path, text in out.problems]
    out.data = {"name": name, **out.data, "model": model} | {key: own[key] for key in ("name",) if key in own}
    out.origins = {path: reason for path, reason in pile.came.items() if isinstance(reason, str)}
    out.moved = {path: old for path, old in pile.came.items() if not isinstance(old, str)}
    out.problems = problems
    return out


def _called(own: Mapping[str, Any], method: Any) -> str:
    """The name of a stage that has none: its method, or else its objective."""
    objective = own.get("objective")
    named = objective.get("name") if isinstance(objective, dict) else objective
    return str(method or named or "sft").rpartition(":")[2].replace("+", "-")


def _allowed(entry: Entry) -> tuple[dict[str, Any], list[tuple[Path, str]]]:
    """What a stage says, without what only a recipe can say, and a line for each of that."""
    own, problems = dict(entry.own), []
    if "stages" in own:
        problems.append(((*entry.at, "stages"), "cannot be set here: a stage holds no stages; list all in one row"))
    if "output" in own:
        problems.append(((*entry.at, "output"), "cannot be set here: a stage's run is in OUTPUT/stages"))
    name, preset, _ = preset_of(own.get("method"))
    if preset:
        problems.append(((*entry.at, "method"), f"cannot be {name}, which has stages itself; list those in its place"))
        own["method"] = "sft"
    return {key: value for key, value in own.items() if key not in ("stages", "output")}, problems


def _spelled(layer: dict[str, Any]) -> Filled:
    """A layer with the axes that its method chooses; the method itself is left out."""
    out, method = Filled({key: value for key, value in layer.items() if key != "method"}), layer.get("method")
    try:
        chosen = expand(method) if isinstance(method, str) else {}
    except UserError:
        return out  # it is said when the whole is filled in
    chosen.pop("stages", None)
    if isinstance(method, str) and "sft" in method.split("+"):
        chosen.setdefault("objective", ["sft"])  # a stage called sft is none of what the recipe says for others
    for key, names in chosen.items():
        if key == "curate":
            shorthand.fill_curate(out, names, f"method {method}")
        else:
            shorthand.fill_axis(out, key, names, f"method {method}")
    return out


def _references(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every `stage:NAME` inside a value: where, and the name."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key != "name":  # a class of the user's own may be called stage:Mine
                yield from _references(inner, (*path, key))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from _references(inner, (*path, i))
    elif isinstance(value, str) and (found := REFERENCE.fullmatch(value)):
        yield path, found[1]


def _unknown(wanted: str, names: list[str], own: str) -> str | None:
    """What is wrong with a reference to stage `wanted`."""
    if wanted in names:
        return None
    reason = "is this stage itself" if wanted == own else "is not an earlier stage"
    return f"cannot be stage:{wanted}: {wanted} {reason}" + (nearest(wanted, names) if names else "; this is the first")


def _descends(model: Any, base: Any, names: list[str], origins: list[Any]) -> Any:
    """The model at the beginning of the chain that leads to `model`."""
    found = REFERENCE.fullmatch(model) if isinstance(model, str) else None
    if found:
        return origins[names.index(found[1])] if found[1] in names else base
    return base if model == BASE else model


def _paper_rate(pile: Pile, rates: tuple[float, float] | None, reason: str) -> None:
    """The learning rate that a preset's paper gives for a stage, where nothing else says one."""
    optimizer = pile.data.get("optimizer", {})
    if rates is None or pile.data["model"] in LAB_MODELS or not isinstance(optimizer, dict):
        return
    kind = chosen_class({"optimizer": {"name": METHOD_AXES["optimizer"].default, **optimizer}}, "optimizer")
    if kind is not None and shorthand.generic_rate(kind) and "learning_rate" not in optimizer:
        adapter = getattr(chosen_class(pile.data, "tuner"), "adapter", False)
        pile.data["optimizer"] = {**optimizer, "learning_rate": rates[1 if adapter else 0]}
        pile.came["optimizer", "learning_rate"] = reason


def _count(pile: Pile, number: int) -> None:
    """The number of the stage, for a tuner that wants to know it and is not told."""
    tuner, own = chosen_class(pile.data, "tuner"), pile.data.get("tuner")
    knob = getattr(tuner, "counts_stages", "")
    if knob and isinstance(own, dict) and knob not in own and number:
        pile.data["tuner"] = {**own, knob: number}
        pile.came["tuner", knob] = f"derived: stage {number + 1}"


def _whole(common: dict[str, Any], stages: list[Filled]) -> Filled:
    """The recipe's own settings. What it does not say of the data, it has from the first stage.

    Its rows are read as the first stage with the same ones reads them.
    """
    data, added, source = dict(common), dict[str, Any](), stages[0].data
    mine, theirs = common.get("data", {}), source.get("data", {})
    if isinstance(mine, dict) and "train" not in mine:
        # A first stage without data is told so itself.
        added["data"] = {"train": "", **(theirs if isinstance(theirs, dict) else {})}
        data["data"] = {**added["data"], **mine}
        added |= {"judge": source["judge"]} if isinstance(source.get("judge"), dict) and "judge" not in common else {}
    source = next((stage.data for stage in stages if _train(stage.data) == _train(data)), source)
    added |= {key: source[key] for key in ("objective", "curate") if key not in common}
    data |= {key: value for key, value in added.items() if key != "data"}
    for key in (
        axis.key for axis in METHOD_AXES.values() if not axis.several
    ):  # knobs alone are those of the method that a stage has
        if isinstance(data.get(key), dict) and "name" not in data[key] and isinstance(source.get(key), dict):
            added[key] = {"name": source[key].get("name")}
            data[key] = {**added[key], **data[key]}
    out = shorthand.fill_in(data)
    for key, value in added.items():
        paths = _paths(value, (key,)) if isinstance(value, dict) else [(key,)]
        out.origins |= dict.fromkeys(paths, f"{OF_STAGE} {source['name']}")
    return out


def _train(data: Mapping[str, Any]) -> Any:
    rows = data.get("data")
    return rows.get("train") if isinstance(rows, dict) else None


def _paths(value: Any, at: Path) -> Iterator[Path]:
    """Paths of all values inside mappings."""
    for key, inner in value.items():
        yield (*at, key)
        if isinstance(inner, dict):
            yield from _paths(inner, (*at, key))


def written(moved: Mapping[Path, Path], path: Path) -> Path:
    """Where a value of a stage was written: in the stage, or in the recipe."""
    for n in range(len(path), 2, -1):
        if path[:n] in moved:
            return (*moved[path[:n]], *path[n:])
    return path


def label(method: str, names: list[str], joint: str = ", ") -> str:
    """What a recipe with stages is called: its preset, or the names of its stages."""
    return method if preset_of(method)[1] else joint.join(names)
