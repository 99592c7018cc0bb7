"""Recipes from files and the command line: every error at once, each with its line and the nearest valid name.

Relative paths in a recipe are looked for in the current directory first, then in the recipe's own folder.
"""

from __future__ import annotations

import glob
import inspect
import pathlib
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from pydantic import ValidationError

from holdfast.axes.method import Method
from holdfast.core import in_memory
from holdfast.core.safe_text import printable, unusable_texts
from holdfast.errors import UserError, UserErrors
from holdfast.recipe import peers, yaml_reader, yaml_writer
from holdfast.recipe.messages import explain
from holdfast.recipe.overrides import COMMAND_LINE, override, replaced
from holdfast.recipe.schema import Recipe, Train
from holdfast.recipe.shorthand import METHODS, Filled, Path, dotted, expand
from holdfast.recipe.stages import (
    BASE,
    OF_STAGE,
    OF_STAGES,
    axes_of,
    entries,
    fill_in,
    read_aliases,
    written,
)

MOST_PROBLEMS = 50
"""Problems of one recipe that are listed."""
LONGEST_PROBLEM = 2000
"""Characters of one of them."""


@dataclass(frozen=True, slots=True)
class Resolved:
    """A recipe, where each of its settings came from, and what the user should know about how it was read.

    Args:
        recipe: The validated recipe.
        sources: Dotted setting to "recipe.yaml:7", "command line", "method s3ft", "derived: ...", "paper" or "default".
        notes: One line each: Hugging Face names that were translated, files found beside the recipe.
        name: What to call the recipe in messages (its file name).
    """

    recipe: Recipe
    sources: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    name: str = "recipe"


