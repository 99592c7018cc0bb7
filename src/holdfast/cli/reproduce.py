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
    out: Annotated[Path, typer.Option(help="Where the runs go.")] = Path("runs/reproduce"),
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast reproduce s3ft
    holdfast reproduce            lists what can be reproduced

    Run a paper's main claim at laboratory scale, print the paper's numbers beside ours with intervals, and say whether
    the claim held here, was refuted, or cannot be told, and why: by the paired difference of the arms against a stated
    margin. "Refuted" is a result too.
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
        result = run_reproduction(name, seeds=seeds, out=out, ui=ui)
        ui.report_result(format_reproduction(result), **result)
