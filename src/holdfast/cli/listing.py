"""`holdfast list`."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated, Any

import typer

from holdfast.cli.common import AsJson, Verbose, open_session

if TYPE_CHECKING:
    from holdfast.axes.method import Method


def list_methods(
    axis: Annotated[
        str | None,
        typer.Argument(metavar="[AXIS]", help="One axis, package.module:Class, or models.", show_default=False),
    ] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast list
    holdfast list curators
    holdfast list models

    List every method: name, what it does, paper; those of installed packages too. Tuners alone (`holdfast list tuners`)
    with their kind, what trains, and whether they merge and come off. More about one: `holdfast show NAME`.
    `holdfast list models` is the catalogue of openly available models: size, licence, context, template, memory.
    """
    with open_session(verbose, as_json=as_json) as ui:
        if axis == "models":
            text, facts = describe_models()
            ui.report_result(text, **facts)
            return
        from holdfast.axes.axis import AXES
        from holdfast.cli.text import format_table, format_title

        methods_by_axis, problems = group_methods_by_axis(axis)
        rows = {a: [(name, one_line(cls), cls.paper) for name, cls in some] for a, some in methods_by_axis.items()}
        blocks = [
            f"{format_title(a.plural)}: {a.question}\n{format_table(rows[a.plural], wrap=(1, 2))}"
            for a in AXES
            if a.plural in rows
        ]
        traits = tuner_traits(methods_by_axis.get("tuners", []))
        if axis is not None and traits:
            blocks.append(format_traits(traits))
        methods: list[dict[str, object]] = [
            {"axis": a, "name": n, "summary": s, "paper": p} for a in rows for n, s, p in rows[a]
        ]
        for method in methods:
            if method["axis"] == "tuners":
                method["traits"] = traits[str(method["name"])]
        ui.report_result("\n\n".join([*blocks, *problems]), methods=methods, problems=problems)


def tuner_traits(tuners: list[tuple[str, type[Method]]]) -> dict[str, dict[str, str]]:
    """By name what each tuner with its default knobs declares, under the heads of its columns."""
    from holdfast.axes.tuner import TRAIT_COLUMNS, Tuner

    traits = {}
    for name, cls in tuners:
        if issubclass(cls, Tuner):
            traits[name] = dict(zip(TRAIT_COLUMNS, cls().trait_cells(name), strict=True))
    return traits


def format_traits(traits: dict[str, dict[str, str]]) -> str:
    """The table of what tuners declare, and what its columns mean."""
    from holdfast.axes.tuner import TRAIT_COLUMNS, TRAITS_KEY
    from holdfast.cli.text import format_table, terminal_width

    rows = [tuple(cells.values()) for cells in traits.values()]
    key = "\n".join(textwrap.wrap(TRAITS_KEY, terminal_width()))
    return f"{format_table(rows, TRAIT_COLUMNS, wrap=(2,))}\n\n{key}"


def describe_models() -> tuple[str, dict[str, Any]]:
    """The catalogue of models as a table, and as data."""
    from dataclasses import asdict

    from holdfast.cli.text import format_table
    from holdfast.data.catalogue.models import BYTES_PER_PARAMETER, read_models

    catalogue = read_models()
    head = ("model", "size", "kind", "licence", "context", "template", *BYTES_PER_PARAMETER)
    rows, facts = [], []
    for model in catalogue.models:
        memory = {tuner: model.estimate_memory(tuner) for tuner in BYTES_PER_PARAMETER}
        size = f"{model.parameters / 1e9:.2g}B" if model.parameters >= 1e9 else f"{model.parameters / 1e6:.3g}M"
        facts_shown = (model.kind, model.licence, f"{model.context:,}", model.template)
        rows.append((model.name, size, *facts_shown, *(f"{gib:.1f}" for gib in memory.values())))
        facts.append({**asdict(model), "memory_gib": memory})
    table = format_table(rows, head, right=(1, 4, *range(6, len(head))))
    text = (
        f"Models that anyone may have, as of {catalogue.date}: {catalogue.note} "
        f"(checked: {', '.join(model.name for model in catalogue.models if model.checked)}).\n"
        f"{', '.join(BYTES_PER_PARAMETER)}: GiB to train with that tuner, without activations (`holdfast check` knows "
        f"a recipe's own)\n{table}"
    )
    return text, {"date": catalogue.date, "note": catalogue.note, "models": facts}


def group_methods_by_axis(axis: str | None) -> tuple[dict[str, list[tuple[str, type[Method]]]], list[str]]:
    """By axis the names and classes to list, and a line for each method of an installed package that cannot be had.

    Args:
        axis: One axis only, or one class of the user's own.
    Raises:
        UserError: If it is neither.
    """
    from holdfast.axes.axis import AXES, BY_PLURAL
    from holdfast.axes.own_class import list_plugins
    from holdfast.axes.registry import find_method, home_of, method_names
    from holdfast.core.spelling import suggest_name
    from holdfast.errors import UserError

    if axis is not None and ":" in axis and (home := home_of(axis)):
        return {home.plural: [(axis, find_method(home.plural, axis))]}, []
    if axis is not None and axis not in BY_PLURAL:
        raise UserError(f"{axis} is not an axis{suggest_name(axis, BY_PLURAL)}")
    methods_by_axis = {
        a.plural: [(n, find_method(a.plural, n)) for n in method_names(a.plural)]
        for a in AXES
        if axis in (None, a.plural)
    }
    problems = []
    for name in list_plugins():
        try:
            home = home_of(name)
        except UserError as error:  # one broken package keeps nobody from the list
            problems.append(str(error))
            continue
        some = methods_by_axis.get(home.plural) if home else None
        if some is not None and home is not None and name not in dict(some):
            some.append((name, find_method(home.plural, name)))
    return methods_by_axis, problems


def one_line(method: type[Method]) -> str:
    """The method's summary without the paper in brackets, which has a column of its own."""
    return method.summary_line().rpartition(" [")[0].rstrip() or method.summary_line()
