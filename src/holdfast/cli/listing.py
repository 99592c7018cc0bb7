"""`holdfast list`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from holdfast.cli.common import AsJson, Verbose, speaking

if TYPE_CHECKING:
    from holdfast.axes.method import Method

QUESTIONS = {
    "curators": "which rows are trained on, and who wrote them",
    "objectives": "what is minimised",
    "tuners": "which weights move",
    "optimizers": "how they move",
    "inference": "what is done without, or after, training",
    "presets": "several runs, one after another: a recipe's stages by one name",
    "judges": "whether an answer is right",
}
"""Axis to the question it answers."""


def list_methods(
    axis: Annotated[str | None, typer.Argument(metavar="[AXIS]", help="One axis only.", show_default=False)] = None,
    verbose: Verbose = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast list
    holdfast list curators

    List every method: name, what it does, paper. More about one: `holdfast show NAME`.
    """
    with speaking(verbose, as_json=as_json) as ui:
        from holdfast.axes.registry import REGISTRY, find
        from holdfast.cli.text import table, title
        from holdfast.core.spelling import nearest
        from holdfast.errors import UserError

        if axis is not None and axis not in REGISTRY:
            raise UserError(f"{axis} is not an axis{nearest(axis, REGISTRY)}")
        chosen = [axis] if axis else list(REGISTRY)
        rows = {a: [(name, one_line(find(a, name)), find(a, name).paper) for name in REGISTRY[a]] for a in chosen}
        blocks = [f"{title(a)}: {QUESTIONS.get(a, '')}\n{table(rows[a], wrap=(1, 2))}" for a in chosen]
        methods = [{"axis": a, "name": n, "summary": s, "paper": p} for a in chosen for n, s, p in rows[a]]
        ui.result("\n\n".join(blocks), methods=methods)


def one_line(method: type[Method]) -> str:
    """The method's summary without the paper in brackets, which has a column of its own."""
    return method.summary().rpartition(" [")[0].rstrip() or method.summary()
