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
from itertools import starmap
from typing import Any

from pydantic import BaseModel, ValidationError

from holdfast.axes.registry import method_names, name_of
from holdfast.core import in_memory
from holdfast.core.safe_text import make_printable, unusable_texts
from holdfast.errors import Mistake, UserError, UserErrors
from holdfast.recipe import peers, yaml_reader, yaml_writer
from holdfast.recipe.aliases import Aliases
from holdfast.recipe.messages import Complaint, explain_errors
from holdfast.recipe.overrides import COMMAND_LINE, apply_overrides, put_value
from holdfast.recipe.schema import Recipe, Train
from holdfast.recipe.shorthand import expand_method, trains_nothing
from holdfast.recipe.stages import BASE, OF_STAGE, OF_STAGES, axes_of, fill_recipe
from holdfast.recipe.tree import Node, Path, Problems, format_path

MOST_PROBLEMS = 50
"""Problems of one recipe that are listed."""
LONGEST_PROBLEM = 2000
"""Characters of one of them."""


@dataclass(frozen=True, slots=True)
class ResolvedRecipe:
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


def read_recipe(path: str | pathlib.Path, overrides: Sequence[str] = ()) -> ResolvedRecipe:
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
    return read_recipe_text(yaml_reader.read_text(file), str(file), overrides, folder=file.parent)


def read_recipe_text(
    text: str, name: str, overrides: Sequence[str] = (), *, folder: pathlib.Path | None = None
) -> ResolvedRecipe:
    """Read a recipe that is not, or not yet, a file.

    Args:
        text: Its YAML.
        name: What to call it in messages.
        folder: Relative paths that are not in the current directory are looked for here.
    Raises:
        UserError: As `read_recipe`.
    """
    tree, problems = yaml_reader.parse_yaml(text, name)
    if tree.value is None:
        raise UserError(f"{name}: empty recipe; `holdfast init` writes one to start from")
    if not tree.is_mapping:
        raise UserError(f"{tree.source}: a recipe is a mapping of `key: value` lines")
    tree.source = name
    return _resolve_tree(tree, overrides, name, problems, folder)


def resolve_any(
    value: ResolvedRecipe | Recipe | dict[str, Any] | str | pathlib.Path, overrides: Sequence[str] = ()
) -> ResolvedRecipe:
    """Whatever the Python API is given as a recipe: a file, a mapping, a `Recipe`; overrides as on the command line.

    Raises:
        UserError: All problems, one per line.
    """
    if isinstance(value, (str, pathlib.Path)):
        return read_recipe(value, overrides)
    if isinstance(value, ResolvedRecipe):
        tree = _rebuild_tree(value, value.recipe.user_settings())
        return _resolve_tree(tree, overrides, value.name) if overrides else value
    data = value.user_settings() if isinstance(value, Recipe) else value
    return _resolve_tree(Node.from_data(data, "recipe"), overrides, "recipe")


def resolve_options(settings: dict[str, Any], overrides: Sequence[str] = ()) -> ResolvedRecipe:
    """The recipe that options of the command line stand for; what is wrong is said of the options.

    Raises:
        UserError: All problems, one per line.
    """
    return _resolve_tree(Node.from_data(settings, "options"), overrides, "options")


