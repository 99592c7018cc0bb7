"""A recipe being written: as text, and as a form made from its schema; each changes the other.

A page sends both, and the text as it was when the page was made. What differs from that, in either, is what the reader
changed; all else stays as it is, also what no field shows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from holdfast.axes.axis import BY_KEY, METHOD_AXES
from holdfast.axes.registry import method_names
from holdfast.board.own_code import find_outside_places, find_own_code
from holdfast.errors import Mistake, UserError, UserErrors, list_mistakes
from holdfast.pipeline.run_dir import output_directory
from holdfast.recipe.loader import ResolvedRecipe, read_recipe_text
from holdfast.recipe.messages import REQUIRED, describe_settings, find_field, format_default
from holdfast.recipe.shorthand import chosen_class
from holdfast.recipe.tree import format_path, spell_out_names
from holdfast.recipe.yaml_reader import parse_yaml
from holdfast.recipe.yaml_writer import format_scalar, format_yaml_lines

NAME = "recipe.yaml"
"""What the draft is called in messages, as the file it will be."""
FIRST = ("model", "method", "data.train", "data.test", "evaluate.target", "evaluate.keep", "output")
"""Settings that nearly every recipe gives."""
LEFT_OUT = ("stages", "search")
"""Settings for which there is the text: lists of whole recipes."""
PROBLEM = re.compile(r"recipe\.yaml(?::\d+)?: ([A-Za-z_][\w.]*)")
START = """\
model: lab
method: s3ft
data:
  train: lab:story
  limit: 400
optimizer:
  learning_rate: 1e-3
train:
  epochs: 5
  batch_tokens: 2048