def read_recipe(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> Resolved:
    """Read a recipe file, or the `resolved.yaml` of a run directory, with `a.b=value` overrides.

    Raises:
        UserError: One line per problem, all at once: `recipe.yaml:7: train.learning_rat is not a setting; ...`.
    """
    file = pathlib.Path(path)
    if file.is_dir() and not (file / "resolved.yaml").exists():
        raise UserError(f"{path}: is a directory without a run in it; give a recipe file, or the directory of a run")
    if file.is_dir():
        file = file / "resolved.yaml"
    if not file.exists():
        near = sorted(p.name for p in file.parent.glob("*.y*ml")) if file.parent.is_dir() else []
        raise UserError(
            f"{path}: no such recipe"
            + (f"; here are {', '.join(near[:5])}" if near else "; `holdfast init` writes one")
        )
    with file.open("rb") as handle:  # which may be a pipe, or a device without an end
        raw = handle.read(4 * yaml_reader.LARGEST + 1)
    if len(raw) > 4 * yaml_reader.LARGEST:
        raise yaml_reader.too_large(str(file))
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    data, lines, problems = yaml_reader.parse(text, str(file))
    if data is None:
        raise UserError(f"{file}: empty recipe; `holdfast init` writes one to start from")
    if not isinstance(data, dict):
        raise UserError(f"{file}:{lines[()]}: a recipe is a mapping of `key: value` lines")
    labels = {where: f"{file}:{line}" for where, line in lines.items() if where}
    return resolve(data, overrides, labels, problems, file.parent, str(file))


def as_resolved(
    value: Resolved | Recipe | dict[str, Any] | str | pathlib.Path, overrides: Sequence[str] = ()
) -> Resolved:
    """Whatever the Python API is given as a recipe: a file, a mapping, a `Recipe`; overrides as on the command line."""
    if isinstance(value, Resolved) and not overrides:
        return value
    if isinstance(value, (str, pathlib.Path)):
        return read_recipe(value, overrides)
    if isinstance(value, Resolved):
        given = value.recipe.given()
        return resolve(given, overrides, _labels_of(value, given), name=value.name)
    return resolve(value.given() if isinstance(value, Recipe) else value, overrides)


def resolve(
    data: dict[str, Any],
    overrides: Sequence[str] = (),
    labels: dict[Path, str] | None = None,
    problems: Sequence[tuple[Path, str]] = (),
    folder: pathlib.Path | None = None,
    name: str = "recipe",
) -> Resolved:
    """The steps from a plain mapping to a recipe: overrides, aliases, paths, shorthand, validation.

    Args:
        data: The nested mapping as the user wrote it.
        overrides: `a.b=value` texts, the value in YAML.
        labels: Path to where it stands ("recipe.yaml:7"); what is missing is called by `name`.
        problems: Found already.
        folder: Relative paths that are not in the current directory are looked for here.
        name: The recipe's name in messages.
    Raises:
        UserError: All problems, one per line.
    """
    labels = dict(labels or {})
    labels.setdefault((), name)
    found = list(problems)
    read = read_aliases(override(data, overrides, labels, found))
    labels.update({new: place(labels, old) for new, old in read.moved.items()})
    found += read.problems
    notes = [f"{place(labels, where)}: {dotted(where)} {text}" for where, text in read.notes]
    given = read.data
    if unusable := unusable_texts(given):
        raise UserErrors("\n".join(_sorted_lines(unusable, labels, given)))
    if folder is not None:
        in_memory.offer_copies(folder, given)
        notes += _find_beside(given, folder)
    filled = fill_in(given)
    found += filled.problems + _without_effect(labels, filled)
    recipe = _validated(given, filled, found)
    if found or recipe is None:
        lines = [*peers.introduction(data, read.moved, name), *_sorted_lines(found, labels, given)]
        raise UserErrors("\n".join(lines))
    filled.origins |= read.origins
    sources = _sources(recipe, given, labels, filled)
    return Resolved(recipe, sources, (*notes, *_epochs_not_used(recipe, sources)), name)


def _epochs_not_used(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """A note for each place that says epochs where max_steps is said as well."""
    parts = [("", recipe), *((f"stages.{i}.", stage) for i, stage in enumerate(recipe.stages))]
    notes: dict[tuple[str, str], str] = {}
    for at, part in parts:
        train = part.train
        epochs, steps = (sources.get(f"{at}train.{key}", "default") for key in ("epochs", "max_steps"))
        # As the resolved recipe of a run spells it out.
        usual = train.epochs in (Train.model_fields["epochs"].default, part.objective.usual.epochs)
        if train.max_steps is not None and not usual and is_written(epochs) and is_written(steps):
            text = f"train.epochs {train.epochs:g} is not used: train.max_steps {train.max_steps} goes before it"
            notes.setdefault((epochs, steps), f"{epochs}: {text}")
    return list(notes.values())


def is_written(source: str) -> bool:
    """Whether a setting with this source was given by the user, not by a default, a method or another setting."""
    return source not in ("default", "paper") and not source.startswith(("derived: ", "method "))


def _validated(given: dict[str, Any], filled: Filled, found: list[tuple[Path, str]]) -> Recipe | None:
    try:
        return Recipe.model_validate(given, context={"filled": filled})
    except ValidationError as error:
        problems = explain(error, given, filled.data)
        # What the recipe says wrong for all stages, it says wrong itself; what it has from a stage is the stage's.
        own = [p for p in problems if p[0][:1] != ("stages",) and not _of_stage(p[0], filled)]
        places, texts = {path for path, _ in own}, {text for path, text in own if not path}
        for path, text in (problem for problem in problems if problem[0][:1] == ("stages",)):
            at = written(filled.moved, path) if _was_given(filled.data, path) else path
            if at not in places and text not in texts:
                own.append((at, text))
        found += own
        return None


def _of_stage(path: Path, filled: Filled) -> bool:
    return any(filled.origins.get(path[:n], "").startswith(OF_STAGE) for n in range(1, len(path) + 1))


def _without_effect(labels: dict[Path, str], filled: Filled) -> list[tuple[Path, str]]:
    """Settings of the command line that are only for the stages, and that each of these has given itself."""
    numbers = range(len(filled.data.get("stages", ())))
    return [
        (path, "changes no stage, because each says this itself; put stages.NAME. before it")
        for path, label in labels.items()
        if numbers and label == COMMAND_LINE and path[0] in OF_STAGES and path != ("method",)
        and all(written(filled.moved, ("stages", number, *path)) != path for number in numbers)
    ]  # fmt: skip


def place(labels: dict[Path, str], path: Path) -> str:
    """Where a path stands, or the nearest part of the recipe around it."""
    while path not in labels:
        path = path[:-1]
    return labels[path]


def _sorted_lines(found: list[tuple[Path, str]], labels: dict[Path, str], given: dict[str, Any]) -> list[str]:
    written = partial(_written, given=given)
    lines = {(place(labels, written(p)), _sentence(dotted(written(p)), text)) for p, text in found}

    def order(line: tuple[str, str]) -> tuple[Any, ...]:
        natural = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", line[0])]
        return line[0] == COMMAND_LINE, natural, line[1]

    texts = [printable(f"{label}: {sentence}", one_line=True) for label, sentence in sorted(lines, key=order)]
    texts = [text if len(text) <= LONGEST_PROBLEM else f"{text[:LONGEST_PROBLEM]}..." for text in texts]
    more = len(texts) - MOST_PROBLEMS
    return texts[:MOST_PROBLEMS] + ([f"and {more:,} more problems like these"] if more > 0 else [])


def _sentence(key: str, text: str) -> str:
    """`train.epochs must be a number`, but `tuner: loraa is not one of the tuners`, whose text has its own subject."""
    own_subject = text.split(" ", 1)[0] not in ("is", "must", "means", "cannot")
    return f"{key}: {text}" if key and own_subject else f"{key} {text}".strip()


def _find_beside(given: dict[str, Any], folder: pathlib.Path) -> list[str]:
    """Replace, in place, relative paths that only exist in the recipe's folder; a note for each."""
    notes: list[str] = []

    def beside(entry: Any) -> Any:
        if isinstance(entry, dict):
            return {key: beside(value) if key == "path" else value for key, value in entry.items()}
        if not isinstance(entry, str) or not entry:
            return entry
        prefix, path = ("text:", entry[5:]) if entry.startswith("text:") else ("", entry)
        candidate = folder / path
        if pathlib.Path(path).is_absolute() or _there(path) or not _there(str(candidate)) or path == "..":
            return entry
        notes.append(f"{path} is read from {candidate}")
        return f"{prefix}{candidate}"

    def visit(part: Any, keys: Sequence[str]) -> None:
        if isinstance(part, dict):
            part.update(
                {
                    k: [beside(v) for v in part[k]] if isinstance(part[k], list) else beside(part[k])
                    for k in keys
                    if k in part
                }
            )

    for part in (given, *(entry.own for entry in entries(given)[0])):
        if part is given or part.get("model") != BASE:
            visit(part, ["model"])
        data, curate = part.get("data"), part.get("curate")
        visit(data, ["train", "test"])
        visit(data.get("replay") if isinstance(data, dict) else None, ["path"])
        visit(part.get("evaluate"), ["target", "keep"])
        for curator in curate if isinstance(curate, list) else [curate]:
            visit(curator, ["path"])
    return notes


def _there(name: str) -> bool:
    """Whether a name means something on the disk: a path, one with a split behind a colon, or a pattern."""
    whole = pathlib.Path(name).exists() or (":" in name and pathlib.Path(name.rpartition(":")[0]).exists())
    return whole or (glob.has_magic(name) and any(glob.iglob(name, recursive=True)))


def _sources(recipe: Recipe, given: dict[str, Any], labels: dict[Path, str], filled: Filled) -> dict[str, str]:
    """Dotted leaf to where its value came from."""
    out: dict[str, str] = {}
    for path in _leaves(recipe.model_dump(mode="json")):
        at = _written(written(filled.moved, path), given)
        if path[0] == "stages":
            source = _origin(path, filled) or (place(labels, at) if _was_given(filled.data, path) else None)
        else:
            source = place(labels, at) if _was_given(given, at) else filled.origins.get(path)
        out[dotted(path)] = source or _default_source(_chosen(recipe, path), str(path[-1]))
    return out


def _origin(path: Path, filled: Filled) -> str | None:
    """The reason that a stage's value was filled in for, by itself or with what it lies in; `None`: it was written."""
    if _was_given(filled.data, path):
        for n in range(len(path), 2, -1):
            if path[:n] in filled.origins or path[:n] in filled.moved:
                return filled.origins.get(path[:n])
    return None


def _chosen(recipe: Recipe, path: Path) -> Any:
    """The method, section or value at a recipe key, the part of the recipe that has the knob at `path`."""
    part: Any = recipe
    if path[0] == "stages":
        part, path = recipe.stages[int(path[1])], path[2:]
    found = getattr(part, str(path[0]))
    return found[int(path[1])] if path[0] == "curate" and len(path) > 1 else found


def _leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
        for i, inner in enumerate(value):
            yield from _leaves(inner, (*path, i))
    else:
        yield path


def _written(path: Path, given: dict[str, Any]) -> Path:
    """The path as the user wrote it: a lone curator has no index."""
    at, rest = (path[:2], path[2:]) if path[:1] == ("stages",) else ((), path)
    part: Any = given
    if at:
        part = next((entry.own for entry in entries(given)[0] if entry.at == at), {})
    lone = rest[:2] == ("curate", 0) and not isinstance(part.get("curate"), (list, tuple))
    return (*at, "curate", *rest[2:]) if lone else path


def _was_given(here: Any, path: Path) -> bool:
    for step in path:
        if isinstance(here, str) and step == "name":
            return True
        if isinstance(here, Method):
            return step == "name" or step in here.model_fields_set
        listed = isinstance(here, (list, tuple)) and isinstance(step, int)
        if not (listed or (isinstance(here, dict) and step in here)):
            return False
        here = here[step]
    return True


def _default_source(method: Any, knob: str) -> str:
    """A method's own knobs come from its paper; those it shares with its axis, and settings, are plain defaults."""
    owner = next((cls for cls in type(method).__mro__ if knob in inspect.get_annotations(cls)), object)
    return "paper" if vars(owner).get("paper") else "default"


def resolved_yaml(resolved: Resolved) -> str:
    """Every setting with its value and where it came from; itself a recipe that gives the same `Recipe`."""
    from holdfast import __version__

    lines = yaml_writer.emit(
        resolved.recipe.model_dump(mode="json"),
        lambda path: resolved.sources.get(dotted(path), ""),
    )
    head = f"# Resolved by holdfast {__version__}: every setting of the run and where it came from. It is a recipe too."
    return "\n".join([head, *lines, ""])


def for_method(resolved: Resolved, method: str, among: Sequence[str], **changes: Any) -> Resolved:
    """The same recipe with another `method`, as `compare` needs it.

    On every axis that any of the compared methods chooses, the recipe's own choice gives way (its knobs stay where the
    names agree); other axes, and curators that add rows instead of choosing them (`replay`), stay. Derived defaults are
    derived anew.

    Args:
        resolved: The recipe compared on.
        method: The method to switch to.
        among: All compared methods.
        changes: Dotted settings with `__` for dots, set last: `train__seed=1, output="..."`.
    """
    given = resolved.recipe.given()
    chosen = expand(method)
    varied = {key for name in (*among, resolved.recipe.method) for key in axes_of(name)} | {"stages"}
    named = {
        name for choices in METHODS.values() for key, name in choices.items() if key == "curate" and name != "replay"
    }.union(*(expand(name).get("curate", []) for name in (*among, resolved.recipe.method))) - {"replay"}
    for key in varied & set(given):
        own = given.pop(key)
        if key == "stages":
            continue
        if key == "curate":
            by_name = {item["name"]: item for item in own}
            kept = [item for item in own if item["name"] not in named]
            given["curate"] = [by_name.get(name, {"name": name}) for name in chosen.get("curate", [])] + kept
        elif own["name"] in chosen.get(key, []):
            given[key] = own
    labels = _labels_of(resolved, given)
    for key, value in {"method": method, **changes}.items():
        path: Path = tuple(key.split("__"))
        given = replaced(given, path, value, path)
        labels[path] = "compare"
    return resolve(given, labels=labels, name=resolved.name)


def _labels_of(resolved: Resolved, given: dict[str, Any]) -> dict[Path, str]:
    """Where the given settings of a resolved recipe stand, to resolve them once more."""
    names = [stage.name for stage in resolved.recipe.stages]
    known = {}
    for path in _leaves(given):
        named = path[0] == "stages" and path[1] in names  # changes to a preset's stages
        at = ("stages", names.index(str(path[1])), *path[2:]) if named else path
        known[path] = resolved.sources.get(dotted(at), resolved.name)
    return {(): resolved.name, **known}