def _resolve_tree(
    tree: Node,
    overrides: Sequence[str],
    name: str,
    earlier_problems: Problems | None = None,
    folder: pathlib.Path | None = None,
) -> ResolvedRecipe:
    """The steps from a tree to a recipe: overrides, aliases, paths, shorthands with presets and stages, validation.

    Args:
        tree: The recipe as it was written; it is changed.
        earlier_problems: Problems seen before.
        folder: Relative paths that are not in the current directory are looked for here.
    """
    top, problems = tree.plain_data(), list(earlier_problems or [])
    apply_overrides(tree, overrides, problems)
    original = tree.copy()
    aliases = Aliases(tree, problems)
    notes = aliases.notes
    if unusable := unusable_texts(tree.plain_data()):
        raise _join_mistakes(_list_mistakes(unusable, tree, original))
    if folder is not None:
        in_memory.offer_copies(folder, tree.plain_data())
        notes += _find_beside(tree, folder)
    full_tree = fill_recipe(tree, problems)
    problems += _find_unused_overrides(tree, full_tree)
    recipe = _validate_tree(full_tree, problems)
    if problems or recipe is None:
        introduction = map(Mistake, peers.introduce_problems(top, aliases.moves, name))
        raise _join_mistakes([*introduction, *_list_mistakes(problems, tree, original)])
    sources = _collect_sources(recipe, full_tree)
    notes += ["search: only `holdfast search` reads this section"] if recipe.search is not None else []
    return ResolvedRecipe(recipe, sources, (*notes, *_epochs_not_used(recipe, sources)), name)


def _epochs_not_used(recipe: Recipe, sources: dict[str, str]) -> list[str]:
    """A note for each place that says epochs where max_steps is said as well."""
    parts = [("", recipe), *((f"stages.{i}.", stage) for i, stage in enumerate(recipe.stages))]
    notes: dict[tuple[str, str], str] = {}
    for at, part in parts:
        train = part.train
        epochs, steps = (sources.get(f"{at}train.{key}", "default") for key in ("epochs", "max_steps"))
        # As the resolved recipe of a run spells it out.
        usual = train.epochs in (Train.model_fields["epochs"].default, part.objective.paper_settings.epochs)
        if train.max_steps is not None and not usual and is_written(epochs) and is_written(steps):
            text = f"train.epochs {train.epochs:g} is not used: train.max_steps {train.max_steps} goes before it"
            notes.setdefault((epochs, steps), f"{epochs}: {text}")
    return list(notes.values())


def is_written(source: str) -> bool:
    """Whether a setting with this source was given by the user, not by a default, a method or another setting."""
    return source not in ("default", "paper") and not source.startswith(("derived: ", "method "))


def _validate_tree(full_tree: Node, problems: Problems) -> Recipe | None:
    try:
        return Recipe.model_validate(full_tree)
    except ValidationError as error:
        wrong = explain_errors(error, full_tree.plain_data())
        # What the recipe says wrong for all stages, it says wrong itself; what it has from a stage is the stage's.
        own = [
            (_find_place(full_tree, path), text)
            for path, text in wrong
            if path[:1] != ("stages",) and not full_tree.source_around(path).startswith(OF_STAGE)
        ]
        places, texts = {path for path, _ in own}, {text for path, text in own if not path}
        for path, text in (problem for problem in wrong if problem[0][:1] == ("stages",)):
            at = _find_place(full_tree, path)
            if at not in places and text not in texts:
                own.append((at if full_tree.find(path) else path, text))
        problems += own
        return None


def _find_place(full_tree: Node, path: Path) -> Path:
    """Where the user wrote, or would write, the value at a path: of a method's only curator without a number."""
    at = path[:2] if path[:1] == ("stages",) else ()
    curators = full_tree.find((*at, "curate"))
    from_method = path[len(at) : len(at) + 2] == ("curate", 0) and curators is not None and curators.written is None
    return full_tree.place_of(path, (*at, "curate", *path[len(at) + 2 :]) if from_method else path)


def _find_unused_overrides(tree: Node, full_tree: Node) -> Problems:
    """Settings of the command line that are only for the stages, and that each of these has given itself."""
    stages = full_tree.value["stages"].value if "stages" in full_tree.value else []

    def find_unused(node: Node, path: Path) -> Iterator[Path]:
        if node.source != COMMAND_LINE:
            for key, inner in node.inner_nodes().items():
                yield from find_unused(inner, (*path, key))
        elif all(stage.place_of(path, ()) != node.written for stage in stages):
            yield path

    return [
        (path, "changes no stage, because each says this itself; put stages.NAME. before it")
        for key in OF_STAGES
        if stages and key in tree.value and key != "method"
        for path in find_unused(tree.value[key], (key,))
    ]


