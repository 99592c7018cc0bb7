"""`holdfast report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import AsJson, Quiet, Verbose, open_session


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of runs or comparisons.")],
    verbose: Verbose = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """
    \b
    holdfast report runs/mine
    holdfast report runs/*

    Write report.html and the model card again from report.json (or compare.json), and print the result.
    """
    with open_session(verbose, quiet, as_json) as ui:
        for directory in runs:
            text, page = rewrite_report(directory)
            ui.report_result(text, directory=str(directory), page=str(page))


def rewrite_report(directory: Path) -> tuple[str, Path]:
    """Rewrite the page of one directory; its printed summary and the page.

    Raises:
        UserError: If the directory holds no finished report.
    """
    from holdfast.cli.render import format_comparison, format_report
    from holdfast.pipeline.damage import read_report
    from holdfast.pipeline.results import write_report
    from holdfast.report.html import render_compare, write_page

    page = directory / "report.html"
    if (directory / "compare.json").exists():
        content = read_report(directory / "compare.json")
        write_page(page, render_compare(content))
        return format_comparison(content, directory), page
    if (directory / "report.json").exists():
        content = read_report(directory / "report.json")
        write_report(directory, content)
        return format_report(content, directory), page
    from holdfast.errors import UserError

    if (directory / "resolved.yaml").exists():
        raise UserError(f"{directory}: this run is not finished; go on with: holdfast train {directory}")
    raise UserError(
        f"{directory}: neither report.json nor compare.json is here; give the directory of a run or comparison"
    )