output: runs/first
"""
"""What a new draft begins with: a run that takes a minute or two, needs nothing, and ends better than it began."""
Tree = dict[str, Any]


@dataclass(frozen=True, slots=True)
class FormField:
    """A setting in the form.

    Args:
        key: Its dotted name.
        value: As its text would stand in YAML; "" where it is not given.
        about: What it does.
        default: What it is where it is not given.
        choices: The only values it may have; empty where it may have others.
        problem: What is wrong with it.
    """

    key: str
    value: str
    about: str
    default: str
    choices: tuple[str, ...] = ()
    problem: Mistake | None = None

    @property
    def section(self) -> str:
        """The part of the recipe it stands in; "" for those that come first."""
        return "" if self.key in FIRST else self.key.partition(".")[0] if "." in self.key else "more"


@dataclass(slots=True)
class RecipeDraft:
    """A recipe being written.

    Args:
        text: Its YAML.
        data: What that says; what an earlier text said where this one is no YAML.
        problems: Its mistakes, in lines as the command line has them.
        resolved_recipe: The recipe, where nothing is wrong.
        own_code: What of it would run code of the user's own; then it is not resolved here.
        base: The text of `data`.
    """

    text: str
    data: Tree
    problems: list[Mistake] = field(default_factory=list)
    resolved_recipe: ResolvedRecipe | None = None
    own_code: list[str] = field(default_factory=list)
    base: str = ""

    @classmethod
    def from_text(cls, text: str, root: Path, earlier: Tree | None = None) -> RecipeDraft:
        """A draft with all that is wrong with it.

        Args:
            root: Nothing of it may lie outside of this directory.
            earlier: What the form shows where the text cannot be read.
        """
        try:
            data = parse_text(text)
        except UserError as error:
            return cls(text, earlier or {}, [*list_mistakes(error)], base=write_text(earlier or {}))
        draft = cls(text, data, own_code=find_own_code(data), base=text)
        outside = find_outside_places(data, root)
        draft.problems += [
            Mistake(
                f"{NAME}: {place}: lies outside of the board's directory; move it into {root}",
                NAME,
                place,
                "outside",
                {"root": str(root)},
            )
            for place in outside
        ]
        if draft.problems or draft.own_code:
            return draft
        try:
            draft.resolved_recipe = read_recipe_text(text, NAME, folder=root)
        except UserError as error:
            draft.problems += list_mistakes(error)
        return draft

    def list_fields(self) -> list[FormField]:
        """The form: every setting, with the knobs of the chosen methods."""
        wrong: dict[str, Mistake] = {}
        for mistake in self.problems:
            if match := PROBLEM.match(mistake.line):
                wrong.setdefault(match[1].rstrip("."), mistake)
        values = read_values(self.data)
        return [
            FormField(key, values.get(key, ""), about, *_default_and_choices(key, self.data), wrong.get(key))
            for key, about in list_settings(self.data).items()
        ]

    def choose_output(self, root: Path) -> Path:
        """The directory that it would run in.

        Raises:
            UserError: If that is not known, or outside.
        """
        if self.resolved_recipe is not None:
            path = root / output_directory(self.resolved_recipe.recipe)
        elif isinstance(self.data.get("output"), str) and "{" not in self.data["output"]:
            path = root / self.data["output"]
        else:
            text = f"{NAME}: output: write a directory without braces, as the recipe runs code of its own"
            raise UserErrors(text, [Mistake(text, NAME, "output", "braces")])
        path = path.resolve()
        if (
            not path.is_relative_to(root)
            or path == root
            or any(part.startswith(".") for part in path.relative_to(root).parts)
        ):
            text = f"{NAME}: output: {path} lies outside of the board's directory, or is hidden in it"
            raise UserErrors(text, [Mistake(text, NAME, "output", "hidden")])
        return path


def parse_text(text: str) -> Tree:
    """What a recipe's text says, with names of methods spelled_data out.

    Raises:
        UserError: If it is no YAML, or no mapping.
    """
    tree, problems = parse_yaml(text, NAME)
    if problems:
        raise UserError("\n".join(f"{NAME}: {format_path(path)} {what}" for path, what in problems))
    if tree.value is None:
        return {}
    if not tree.is_mapping:
        raise UserError(f"{NAME}: a recipe is a mapping of `key: value` lines")
    data: Tree = tree.plain_data()
    return data


def find_code_of_text(text: str) -> list[str]:
    """What of a recipe's text would run code of the user's own; nothing where it cannot be read, as no run reads it."""
    try:
        return find_own_code(parse_text(text))
    except UserError:
        return []


def write_text(data: Tree) -> str:
    """The text that says some data."""
    return "\n".join([*format_yaml_lines(data, lambda path: ""), ""]) if data else ""


def _spell_out(data: Tree) -> Tree:
    """Data with `{name: ...}` for the names of methods."""
    from holdfast.recipe.tree import Node

    tree = Node.from_data(data, NAME)
    spell_out_names(tree)
    plain: Tree = tree.plain_data()
    return plain


def list_settings(data: Tree) -> dict[str, str]:
    """The settings of the form with what they do, those that nearly every recipe gives first."""
    spelled_data = _spell_out(data)
    chosen = {key: value for key, value in spelled_data.items() if key in BY_KEY and not _names_own_class(value)}
    about = describe_settings(chosen)
    parents = {key.rpartition(".")[0] for key in about}
    keys = [
        key for key in about
        if (key not in parents or key in FIRST) and not key.startswith(tuple(f"{first}." for first in FIRST))
        and key.partition(".")[0] not in LEFT_OUT
        and not (key.partition(".")[0] in BY_KEY and BY_KEY[key.partition(".")[0]].several and "." in key)
    ]  # fmt: skip
    several = [key for key, axis in BY_KEY.items() if axis.several and key in about and key not in LEFT_OUT]
    single = [f"{key}.name" for key, axis in BY_KEY.items() if not axis.several and key in about]
    texts = {key: about.get(key) or about.get(key.removesuffix(".name"), "") for key in [*keys, *several, *single]}
    for key in single:
        texts[key] = about[key.removesuffix(".name")]
        texts.pop(key.removesuffix(".name"), None)
    first = [key for key in FIRST if key in texts]
    order = [*describe_settings(), *texts]
    rest = sorted((key for key in texts if key not in first), key=lambda key: _find_rank(key, order))
    return {key: texts[key] for key in [*first, *rest]}


def _find_rank(key: str, order: Sequence[str]) -> tuple[int, int]:
    """Where a setting stands in the form: beside those of its part, the name of a method before its knobs."""
    return order.index(key.partition(".")[0]) if key.partition(".")[0] in order else len(order), order.index(key)


def _names_own_class(value: Any) -> bool:
    """Whether a choice names a class of the user's own, which looking at its knobs would import."""
    return bool(find_own_code({"name": value.get("name") if isinstance(value, dict) else value}))


