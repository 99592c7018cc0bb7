"""`holdfast show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import AsJson, Verbose, speaking

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
    with speaking(verbose, as_json=as_json) as ui:
        from holdfast.axes.registry import find, home_of

        home = home_of(name)
        if home is None:
            shown = settings_of(name)
            ui.result(settings_page(shown), settings=shown)
            return
        method = find(home.plural, name)
        known = {"axis": home.plural, "name": name, "page": method.page(), "paper": method.paper}
        ui.result(page(home, name, method), **known, knobs=knobs(method), **training_settings(method))


def settings_of(part: str) -> dict[str, str]:
    """Settings and descriptions of the whole recipe, or of one of its sections.

    Raises:
        UserError: If there is no such part; all names that `show` knows are considered for the nearest.
    """
    from holdfast.axes.axis import AXES
    from holdfast.axes.own_class import plugins
    from holdfast.axes.registry import names
    from holdfast.core.spelling import nearest
    from holdfast.errors import UserError
    from holdfast.recipe.messages import section_of, settings
    from holdfast.recipe.schema import Recipe

    sections = [key for key, info in Recipe.model_fields.items() if section_of(info.annotation)]
    if part not in ("recipe", *sections):
        known = {*(n for axis in AXES for n in names(axis.plural)), *plugins(), "recipe", *sections}
        raise UserError(f"{part} is neither a method nor a part of the recipe{nearest(part, known)}")
    return {key: text for key, text in settings().items() if part == "recipe" or key.startswith(f"{part}.")}


def page(axis: Axis, name: str, method: type[Method]) -> str:
    """The reference page of a method, for the terminal."""
    from holdfast.axes.preset import Preset
    from holdfast.cli.text import table, title
    from holdfast.recipe.schema import Recipe

    where = f"In a recipe:  {axis.key}: {name}" if axis.key in Recipe.model_fields else ""
    if issubclass(method, Preset):
        where = f"In a recipe:  method: {name}\nIts stages:\n{stages(method)}"
    if settings := training_settings(method):
        where += "\n" + settings_line(settings["settings"])
    rows = [(knob["name"], knob["default"], knob["description"]) for knob in knobs(method)]
    parts = [f"{title(name)} ({axis.plural})", method.page(), where]
    parts.append(table(rows, ("knob", "default", "what it does"), wrap=(2,)) if rows else "It has no knobs.")
    if method.paper and method.paper.rpartition(" ")[2] not in method.page():
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


def settings_line(usual: dict[str, Any]) -> str:
    """Learning rates, epochs and batch in one sentence."""
    epochs = f"{usual['epochs']:g} epoch{'' if usual['epochs'] == 1 else 's'}"
    return (
        f"By default:   learning rate {usual['learning_rate']:g}, with an adapter {usual['adapter_learning_rate']:g}; "
        f"{epochs}; steps of up to {usual['batch']} rows. From: {usual['source']}.\n"
        "              Laboratory models have a learning rate of their own."
    )


def stages(preset: type[Preset]) -> str:
    """A preset's stages as a recipe would list them."""
    from holdfast.recipe.yaml_writer import emit

    return "\n".join(emit({"stages": [dict(stage) for stage in preset.stages]}, lambda path: "", indent="  "))


def knobs(method: type[BaseModel]) -> list[dict[str, Any]]:
    """Name, default and description of each knob."""
    from holdfast.recipe.yaml_writer import write_scalar

    return [
        {
            "name": name,
            "default": "(required)"
            if info.is_required()
            else write_scalar(info.get_default(call_default_factory=True)),
            "description": info.description or "",
        }
        for name, info in method.model_fields.items()
    ]


def settings_page(shown: dict[str, str]) -> str:
    """Settings with defaults and descriptions."""
    from holdfast.cli.text import table

    return table(
        [(key, default_of(key), text) for key, text in shown.items()], ("setting", "default", "what it does"), wrap=(2,)
    )


def default_of(key: str) -> str:
    """The default of a dotted setting; empty for whole sections."""
    from holdfast.axes.method import Method
    from holdfast.recipe.data_section import Section
    from holdfast.recipe.messages import section_of
    from holdfast.recipe.schema import Recipe
    from holdfast.recipe.yaml_writer import write_scalar

    model: Any = Recipe
    *parents, last = key.split(".")
    for parent in parents:
        model = section_of(model.model_fields[parent].annotation)
    info = model.model_fields[last]
    default = info.get_default(call_default_factory=True)
    if info.is_required():
        return "" if info.annotation is section_of(info.annotation) else "(required)"
    if isinstance(default, Section):
        return ""
    return (
        default if isinstance(info.annotation, type) and issubclass(info.annotation, Method) else write_scalar(default)
    )
