"""`holdfast board`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from holdfast.cli.common import Verbose, open_session

TOKEN_HELP = "Readers must show it; better by the environment variable HOLDFAST_BOARD_TOKEN."


def board(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where runs and data are, at any depth.")] = Path(
        "."
    ),
    host: Annotated[
        str, typer.Option(help="Address to listen at; others than this machine's own need a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8300,
    token: Annotated[str | None, typer.Option(help=TOKEN_HELP, show_default=False)] = None,
    runs: Annotated[int, typer.Option(min=1, max=64, help="Runs at work at once; others wait in line.")] = 1,
    verbose: Verbose = False,
) -> None:
    """
    \b
    holdfast board
    holdfast board ~/work --port 8301
    HOLDFAST_BOARD_TOKEN=... holdfast board --host 0.0.0.0

    Show the runs below a directory on a web page: their curves, events and reports, any of them beside each other.
    It reads and writes nothing outside of the directory. Ends with Ctrl-C.
    """
    with open_session(verbose) as ui:
        from holdfast.board.server import TOKEN_VARIABLE, run_board

        key = os.environ.get(TOKEN_VARIABLE, "") if token is None else token
        run_board(directory, host, port, key, runs, ui.report_result)
