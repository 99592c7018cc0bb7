"""Text on a terminal: colours where they are wanted, and nothing that a terminal would obey."""

from __future__ import annotations

import os
import re
from typing import IO

from holdfast.core.safe_text import make_printable

COLOURS = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}


def paint_text(text: str, colour: str, stream: IO[str]) -> str:
    """`text` in a colour where the stream is a terminal that wants colours."""
    return f"\x1b[{COLOURS[colour]}m{text}\x1b[0m" if _wants_colours(stream) else text


def _wants_colours(stream: IO[str]) -> bool:
    return not ("NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb" or not stream.isatty())


OWN_COLOURS = re.compile(f"(\x1b\\[(?:0|{'|'.join(COLOURS.values())})m)")


def shown_text(text: str, stream: IO[str]) -> str:
    """Text as a terminal may have it: rows, names and other people's errors are shown, not obeyed.

    Only the colours of `paint_text` are left, where the stream has colours at all.
    """
    if not _wants_colours(stream):
        return make_printable(text)
    return "".join(part if n % 2 else make_printable(part) for n, part in enumerate(OWN_COLOURS.split(text)))
