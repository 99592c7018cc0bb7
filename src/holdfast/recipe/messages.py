"""Step 6 of reading a recipe: pydantic's complaints as what a setting must be, what it is, the nearest name."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from holdfast.axes.axis import BY_KEY
from holdfast.axes.method import Method
from holdfast.axes.registry import REGISTRY, find_method, name_of
from holdfast.core.spelling import LONGEST_NAME
from holdfast.recipe import peers
from holdfast.recipe.data_section import DataFile, RecipeSection
from holdfast.recipe.schema import Recipe, Stage
from holdfast.recipe.shorthand import chosen_class
from holdfast.recipe.tree import Path
from holdfast.recipe.yaml_writer import format_scalar

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

TYPE_WORDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "text",
    "bool": "true or false",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping of `key: value`",
    "model": "a mapping of `key: value`",
    "finite": "a finite number",
}
"""First word of pydantic's error type to what should have been given."""


REQUIRED = "(required)"
"""What stands where a setting has no default."""


BOUNDS = {"greater_than": "gt", "greater_than_equal": "ge", "less_than": "lt", "less_than_equal": "le"}
"""pydantic's error types of a number out of its range, and where they have the limit."""


MOST_NAMED = 20
"""Unknown settings for which the nearest name is looked for."""


BESIDE = 0.15
"""How much likelier a setting of the same section is meant than one elsewhere."""


class Complaint(str):
    """What is wrong with a setting in words, and the same as a kind with values, for pages in another language.

    Args:
        text: The words.
        kind: What is wrong.
        values: Its particulars.
    """

    kind: str
    values: Mapping[str, str]

    def __new__(cls, text: str, kind: str, **values: str) -> Complaint:
        self = super().__new__(cls, text)
        self.kind, self.values = kind, values
        return self


def explain_errors(error: ValidationError, full_data: dict[str, Any]) -> list[tuple[Path, str]]:
    """`(path, what is wrong)` for each wrong setting.

    Args:
        error: What validating `Recipe` raised.
        full_data: The mapping after shorthands, whose paths the error speaks of.
    """
    items_by_path: dict[Path, list[dict[str, Any]]] = {}
    for item in error.errors(include_url=False):
        items_by_path.setdefault(_real_path(item, full_data), []).append(dict(item))
    unknown_count = 0
    out = []
    for path, items in items_by_path.items():
        unknown = items[0]["type"] == "extra_forbidden"
        unknown_count += unknown
        many = unknown and (unknown_count > MOST_NAMED or len(str(path[-1])) > LONGEST_NAME)
        out.append(
            (path, Complaint("is not a setting", "unknown") if many else _format_problem(path, items, full_data))
        )
    return out


def _real_path(item: ErrorDetails, data: Any) -> Path:
    """The error's location without pydantic's own steps (names of union members)."""
    path: list[str | int] = []
    here = data
    for step in item["loc"]:
        if isinstance(step, str) and step.startswith("|"):  # the tag of a union's member
            continue
        last = item["type"] in ("missing", "extra_forbidden") and step == item["loc"][-1]
        is_item = isinstance(here, (list, tuple)) and isinstance(step, int)
        inside = is_item or (isinstance(here, dict) and step in here)
        if not inside and not last:
            break
        path.append(step)
        here = here[step] if inside else None
    return tuple(path)


