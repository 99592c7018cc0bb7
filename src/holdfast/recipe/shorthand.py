"""From what the user wrote to a full nested mapping: Hugging Face names, method shorthands, derived defaults.

Everything here works on plain dictionaries, before the recipe is validated, and says what it did and why.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from holdfast.axes.axis import BY_PLURAL, METHOD_AXES, Axis
from holdfast.axes.elsewhere import method_elsewhere
from holdfast.axes.method import Method
from holdfast.axes.objective import Objective
from holdfast.axes.optimizer import Optimizer
from holdfast.axes.registry import entry_of, find, home_of, name_of, names, variant_of
from holdfast.core.spelling import nearest
from holdfast.errors import UserError
from holdfast.recipe import peers

PRESETS = BY_PLURAL["presets"]
"""The axis that `method` chooses for all stages together."""


def _choices(axis: Axis, name: str) -> dict[str, str]:
    entry = entry_of(axis.plural, name)
    return {axis.key: name, **(entry.implies if entry else {})}


METHODS: dict[str, dict[str, str]] = {
    **{name: _choices(axis, name) for axis in (*METHOD_AXES.values(), PRESETS) for name in names(axis.plural)},
    "sft": {},
}
"""`method:` shorthands: the axis choices each name of the package stands for. An axis given in the recipe goes before.

`sft` leaves every axis as it is; a preset stands for stages.
"""

CHOOSING = ("rewrite", "add")
"""Effects of curators that write the answers of every row; the others choose among rows, mix or pair what is there."""

LAB_MODELS = ("lab", "lab-small")

Path = tuple[str | int, ...]
"""Where a value sits in the nested recipe: `("curate", 0, "paraphrase")`."""


@dataclass(slots=True)
class Filled:
    """What a step made of the user's mapping.

    Args:
        data: The new mapping; the input is left alone.
        origins: Path of every value that was added to the reason it has.
        moved: New path to old path of every renamed key.
        notes: What the user should know.
        problems: `(path, what is wrong)`; the values in question were left out of `data`.
    """

    data: dict[str, Any]
    origins: dict[Path, str] = field(default_factory=dict)
    moved: dict[Path, Path] = field(default_factory=dict)
    notes: list[tuple[Path, str]] = field(default_factory=list)
    problems: list[tuple[Path, str]] = field(default_factory=list)


def _no_limit(value: Any) -> Any:
    return None if value == -1 else value


def _when(yes: str, no: str) -> Callable[[Any], Any]:
    return lambda value: {True: yes, False: no}.get(value, value) if isinstance(value, bool) else value


def _renamed(**names: str) -> Callable[[Any], Any]:
    return lambda value: names.get(value, value) if isinstance(value, str) else value


ALIASES: dict[str, tuple[str, Callable[[Any], Any] | None]] = {
    "model_name_or_path": ("model", None),
    "base_model": ("model", None),
    "output_dir": ("output", None),
    "dataset": ("data.train", None),
    "dataset_name": ("data.train", None),
    "train_file": ("data.train", None),
    "test_file": ("data.test", None),
    "val_size": ("data.test", None),
    "system_prompt": ("data.system", None),
    "max_train_samples": ("data.limit", None),
    "on_long": ("data.too_long", _renamed(truncate="cut")),
    "num_train_epochs": ("train.epochs", None),
    "num_epochs": ("train.epochs", None),
    "max_steps": ("train.max_steps", _no_limit),
    "max_length": ("train.max_length", None),
    "max_seq_length": ("train.max_length", None),
    "cutoff_len": ("train.max_length", None),
    "sequence_len": ("train.max_length", None),
    "packing": ("train.layout", _when("packed", "padded")),
    "bf16": ("train.precision", _when("bf16", "fp32")),
    "save_total_limit": ("train.keep_checkpoints", None),
    "gradient_checkpointing": ("train.gradient_checkpointing", None),
    "seed": ("train.seed", None),
    "optim": ("optimizer.name", _renamed(adamw_torch="adamw", adamw_torch_fused="adamw", adamw_hf="adamw")),
    "learning_rate": ("optimizer.learning_rate", None),
    "lr": ("optimizer.learning_rate", None),
    "lr_scheduler_type": ("optimizer.schedule", _renamed(constant_with_warmup="constant")),
    "warmup_ratio": ("optimizer.warmup", None),
    "weight_decay": ("optimizer.weight_decay", None),
    "max_grad_norm": ("optimizer.max_grad_norm", None),
    "adam_epsilon": ("optimizer.eps", None),
    "lora_r": ("tuner.r", None),
    "lora_rank": ("tuner.r", None),
    "lora_alpha": ("tuner.alpha", None),
    "lora_dropout": ("tuner.dropout", None),
    "lora_target_modules": ("tuner.target_modules", None),
    **peers.SAME,
}
"""Names of Hugging Face trainers and PEFT: where they live here, and how the value is translated."""

ALIAS_PLACES = ("", "train", "data", "optimizer", "tuner")
"""The parts of a recipe in which an alias is looked for; "" is the top level."""

DEVICE_BATCH = ("per_device_train_batch_size", "micro_batch_size", "gradient_accumulation_steps")


def read_aliases(data: dict[str, Any]) -> Filled:
    """Move other tools' names to ours and leave out those without effect, with a note each."""
    out = Filled(deepcopy(data))
    for place in ALIAS_PLACES:
        part = out.data if not place else out.data.get(place)
        if not isinstance(part, dict):
            continue
        for key in [k for k in part if _is_alias(k, part[k], place)]:
            target, convert = ALIASES[key]
            old: Path = (place, key) if place else (key,)
            value = convert(part[key]) if convert else part[key]
            if target == dotted(old):
                part[key] = value
            else:
                del part[key]
                _move(out, old, tuple(target.split(".")), value)
    _read_device_batch(out)
    _leave_out(out)
    return out


