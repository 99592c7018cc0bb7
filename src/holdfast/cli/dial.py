"""`holdfast dial`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Device, Quiet, Verbose, open_session


def dial(
    run: Annotated[Path, typer.Argument(help="Directory of a finished run.")],
    points: Annotated[str, typer.Option(help="Points between base (0) and tuned (1).")] = "0,0.25,0.5,0.75,1",
    out: Annotated[Path | None, typer.Option(help="Directory; default: RUN/dial.", show_default=False)] = None,
    device: Device = "auto",
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast dial runs/mine
    holdfast dial runs/mine --points 0.4,0.6,0.8

    Measure a run at points on the line from its base to its tuned weights, on its own tasks: the curve of gain against
    loss, without training again. `holdfast export RUN OUT --dial POINT` writes the model of a point.
    """
    with open_session(verbose, quiet, as_json) as ui:
        from holdfast.cli.render import format_comparison
        from holdfast.errors import UserError

        try:
            chosen = [float(part) for part in points.split(",") if part.strip()]
        except ValueError as error:
            raise UserError(f"--points must be numbers, such as 0,0.5,1, not {points}") from error
        from holdfast.pipeline.dial_curve import measure_dial_curve

        report = measure_dial_curve(run, chosen, out=out, device=device, ui=ui)
        ui.report_result(format_comparison(report, report["directory"]), **report)
