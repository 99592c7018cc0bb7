"""`holdfast show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import AsJson, Verbose, open_session

if TYPE_CHECKING:
    from pydantic import BaseModel

    from holdfast.axes.axis import Axis
    from holdfast.axes.method import Method
    from holdfast.axes.preset import Preset


def show(
    name: Annotated[str, typer.Argument(help="A method, or a part of the recipe: recipe, data, train, evaluate, ...")],
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast show s3ft
    holdfast show recipe

    Explain a method: what it does, when it helps, when it fails, columns it needs, formula, paper, and its knobs with
    their defaults. Or list the settings of the recipe, or of one part of it.
    """
    with open_session(verbose, as_json=as_json) as ui:
        from holdfast.axes.registry import find_method, home_of

        home = home_of(name)
        if home is None:
            settings = list_settings(name)
            ui.report_result(format_settings(settings), settings=settings)
            return
        method = find_method(home.plural, name)
        facts = {"axis": home.plural, "name": name, "page": method.reference_page(), "paper": method.paper}
        ui.report_result(
            format_method_page(home, name, method), **facts, knobs=describe_knobs(method), **training_settings(method)
        )


def list_settings(part: str) -> dict[str, str]:
    """Settings and descriptions of the whole recipe, or of one of its sections.

    Raises:
        UserError: If there is no such part; all names that `show` knows are considered for the nearest.
    """
    from holdfast.axes.axis import AXES
    from holdfast.axes.own_class import list_plugins
    from holdfast.axes.registry import method_names
    from holdfast.core.spelling import suggest_name
    from holdfast.errors import UserError
    from holdfast.recipe.messages import describe_settings, section_of
    from holdfast.recipe.schema import Recipe

    sections = [key for key, info in Recipe.model_fields.items() if section_of(info.annotation)]
    if part not in ("recipe", *sections):
        all_names = {*(n for axis in AXES for n in method_names(axis.plural)), *list_plugins(), "recipe", *sections}
        raise UserError(f"{part} is neither a method nor a part of the recipe{suggest_name(part, all_names)}")
    return {key: text for key, text in describe_settings().items() if part == "recipe" or key.startswith(f"{part}.")}


def format_method_page(axis: Axis, name: str, method: type[Method]) -> str:
    """The reference page of a method, for the terminal."""
    from holdfast.axes.preset import Preset
    from holdfast.cli.text import format_table, format_title
    from holdfast.recipe.schema import Recipe

    where = f"In a recipe:  {axis.key}: {name}" if axis.key in Recipe.model_fields else ""
    if issubclass(method, Preset):
        where = f"In a recipe:  method: {name}\nIts stages:\n{format_preset_stages(method)}"
    if settings := training_settings(method):
        where += "\n" + format_training_settings(settings["settings"])
    rows = [(knob["name"], knob["default"], knob["description"]) for knob in describe_knobs(method)]
    parts = [f"{format_title(name)} ({axis.plural})", method.reference_page(), where]
    parts.append(format_table(rows, ("knob", "default", "what it does"), wrap=(1, 2)) if rows else "It has no knobs.")
    if method.paper and method.paper.rpartition(" ")[2] not in method.reference_page():
        parts.append(f"Paper: {method.paper}")
    return "\n\n".join(part for part in parts if part)


def training_settings(method: type[Method]) -> dict[str, Any]:
    """What training with an objective begins from where the recipe says nothing, as `settings`; empty for others."""
    from holdfast.axes.objective import Objective

    if not issubclass(method, Objective):
        return {}
    usual = method.settings
    return {
        "settings": {
            "learning_rate": usual.rate, "adapter_learning_rate": usual.learning_rate(True)[0],
            "epochs": usual.epochs, "batch": usual.batch, "source": usual.source,
        }
    }  # fmt: skip


def format_training_settings(usual: dict[str, Any]) -> str:
    """Learning rates, epochs and batch in one sentence."""
    epochs = f"{usual['epochs']:g} epoch{'' if usual['epochs'] == 1 else 's'}"
    return (
        f"By default:   learning rate {usual['learning_rate']:g}, with an adapter {usual['adapter_learning_rate']:g}; "
        f"{epochs}; steps of up to {usual['batch']} rows. From: {usual['source']}.\n"
        "              Laboratory models have a learning rate of their own."
    )


def format_preset_stages(preset: type[Preset]) -> str:
    """A preset's stages as a recipe would list them."""
    from holdfast.recipe.yaml_writer import format_yaml_lines

    return "\n".join(
        format_yaml_lines({"stages": [dict(stage) for stage in preset.stages]}, lambda path: "", indent="  ")
    )


def describe_knobs(method: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, default and description of each knob."""
    from holdfast.recipe.yaml_writer import format_scalar

    return [
        {
            "name": name,
            "default": "(required)"
            if info.is_required()
            else format_scalar(info.get_default(call_default_factory=True)),
            "description": info.description or "",
        }
        for name, info in method.model_fields.items()
    ]


def format_settings(settings: dict[str, str]) -> str:
    """Settings with defaults and descriptions."""
    from holdfast.cli.text import format_table
    from holdfast.recipe.messages import format_default

    return format_table(
        [(key, format_default(key), text) for key, text in settings.items()],
        ("setting", "default", "what it does"),
        wrap=(2,),
    )
