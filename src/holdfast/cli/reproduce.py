"""`holdfast reproduce`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Verbose, open_session


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="Method; none lists them.", show_default=False)
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds.")] = 3,
    on: Annotated[
        str | None, typer.Option(metavar="MODEL", help="A model of your own, in place of the laboratory's.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="With --on: the recipe of the rows and tasks, or its folder.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/reproduce"),
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast reproduce s3ft
    holdfast reproduce            lists what can be reproduced
    holdfast reproduce s3ft --on MODEL --data run.yaml

    Run a paper's main claim at laboratory scale, print the paper's numbers beside ours with intervals, and say whether
    the claim held here, was refuted, or cannot be told, and why: by the paired difference of the arms against a stated
    margin. "Refuted" is a result too. With --on the same arms are held against each other on your model, with the rows,
    tasks and judge of your recipe, each at the learning rates that its method has by default there.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_reproduction
        from holdfast.cli.text import format_table
        from holdfast.lab.reproduce import list_claims
        from holdfast.lab.reproduce import reproduce as run_reproduction

        if name is None:
            claims = list_claims()
            ui.report_result(format_table(list(claims.items()), ("name", "claim"), wrap=(1,)), claims=claims)
            return
        result = run_reproduction(name, seeds=seeds, out=out, on=on, data=data, ui=ui)
        ui.report_result(format_reproduction(result), **result)