def read_values(data: Tree) -> dict[str, str]:
    """Dotted setting to its value as a field shows it."""
    values: dict[str, str] = {}
    spelled_data = _spell_out(data)
    for key in list_settings(data):
        here: Any = spelled_data
        for step in key.split("."):
            here = here.get(step) if isinstance(here, dict) else None
        if here is not None:
            values[key] = _show_value(here)
    return values


def _show_value(value: Any) -> str:
    """A value as one types it: a text without quotes where it needs none."""
    if isinstance(value, str):
        try:
            if parse_yaml(value, NAME)[0].plain_data() == value and value.strip() == value:
                return value
        except UserError:
            pass
    return format_scalar(value)


def change_data(data: Tree, before: Mapping[str, str], fields: Mapping[str, str]) -> tuple[Tree, list[Mistake]]:
    """Data with what was changed in a form, and what of that cannot be read.

    Args:
        before: What the fields showed.
        fields: What they hold now.
    """
    changes = {key: text.strip() for key, text in fields.items() if text.strip() != before.get(key, "").strip()}
    if not changes:
        return data, []
    out, problems = _spell_out(data), list[Mistake]()
    for key, text in changes.items():
        try:
            value = parse_yaml(text, NAME)[0].plain_data() if text else None
        except UserError as error:
            problems.append(Mistake(f"{NAME}: {key}: {str(error).partition(': ')[2]}", NAME, key))
            continue
        _put_value(out, key.split("."), value)
    return {key: _shorten_name(key, value) for key, value in out.items()}, problems


def _put_value(data: Tree, steps: list[str], value: Any) -> None:
    """Set a value at a place, or remove what is there; mappings that become empty go too."""
    *parents, last = steps
    if parents and len(parents) == 1 and last == "name" and parents[0] in BY_KEY:
        if value is None:
            data.pop(parents[0], None)
        else:
            data[parents[0]] = {"name": value}  # another method has other knobs
        return
    way = [data]
    for step in parents:
        inner = way[-1].get(step)
        if not isinstance(inner, dict):
            if value is None:
                return
            inner = way[-1][step] = {"path": inner} if isinstance(inner, str) else {}
        way.append(inner)
    if value is None:
        way[-1].pop(last, None)
        for step, outer in zip(reversed(parents), reversed(way[:-1]), strict=True):
            if not outer[step]:
                del outer[step]
    else:
        way[-1][last] = value


def _shorten_name(key: str, value: Any) -> Any:
    """`lora` for `{name: lora}`."""
    if key in BY_KEY and isinstance(value, dict) and value.keys() == {"name"}:
        return value["name"]
    if key in BY_KEY and isinstance(value, list):
        return [_shorten_name(key, item) for item in value]
    return value


def _default_and_choices(key: str, data: Tree) -> tuple[str, tuple[str, ...]]:
    """What a setting is where it is not given, and what it may be."""
    section, _, knob = key.partition(".")
    axis = BY_KEY.get(section)
    if axis is None or axis.several:
        return ("" if format_default(key) == REQUIRED else format_default(key)), _choices_of(find_field(key).annotation)
    if knob == "name":
        return axis.default or "", tuple(method_names(axis.plural))
    choice = _spell_out(data).get(section)
    cls = None if _names_own_class(choice) else chosen_class(section, choice)
    if cls is None or knob not in cls.model_fields:
        return "", ()
    info = cls.model_fields[knob]
    default = "" if info.is_required() else format_scalar(info.get_default(call_default_factory=True))
    return default, _choices_of(info.annotation)


def _choices_of(annotation: Any) -> tuple[str, ...]:
    """The values that a type allows, where they can be counted."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(format_scalar(value) for value in get_args(annotation))
    return ()


@cache
def list_methods() -> tuple[str, ...]:
    """Names that `method` may be, for a field that suggests them."""
    presets = method_names("presets")
    return (*presets, *(name for axis in METHOD_AXES.values() for name in method_names(axis.plural)))