def _format_problem(path: Path, items: list[dict[str, Any]], data: dict[str, Any]) -> str:
    """What is wrong with one setting, whose errors `items` are."""
    kind, value = items[0]["type"], format_value(items[0]["input"])
    if kind == "extra_forbidden":
        return _not_a_setting(path, data)
    if kind == "missing":
        steps, _, descriptions, _ = _find_scope(path, data)
        return Complaint(f"is missing: {descriptions.get('.'.join(steps), 'needed here')}", "missing")
    if kind == "value_error":
        return str(items[0]["ctx"]["error"])
    if kind == "literal_error":
        choices_text = items[0]["ctx"]["expected"].replace("'", "")
        names = choices_text.replace(" or ", ", ").split(", ")
        close = difflib.get_close_matches(str(items[0]["input"])[:LONGEST_NAME], names, n=1)
        text = f"must be {choices_text}, not {value}{f'; did you mean {close[0]}?' if close else ''}"
        return Complaint(text, "choice", choices=", ".join(names), value=value)
    if kind in ("model_type", "dict_type"):
        steps, _, descriptions, _ = _find_scope(path, data)
        start = ".".join((*steps, ""))
        names = [name.removeprefix(start) for name in descriptions if name.startswith(start)]
        if keys := ", ".join(f"`{name}`" for name in names if "." not in name):
            return Complaint(f"must be a mapping of {keys}, not {value}", "mapping", keys=keys, value=value)
    names = [name for item in items if (name := item["type"].partition("_")[0]) in TYPE_WORDS]
    if names:
        text = f"must be {' or '.join(dict.fromkeys(TYPE_WORDS[name] for name in names))}, not {value}"
        return Complaint(text, "type", expected=" ".join(dict.fromkeys(names)), value=value)
    message = items[0]["msg"].removeprefix("Input should be ").removeprefix("Value should ")
    text = f"must be {message}, not {value}"
    if kind not in BOUNDS:
        return text
    return Complaint(text, kind, limit=f"{items[0]['ctx'][BOUNDS[kind]]:g}", value=value)


def _not_a_setting(path: Path, data: dict[str, Any]) -> str:
    """What a name is that no setting has: another tool's, another method's knob, or nearly one of ours."""
    name = str(path[-1])
    if text := peers.INSTEAD.get(name):
        return f"is {text}" if text.startswith("not supported") else f"is not a setting here: {text}"
    if ":" in name:
        return "is not a setting; is a space missing after the colon?"
    return _knob_elsewhere(path, data) or _name_nearest(path, data)


def _knob_elsewhere(path: Path, data: dict[str, Any]) -> str:
    """ "full has no r (lora has); ...": for a knob of another method of the same axis; "" for other names."""
    steps, here, _, prefix = _find_scope(path, data)
    key, knob = steps[0], steps[-1]
    chosen = next((cls for at, cls in _find_chosen_classes(here) if at == key), None)
    if chosen is None or key == "curate" or len(steps) != 2:
        return ""
    axis = BY_KEY[key].plural
    if difflib.get_close_matches(knob, chosen.model_fields, n=1, cutoff=0.7):
        return ""
    names = [name for name in REGISTRY[axis] if knob in find_method(axis, name).model_fields]
    if not names:
        return ""
    have = f"{', '.join(names[:3])}{' and others' if len(names) > 3 else ''} {'has' if len(names) == 1 else 'have'}"
    return f"{name_of(chosen)} has no {knob} ({have}); set {prefix}{key}.name to {names[0]}, or leave {knob} out"


def format_value(value: Any) -> str:
    """A value in an error message: short, and as YAML would have it."""
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, (list, tuple)):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def describe_settings(data: dict[str, Any] | None = None, root: type[BaseModel] = Recipe) -> dict[str, str]:
    """Every dotted setting to its description, with the knobs of the methods chosen in `data`.

    Args:
        root: `Recipe`, or `Stage`. Of a recipe's stages only what the recipe does not have itself is listed.
    """
    out: dict[str, str] = {}

    def visit_section(model: type[BaseModel], prefix: str) -> None:
        for name, info in model.model_fields.items():
            if model is Stage is not root and name in Recipe.model_fields:
                continue
            out[prefix + name] = info.description or ""
            inner = section_of(info.annotation)
            if inner is not None and inner is not DataFile:  # as the files of data.train
                visit_section(inner, f"{prefix}{name}.")

    visit_section(root, "")
    for key, cls in _find_chosen_classes(data or {}):
        out[f"{key}.name"] = "Which one."
        out.update({f"{key}.{knob}": info.description or "" for knob, info in cls.model_fields.items()})
    return out


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section class behind a field's annotation (`X` or `X | None`), if it is one."""
    options = [getattr(o, "__origin__", o) for o in (annotation, *getattr(annotation, "__args__", ()))]
    models = [o for o in options if isinstance(o, type) and issubclass(o, BaseModel)]
    return next((m for m in models if not issubclass(m, Method)), None)