def _is_alias(key: str, value: Any, place: str) -> bool:
    """Whether a key is another tool's name, standing where that tool would have it."""
    if key not in ALIASES:
        return False
    if key not in peers.SAME:
        return True
    if key in peers.SWITCHES and peers.switched_off(value):
        return False
    at_home = place in ("", "train") or place == ALIASES[key][0].partition(".")[0]
    return at_home and value is not None and (isinstance(value, str) or key not in peers.TEXT_ONLY)


def _leave_out(out: Filled) -> None:
    """Drop other tools' settings that change no result here, and those that are switched off; one note for all."""
    dropped: list[tuple[Path, str]] = []
    for place in ("", "train"):
        part = out.data if not place else out.data.get(place)
        if not isinstance(part, dict):
            continue
        for key in list(part):
            off = (key in peers.INSTEAD or key in peers.SAME) and peers.switched_off(part[key])
            if off or key in peers.NO_EFFECT:
                del part[key]
                old: Path = (place, key) if place else (key,)
                dropped.append((old, "switched off" if off else peers.NO_EFFECT[key]))
    if dropped:
        (first, why), *rest = dropped
        others = ", ".join(f"{dotted(path)} ({reason})" for path, reason in rest)
        out.notes.append((first, f"has no effect here ({why})" + (f", nor have: {others}" if others else "")))


def _move(out: Filled, old: Path, new: tuple[str, ...], value: Any, note: str = "", called: str = "") -> None:
    """Put `value` at `new`, unless something is there already."""
    here = out.data
    for part in new[:-1]:
        inner = here.get(part)
        if isinstance(inner, str) and part in METHOD_AXES:
            inner = {"name": inner}
        here[part] = here = {} if inner is None else inner
        if not isinstance(here, dict):
            out.problems.append((old, f"cannot be read as {dotted(new)}, because {part} is not a mapping"))
            return
    if new[-1] in here and new not in out.origins:
        out.problems.append((old, f"means {dotted(new)}, which is given as well; keep one of them{called}"))
        return
    out.origins.pop(new, None)  # a name that was only implied gives way to one that is given
    here[new[-1]] = value
    axis, name = next((found for start, found in peers.IMPLIED.items() if str(old[-1]).startswith(start)), ("", ""))
    if axis and "name" not in here:
        here["name"] = name
        out.origins[(axis, "name")] = f"implied by {old[-1]}"
    out.moved[new] = old
    out.notes.append((old, note or f"is read as {dotted(new)}"))


def _read_device_batch(out: Filled) -> None:
    """Rows per device and accumulation steps become an upper bound in tokens, said aloud because it is not the same."""
    train = out.data.get("train")
    parts = [(p, key) for p in (out.data, train) if isinstance(p, dict) for key in DEVICE_BATCH if key in p]
    if not parts:
        return
    old: Path = ("train", parts[0][1]) if parts[0][0] is train else (parts[0][1],)
    counts = {key: part.pop(key) for part, key in parts}
    if not all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in counts.values()):
        out.problems.append((old, "must be a whole number above 0; better give train.batch_tokens"))
        return
    length = (train.get("max_length") or 2048) if isinstance(train, dict) else 2048
    rows = counts.get(DEVICE_BATCH[0], counts.get(DEVICE_BATCH[1], 8)) * counts.get(DEVICE_BATCH[2], 1)
    if not isinstance(length, int):
        return
    _move(
        out,
        old,
        ("train", "batch_tokens"),
        rows * length,
        (
            f"is read as train.batch_tokens: {rows * length} ({rows} rows of train.max_length {length}); where rows "
            "are shorter a step holds more of them, so give train.batch_tokens yourself to keep your number of steps"
        ),
        called=f" ({' and '.join(counts)} belong together)" if len(counts) > 1 else "",
    )


def expand(method: str) -> dict[str, list[str]]:
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
            if key == "curate" and _chooses(choice) and (others := [c for c in chosen.get(key, []) if _chooses(c)]):
                both = f"{min(others)} and {choice}"
                raise UserError(
                    f"{method}: both {both} choose the rows, and `+` joins methods that do different things; choose "
                    f"one, or let one work on the other's rows with curate: [{both.replace(' and ', ', ')}]"
                )
            chosen.setdefault(key, []).append(choice)
    if any(_effect(curator) == "pair" for curator in chosen.get("curate", [])):
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
        raise UserError(f"{name} is not a method{method_elsewhere(name) or nearest(name, METHODS)}")
    if not home.in_method and home is not PRESETS:
        raise UserError(f"{name} is one of the {home.plural}, on which no method chooses; give it as `{home.key}`")
    return {home.key: name}


