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
from typing import Any

from pydantic import ValidationError

from holdfast.core import in_memory
from holdfast.core.safe_text import printable, unusable_texts
from holdfast.errors import UserError, UserErrors
from holdfast.recipe import peers, yaml_reader, yaml_writer
from holdfast.recipe.aliases import Aliases
from holdfast.recipe.messages import explain
from holdfast.recipe.overrides import COMMAND_LINE, override, put
from holdfast.recipe.schema import Recipe, Train
from holdfast.recipe.shorthand import METHODS, expand
from holdfast.recipe.stages import BASE, OF_STAGE, OF_STAGES, axes_of, fill_in
from holdfast.recipe.tree import Node, Path, Problems, dotted

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
    tree = Node.of(data, lambda path: f"{file}:{lines[path]}" if path else str(file))
    return _resolve(tree, overrides, str(file), problems, file.parent)


def as_resolved(
    value: Resolved | Recipe | dict[str, Any] | str | pathlib.Path, overrides: Sequence[str] = ()
) -> Resolved:
    """Whatever the Python API is given as a recipe: a file, a mapping, a `Recipe`; overrides as on the command line."""
    if isinstance(value, Resolved) and not overrides:
        return value
    if isinstance(value, (str, pathlib.Path)):
        return read_recipe(value, overrides)
    if isinstance(value, Resolved):
        return _resolve(_given_tree(value, value.recipe.given()), overrides, value.name)
    return resolve(value.given() if isinstance(value, Recipe) else value, overrides)


def resolve(data: dict[str, Any], overrides: Sequence[str] = (), name: str = "recipe") -> Resolved:
    """A recipe from a plain mapping.

    Args:
        data: The nested mapping as the user wrote it.
        overrides: `a.b=value` texts, the value in YAML.
        name: The recipe's name in messages.
    Raises:
        UserError: All problems, one per line.
    """
    return _resolve(Node.of(data, name), overrides, name)


def _resolve(
    tree: Node, overrides: Sequence[str], name: str, known: Problems | None = None, folder: pathlib.Path | None = None
) -> Resolved:
    """The steps from a tree to a recipe: overrides, aliases, paths, shorthands with presets and stages, validation.

    Args:
        tree: The recipe as it was written; it is changed.
        known: Problems seen before.
        folder: Relative paths that are not in the current directory are looked for here.
    """
    top, problems = tree.plain(), list(known or [])
    override(tree, overrides, problems)
    written = tree.copy()
    aliases = Aliases(tree, problems)
    notes = aliases.notes
    if unusable := unusable_texts(tree.plain()):
        raise UserErrors("\n".join(_sorted_lines(unusable, tree, written)))
    if folder is not None:
        in_memory.offer_copies(folder, tree.plain())
        notes += _find_beside(tree, folder)
    filled = fill_in(tree, problems)
    problems += _overrides_without_effect(tree, filled)
    recipe = _validated(filled, problems)
    if problems or recipe is None:
        lines = [*peers.introduction(top, aliases.moves, name), *_sorted_lines(problems, tree, written)]
        raise UserErrors("\n".join(lines))
    sources = _sources(recipe, filled)
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


def _validated(filled: Node, problems: Problems) -> Recipe | None:
    try:
        return Recipe.model_validate(filled)
    except ValidationError as error:
        wrong = explain(error, filled.plain())
        # What the recipe says wrong for all stages, it says wrong itself; what it has from a stage is the stage's.
        own = [
            (_place(filled, path), text)
            for path, text in wrong
            if path[:1] != ("stages",) and not filled.source_around(path).startswith(OF_STAGE)
        ]
        places, texts = {path for path, _ in own}, {text for path, text in own if not path}
        for path, text in (problem for problem in wrong if problem[0][:1] == ("stages",)):
            at = _place(filled, path)
            if at not in places and text not in texts:
                own.append((at if filled.find(path) else path, text))
        problems += own
        return None


def _place(filled: Node, path: Path) -> Path:
    """Where the user wrote, or would write, the value at a path: of a method's only curator without a number."""
    at = path[:2] if path[:1] == ("stages",) else ()
    curators = filled.find((*at, "curate"))
    brought = path[len(at) : len(at) + 2] == ("curate", 0) and curators is not None and curators.written is None
    return filled.place_of(path, (*at, "curate", *path[len(at) + 2 :]) if brought else path)


