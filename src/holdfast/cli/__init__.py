"""The command line: one thin file per verb; nothing here imports torch before a verb needs it."""

from __future__ import annotations


def main() -> None:
    """Entry point of the `holdfast` program."""
    import io
    import os
    import sys

    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # looking for plugins costs a tenth of the start
    from holdfast.cli.app import app

    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that lacks a letter is no reason to fail
    app(prog_name="holdfast")