def _join_mistakes(mistakes: Sequence[Mistake]) -> UserErrors:
    """All of them as one error."""
    return UserErrors("\n".join(mistake.line for mistake in mistakes), mistakes)


def _list_mistakes(problems: Problems, tree: Node, original: Node) -> list[Mistake]:
    """The lines to print: of each problem where it stands, in the order of the recipe.

    Args:
        tree: The recipe with aliases read.
        original: The recipe before, which still has the places of other tools' names.
    """

    def find_source(path: Path) -> str:
        return (tree if tree.find(path) else original).source_around(path)

    def describe_mistake(path: Path, text: str) -> Mistake:
        place, key = find_source(path), format_path(path)
        line = make_printable(f"{place}: {_format_sentence(key, text)}", one_line=True)
        line = line if len(line) <= LONGEST_PROBLEM else f"{line[:LONGEST_PROBLEM]}..."
        return Mistake(line, place, key, *((text.kind, text.values) if isinstance(text, Complaint) else ()))

    def sort_key(mistake: Mistake) -> tuple[Any, ...]:
        natural = [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", mistake.place)]
        return mistake.place == COMMAND_LINE, natural, mistake.line

    mistakes = sorted({each.line: each for each in starmap(describe_mistake, problems)}.values(), key=sort_key)
    more = len(mistakes) - MOST_PROBLEMS
    return mistakes[:MOST_PROBLEMS] + ([Mistake(f"and {more:,} more problems like these")] if more > 0 else [])


def _format_sentence(key: str, text: str) -> str:
    """`train.epochs must be a number`, but `tuner: loraa is not one of the tuners`, whose text has its own subject."""
    own_subject = text.split(" ", 1)[0] not in ("is", "must", "means", "cannot")
    return f"{key}: {text}" if key and own_subject else f"{key} {text}".strip()


PATHS = ("data.train", "data.test", "data.replay", "evaluate.target", "evaluate.keep", "curate")
"""Settings that hold paths: as a text, as the `path` of a mapping, or as a list of either."""


def _find_beside(tree: Node, folder: pathlib.Path) -> list[str]:
    """Replace, in place, relative paths that only exist in the recipe's folder; a note for each."""
    notes: list[str] = []
    stages = tree.value["stages"].inner_nodes().values() if "stages" in tree.value else ()
    for part in (tree, *stages):
        base = part is not tree and part.plain_data("model") == BASE
        for setting in PATHS if base else ("model", *PATHS):
            if (node := part.find(tuple(setting.split(".")))) is None:
                continue
            for text in _find_path_nodes(node, only_mappings=setting in ("curate", "data.replay")):
                prefix = "text:" if text.value.startswith("text:") else ""
                path = text.value.removeprefix("text:")
                candidate = folder / path
                if not _exists_on_disk(path) and _exists_on_disk(str(candidate)):
                    notes.append(f"{path} is read from {candidate}")
                    text.value = f"{prefix}{candidate}"
    return notes


def _find_path_nodes(node: Node, only_mappings: bool) -> Iterator[Node]:
    """The nodes that may hold a path: itself, its `path`, or those of the items of a list."""
    for item in node.value if node.is_list else [node]:
        text = item.value.get("path") if item.is_mapping else None if only_mappings else item
        if text is not None and isinstance(text.value, str) and text.value:
            yield text


def _exists_on_disk(name: str) -> bool:
    """Whether a name means something on the disk: a path, one with a split behind a colon, or a pattern."""
    whole = pathlib.Path(name).exists() or (":" in name and pathlib.Path(name.rpartition(":")[0]).exists())
    return whole or (glob.has_magic(name) and any(glob.iglob(name, recursive=True)))


def _collect_sources(recipe: Recipe, full_tree: Node) -> dict[str, str]:
    """Dotted leaf to where its value came from."""
    out: dict[str, str] = {}
    for path, _ in yaml_writer.find_leaf_values(recipe.model_dump(mode="json")):
        part: Any = recipe
        for step in path[:-1]:
            part = getattr(part, str(step)) if isinstance(part, BaseModel) else part[step]
        # A method's own knobs come from its paper; those it shares with its axis, and settings, are plain defaults.
        owner = next((cls for cls in type(part).__mro__ if path[-1] in inspect.get_annotations(cls)), object)
        default = "paper" if vars(owner).get("paper") else "default"
        out[format_path(path)] = full_tree.source_of(path) or default
    return out


def format_resolved_yaml(resolved_recipe: ResolvedRecipe) -> str:
    """Every setting with its value and where it came from; itself a recipe that gives the same `Recipe`."""
    from holdfast import __version__

    lines = yaml_writer.format_yaml_lines(
        resolved_recipe.recipe.model_dump(mode="json"),
        lambda path: resolved_recipe.sources.get(format_path(path), ""),
    )
    head = f"# Resolved by holdfast {__version__}: every setting of the run and where it came from. It is a recipe too."
    return "\n".join([head, *lines, ""])


def switch_method(resolved_recipe: ResolvedRecipe, method: str, among: Sequence[str], **changes: Any) -> ResolvedRecipe:
    """The same recipe with another `method`, as `compare` needs it.

    On every axis that any of the compared methods chooses, the recipe's own choice gives way (its knobs stay where the
    names agree); other axes, and curators that add rows instead of choosing them (`replay`), stay. Derived defaults are
    derived anew.

    Args:
        resolved_recipe: The recipe compared on.
        method: The method to switch to.
        among: All compared methods.
        changes: Dotted settings with `__` for dots, set last: `train__seed=1, output="..."`.
    """
    own_settings = resolved_recipe.recipe.user_settings()
    chosen = expand_method(method)
    own_settings.pop("stages", None)
    varied_keys = {key for name in (*among, resolved_recipe.recipe.method) for key in axes_of(name)}
    method_curators = set(method_names("curators")).union(
        *(expand_method(name).get("curate", []) for name in (*among, resolved_recipe.recipe.method))
    ) - {"replay"}
    for key in varied_keys & set(own_settings):
        own = own_settings.pop(key)
        if key == "curate":
            by_name = {item["name"]: item for item in own}
            other_curators = [item for item in own if item["name"] not in method_curators]
            own_settings["curate"] = [
                by_name.get(name, {"name": name}) for name in chosen.get("curate", [])
            ] + other_curators
        elif name_of(getattr(resolved_recipe.recipe, key)) in chosen.get(key, []):
            own_settings[key] = own
    if trains_nothing(method) != (resolved_recipe.recipe.train.max_steps == 0):
        own_settings.get("train", {}).pop("max_steps", None)
    tree = _rebuild_tree(resolved_recipe, own_settings)
    for key, value in {"method": method, **changes}.items():
        put_value(tree, tuple(key.split("__")), value, "compare")
    return _resolve_tree(tree, (), resolved_recipe.name)


def _rebuild_tree(resolved_recipe: ResolvedRecipe, own_settings: dict[str, Any]) -> Node:
    """The given settings of a resolved recipe with where they stand, to resolve them once more."""
    sources = resolved_recipe.sources
    names = [stage.name for stage in resolved_recipe.recipe.stages]

    def find_source(path: Path) -> str:
        changes_preset = path[:1] == ("stages",) and len(path) > 1 and path[1] in names  # changes to a preset's stages
        at = ("stages", names.index(str(path[1])), *path[2:]) if changes_preset else path
        return sources.get(format_path(at), resolved_recipe.name)

    return Node.from_data(own_settings, find_source)
