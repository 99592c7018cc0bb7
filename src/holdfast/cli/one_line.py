"""A recipe from options: `--model M --data D`, for the verbs that otherwise read a recipe file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from holdfast.core.progress import Progress
    from holdfast.recipe.loader import ResolvedRecipe

RecipeOrSetting = Annotated[
    str | None,
    typer.Argument(
        metavar="[RECIPE]",
        help="Recipe file, or the directory of an earlier run; none with --model and --data.",
        show_default=False,
    ),
]
Model = Annotated[str | None, typer.Option(help="Without a recipe: path, Hugging Face name, or lab.")]
Data = Annotated[str | None, typer.Option(help="Without a recipe: rows of a file, a data set, or lab:SKILL.")]
MethodName = Annotated[str | None, typer.Option("--method", help="Without a recipe; default: what the rows call for.")]
Target = Annotated[str | None, typer.Option(help="Without a recipe: what to measure; default: rows held out.")]
Columns = Annotated[
    list[str] | None,
    typer.Option("--map", metavar="ROLE=COLUMN...", help="Without a recipe: prompt=question answer=reply."),
]


def read_recipe_or_options(
    recipe: str | None, settings: list[str] | None, options: dict[str, Any], columns: list[str] | None, ui: Progress
) -> ResolvedRecipe:
    """The recipe of a file, or the one that options stand for, which is shown.

    Args:
        recipe: A recipe file; without one it may be the first of the settings.
        settings: `a.b=value` texts, and behind `--map` more ROLE=COLUMN.
        options: What `--model`, `--data`, `--method` and `--target` were given; None where they were not.
        columns: What `--map` was given.
    Raises:
        UserError: If there is neither a recipe nor a model and data, or both, or one of them cannot be used.
    """
    from holdfast.cli.init import parse_columns
    from holdfast.errors import UserError
    from holdfast.recipe.loader import read_recipe

    words = list(settings or ())
    if recipe is not None and "=" in recipe and not Path(recipe).exists():
        words, recipe = [recipe, *words], None
    values = {name: value for name, value in options.items() if value is not None}
    if recipe is None:
        return _build_recipe(values, list(columns or ()), words, ui)
    if values or columns:
        parse_columns(list(columns or ()), "--map")  # `--map question answer` has a word that looks like a recipe
        name = next(iter(values), "map")
        setting = {"data": "data.train", "target": "evaluate.target", "map": "data.columns"}.get(name, name)
        value = values.get(name, "{prompt: question, answer: reply}")
        raise UserError(f"--{name}: beside a recipe, settings stand without dashes, in dotted names: {setting}={value}")
    return read_recipe(recipe, words)


def _build_recipe(values: dict[str, str], columns: list[str], words: list[str], ui: Progress) -> ResolvedRecipe:
    """The recipe behind options; its lines are shown."""
    from holdfast.cli.init import inspect_data, parse_columns
    from holdfast.data.reading.columns import ROLES
    from holdfast.errors import UserError
    from holdfast.recipe.loader import resolve_options
    from holdfast.recipe.yaml_writer import format_yaml_lines

    if missing := [f"--{name}" for name in ("model", "data") if name not in values]:
        what = f"{' and '.join(missing)} missing" if values or columns or words else "no recipe"
        raise UserError(f"{what}; give a recipe file, or --model and --data (`holdfast init` writes a recipe)")
    if columns:  # a shell gives the option its first word only; a role is no setting's name
        columns += [word for word in words if word.partition("=")[0] in ROLES]
        words = [word for word in words if word not in columns]
    look, mapping = inspect_data(values["data"], parse_columns(columns, "--map"), False, ui)
    own_settings: dict[str, Any] = {
        "model": values["model"],
        "method": values.get("method", look.method),
        "data": {"train": values["data"], **({"columns": mapping} if mapping else {})},
        "evaluate": {"target": values.get("target", "test"), "keep": ["auto"]},
        **({"judge": look.judge} if look.judge else {}),
    }
    resolved_recipe = resolve_options(own_settings, words)
    ui.write_line("the recipe, which the run keeps as resolved.yaml with every other setting:")
    for line in format_yaml_lines(own_settings, lambda _: ""):
        ui.write_line(f"  {line}")
    return resolved_recipe
