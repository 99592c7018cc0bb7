"""`holdfast list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import AsJson, Verbose, speaking

if TYPE_CHECKING:
    from holdfast.axes.method import Method


def list_methods(
    axis: Annotated[
        str | None, typer.Argument(metavar="[AXIS]", help="One axis, or package.module:Class.", show_default=False)
    ] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast list
    holdfast list curators

    List every method: name, what it does, paper; those of installed packages too. More about one: `holdfast show NAME`.
    """
    with speaking(verbose, as_json=as_json) as ui:
        from holdfast.axes.axis import AXES
        from holdfast.cli.text import table, title

        listed, problems = chosen_names(axis)
        rows = {a: [(name, one_line(cls), cls.paper) for name, cls in some] for a, some in listed.items()}
        blocks = [
            f"{title(a.plural)}: {a.question}\n{table(rows[a.plural], wrap=(1, 2))}" for a in AXES if a.plural in rows
        ]
        methods = [{"axis": a, "name": n, "summary": s, "paper": p} for a in rows for n, s, p in rows[a]]
        ui.result("\n\n".join([*blocks, *problems]), methods=methods, problems=problems)


def chosen_names(axis: str | None) -> tuple[dict[str, list[tuple[str, type[Method]]]], list[str]]:
    """By axis the names and classes to list, and a line for each method of an installed package that cannot be had.

    Args:
        axis: One axis only, or one class of the user's own.
    Raises:
        UserError: If it is neither.
    """
    from holdfast.axes.axis import AXES, BY_PLURAL
    from holdfast.axes.own_class import plugins
    from holdfast.axes.registry import find, home_of, names
    from holdfast.core.spelling import nearest
    from holdfast.errors import UserError

    if axis is not None and ":" in axis and (home := home_of(axis)):
        return {home.plural: [(axis, find(home.plural, axis))]}, []
    if axis is not None and axis not in BY_PLURAL:
        raise UserError(f"{axis} is not an axis{nearest(axis, BY_PLURAL)}")
    listed = {a.plural: [(n, find(a.plural, n)) for n in names(a.plural)] for a in AXES if axis in (None, a.plural)}
    problems = []
    for name in plugins():
        try:
            home = home_of(name)
        except UserError as error:  # one broken package keeps nobody from the list
            problems.append(str(error))
            continue
        some = listed.get(home.plural) if home else None
        if some is not None and home is not None and name not in dict(some):
            some.append((name, find(home.plural, name)))
    return listed, problems


def one_line(method: type[Method]) -> str:
    """The method's summary without the paper in brackets, which has a column of its own."""
    return method.summary().rpartition(" [")[0].rstrip() or method.summary()