def _effect(curator: str) -> str:
    """What a curator does to the rows, by its name."""
    return str(getattr(find("curators", curator), "effect", ""))


def _chooses(curator: str) -> bool:
    return _effect(curator) in CHOOSING


def fill_in(given: dict[str, Any]) -> Filled:
    """Complete the axes from the method's shorthand, then the defaults that depend on other settings."""
    out = Filled(dict(given))
    method = given.get("method", "sft")
    try:
        chosen = expand(method) if isinstance(method, str) else {}
    except UserError as error:
        out.problems.append((("method",), str(error)))
        out.data["method"], chosen = "sft", {}
    fill_curate(out, chosen.get("curate", []), f"method {method}")
    for key in (axis.key for axis in METHOD_AXES.values() if not axis.several):
        fill_axis(out, key, chosen.get(key, []), f"method {method}")
    for path, value, reason in _derived(out.data):
        part = out.data.get(path[0], {})
        if isinstance(part, dict) and path[1] not in part:
            out.data[path[0]] = {**part, path[1]: value}
            out.origins[path] = f"derived: {reason}"
    return out


def fill_axis(out: Filled, key: str, choice: list[str], reason: str) -> None:
    """Name the method at `key`: as given, as the recipe's method chooses, or the axis's default."""
    value = out.data.get(key)
    if isinstance(value, str):
        out.data[key] = {"name": value}
    elif (value is None and (choice or METHOD_AXES[key].default)) or (isinstance(value, dict) and "name" not in value):
        out.data[key] = {"name": choice[0] if choice else METHOD_AXES[key].default, **(value or {})}
        out.origins[(key, "name")] = reason if choice else "default"


def fill_curate(out: Filled, choice: list[str], reason: str) -> None:
    """One name, one mapping, or a list of either; a mapping without a name belongs to the method's only curator."""
    value = out.data.get("curate")
    if value is None:
        out.data["curate"] = [{"name": name} for name in choice]
        out.origins["curate",] = reason if choice else "default"
        out.origins.update({("curate", i, "name"): reason for i in range(len(choice))})
        return
    items = list(value) if isinstance(value, (list, tuple)) else [value]
    for i, item in enumerate(items):
        if isinstance(item, str):
            items[i] = {"name": item}
        elif isinstance(item, dict) and "name" not in item and len(choice) == 1:
            items[i] = {"name": choice[0], **item}
            out.origins[("curate", i, "name")] = reason
    out.data["curate"] = items


def _derived(data: dict[str, Any]) -> Iterator[tuple[tuple[str, str], Any, str]]:
    """`(path, value, reason)` of the defaults that depend on other settings; used where the recipe is silent.

    This is the one place where the objective's learning rate and epochs (`Objective.settings`) become the recipe's.
    Laboratory models, a thousandth of the size of those that papers train, have a rate of their own for all objectives.
    """
    tuner, optimizer, objective = (chosen_class(data, key) for key in ("tuner", "optimizer", "objective"))
    adapter, own_rate = getattr(tuner, "adapter", False), optimizer is None or not generic_rate(optimizer)
    if of_the_laboratory(data.get("model")):
        if not own_rate:
            yield ("optimizer", "learning_rate"), 1e-3 if adapter else 3e-4, "laboratory model"
        yield ("train", "batch_tokens"), 2048, "laboratory model"
    elif objective is not None and issubclass(objective, Objective):
        knobs = data["objective"]
        usual = knobs.usual if isinstance(knobs, Objective) else objective.settings_of(_knobs(knobs, objective))
        rate, source = usual.learning_rate(adapter)
        if not own_rate:
            yield ("optimizer", "learning_rate"), rate, f"objective {name_of(objective)}, {source}"
        yield ("train", "epochs"), usual.epochs, f"objective {name_of(objective)}, {usual.source}"


def _knobs(value: Any, method: type[Method]) -> dict[str, Any]:
    """Knobs as the recipe has them, over those that the method's name stands for."""
    preset = variant_of(method)
    return {**(preset.knobs if preset else {}), **(value if isinstance(value, dict) else {})}


def of_the_laboratory(model: Any) -> bool:
    """Whether a model is a laboratory model by name, or by the configuration in its folder or run directory."""
    if not isinstance(model, (str, pathlib.Path)):
        return False
    if model in LAB_MODELS:
        return True
    folder = pathlib.Path(model).expanduser()
    files = (folder / part / "config.json" for part in ("model", "."))
    found = next((file for file in files if file.is_file()), None)
    return found is not None and '"holdfast_lab": true' in found.read_text(encoding="utf-8", errors="replace")


def generic_rate(optimizer: type[Method]) -> bool:
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
        return find(METHOD_AXES[key].plural, name) if isinstance(name, str) else None
    except UserError:
        return None


def dotted(path: Path) -> str:
    """`("train", "epochs")` as the user writes it."""
    return ".".join(map(str, path))
