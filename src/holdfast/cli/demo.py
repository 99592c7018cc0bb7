"""`holdfast demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Verbose, open_session


def demo(
    out: Annotated[Path, typer.Option(help="Where the runs and the report go.")] = Path("runs/demo"),
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast demo

    Fine-tune the bundled laboratory model with sft, sdft, ssr and s3ft, measure what each gained on the target and lost
    elsewhere, print the table and write the report. Takes a few minutes on two CPU cores and downloads nothing. Killed
    and repeated, it goes on where it was.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_comparison
        from holdfast.lab.demo import run_demo as run_demo

        report = run_demo(out=out, ui=ui)
        ui.report_result(format_comparison(report, report["directory"]), **report)