def find_field(key: str) -> FieldInfo:
    """The field of the schema behind a dotted setting of the recipe."""
    model: Any = Recipe
    *parents, last = key.split(".")
    for parent in parents:
        model = section_of(model.model_fields[parent].annotation)
    info: FieldInfo = model.model_fields[last]
    return info


def format_default(key: str) -> str:
    """The default of a dotted setting; empty for whole sections."""
    info = find_field(key)
    default = info.get_default(call_default_factory=True)
    if info.is_required():
        return "" if info.annotation is section_of(info.annotation) else REQUIRED
    if isinstance(default, RecipeSection):
        return ""
    return (
        default if isinstance(info.annotation, type) and issubclass(info.annotation, Method) else format_scalar(default)
    )


def _find_chosen_classes(data: dict[str, Any]) -> Iterator[tuple[str, type[Method]]]:
    """Recipe key and class of every method that is chosen in `data`."""
    for key, axis in BY_KEY.items():
        choices = data.get(key) if key in Stage.model_fields else None
        for choice in choices if axis.several and isinstance(choices, (list, tuple)) else (choices,):
            if cls := chosen_class(key, choice):
                yield key, cls


def _find_scope(path: Path, data: dict[str, Any]) -> tuple[list[str], dict[str, Any], dict[str, str], str]:
    """Where names are looked for, the recipe or a stage: the name there, its data, its settings, how names begin."""
    root: type[BaseModel] = Recipe
    prefix = ""
    if len(path) >= 3 and path[0] == "stages":
        prefix, data, path, root = f"stages.{path[1]}.", data["stages"][path[1]], path[2:], Stage
    return [step for step in path if isinstance(step, str)], data, describe_settings(data, root), prefix


def _name_nearest(path: Path, data: dict[str, Any]) -> Complaint:
    """ "...; did you mean X?": the setting whose last part, or whole name, is closest; those beside it win a tie."""
    steps, _, descriptions, prefix = _find_scope(path, data)
    names = {name: name for name in descriptions} | {
        alias: target
        for alias, (target, _) in peers.ALIASES.items()
        if target in descriptions and alias not in peers.TEXT_ONLY
    }
    full_name, parent = ".".join(steps), ".".join(steps[:-1])

    def name_similarity(name: str) -> tuple[float, int]:
        mine, theirs = steps[-1].lower(), name.rpartition(".")[2].lower()
        last = difflib.SequenceMatcher(None, mine, theirs).ratio()
        whole = difflib.SequenceMatcher(None, full_name.lower(), name.lower()).ratio()
        beside = bool(parent) and names[name].rpartition(".")[0] == parent
        if beside and min(len(mine), len(theirs)) > 3 and (mine in theirs or theirs in mine):
            last = max(last, 0.9)  # `target` beside `target_modules` means that, and no `target` elsewhere
        return max(last, whole) + BESIDE * beside, -len(name)

    best = max(names, key=name_similarity)
    if name_similarity(best)[0] >= 0.7:
        near = f"{prefix}{names[best]}"
        return Complaint(f"is not a setting; did you mean {near}?", "unknown_near", near=near)
    beside = [name.rpartition(".")[2] for name in descriptions if name.rpartition(".")[0] == parent]
    inside = f" in {prefix}{parent}".rstrip(".") if prefix + parent else ""
    if not beside:
        return Complaint("is not a setting", "unknown")
    names_beside = ", ".join(beside)
    return Complaint(f"is not a setting; known{inside}: {names_beside}", "unknown_among", known=names_beside)