def _overrides_without_effect(tree: Node, filled: Node) -> Problems:
    """Settings of the command line that are only for the stages, and that each of these has given itself."""
    stages = filled.value["stages"].value if "stages" in filled.value else []

    def unused(node: Node, path: Path) -> Iterator[Path]:
        if node.source != COMMAND_LINE:
            for key, inner in node.parts().items():
                yield from unused(inner, (*path, key))
        elif all(stage.place_of(path, ()) != node.written for stage in stages):
            yield path

    return [
        (path, "changes no stage, because each says this itself; put stages.NAME. before it")
        for key in OF_STAGES
        if stages and key in tree.value and key != "method"
        for path in unused(tree.value[key], (key,))
    ]


def _sorted_lines(problems: Problems, tree: Node, written: Node) -> list[str]:
    """The lines to print: of each problem where it stands, in the order of the recipe.

    Args:
        tree: The recipe with aliases read.
        written: The recipe before, which still has the places of other tools' names.
    """

    def source(path: Path) -> str:
        return (tree if tree.find(path) else written).source_around(path)

    lines = {(source(path), _sentence(dotted(path), text)) for path, text in problems}

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


PATHS = ("data.train", "data.test", "data.replay", "evaluate.target", "evaluate.keep", "curate")
"""Settings that hold paths: as a text, as the `path` of a mapping, or as a list of either."""


def _find_beside(tree: Node, folder: pathlib.Path) -> list[str]:
    """Replace, in place, relative paths that only exist in the recipe's folder; a note for each."""
    notes: list[str] = []
    stages = tree.value["stages"].parts().values() if "stages" in tree.value else ()
    for part in (tree, *stages):
        base = part is not tree and part.plain("model") == BASE
        for setting in PATHS if base else ("model", *PATHS):
            if (node := part.find(tuple(setting.split(".")))) is None:
                continue
            for text in _texts(node, only_mappings=setting in ("curate", "data.replay")):
                prefix, path = ("text:", text.value[5:]) if text.value.startswith("text:") else ("", text.value)
                candidate = folder / path
                if path == ".." or pathlib.Path(path).is_absolute() or _there(path) or not _there(str(candidate)):
                    continue
                notes.append(f"{path} is read from {candidate}")
                text.value = f"{prefix}{candidate}"
    return notes


def _texts(node: Node, only_mappings: bool) -> Iterator[Node]:
    """The nodes that may hold a path: itself, its `path`, or those of the items of a list."""
    for item in node.value if node.is_list else [node]:
        text = item.value.get("path") if item.is_mapping else None if only_mappings else item
        if text is not None and isinstance(text.value, str) and text.value:
            yield text


def _there(name: str) -> bool:
    """Whether a name means something on the disk: a path, one with a split behind a colon, or a pattern."""
    whole = pathlib.Path(name).exists() or (":" in name and pathlib.Path(name.rpartition(":")[0]).exists())
    return whole or (glob.has_magic(name) and any(glob.iglob(name, recursive=True)))


def _sources(recipe: Recipe, filled: Node) -> dict[str, str]:
    """Dotted leaf to where its value came from."""
    out: dict[str, str] = {}
    for path in yaml_writer.leaves(recipe.model_dump(mode="json")):
        source = filled.source_of(path)
        out[dotted(path)] = _default_source(_chosen(recipe, path), str(path[-1])) if source is None else source
    return out


def _chosen(recipe: Recipe, path: Path) -> Any:
    """The method, section or value at a recipe key, the part of the recipe that has the knob at `path`."""
    part: Any = recipe
    if path[0] == "stages":
        part, path = recipe.stages[int(path[1])], path[2:]
    found = getattr(part, str(path[0]))
    return found[int(path[1])] if path[0] == "curate" and len(path) > 1 else found


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
    tree = _given_tree(resolved, given)
    for key, value in {"method": method, **changes}.items():
        put(tree, tuple(key.split("__")), value, "compare")
    return _resolve(tree, (), resolved.name)


def _given_tree(resolved: Resolved, given: dict[str, Any]) -> Node:
    """The given settings of a resolved recipe with where they stand, to resolve them once more."""
    names = [stage.name for stage in resolved.recipe.stages]

    def source(path: Path) -> str:
        changed = path[:1] == ("stages",) and len(path) > 1 and path[1] in names  # changes to a preset's stages
        at = ("stages", names.index(str(path[1])), *path[2:]) if changed else path
        return resolved.sources.get(dotted(at), resolved.name)

    return Node.of(given, source)
