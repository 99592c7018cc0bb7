"""Plain-text tables and paragraphs: no library, so that `list` and `show` are instant."""

from __future__ import annotations

import shutil
import sys
import textwrap
import unicodedata
from collections.abc import Sequence
from itertools import zip_longest

from holdfast.core.terminal import paint_text


def terminal_width() -> int:
    """Columns of the terminal, at most 120."""
    return min(120, shutil.get_terminal_size((100, 24)).columns)


def display_width(text: str) -> int:
    """Terminal columns of a text (wide characters count two)."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1 for c in text)


def format_table(
    rows: Sequence[Sequence[str]], head: Sequence[str] = (), right: Sequence[int] = (), wrap: Sequence[int] = ()
) -> str:
    """Aligned columns.

    Args:
        rows: Cells; rows may be shorter than the head.
        head: Column names; none if empty.
        right: Columns aligned to the right.
        wrap: Columns that are folded, the widest first, until lines fit the terminal.
    """
    every = [list(head), *map(list, rows)] if head else [list(row) for row in rows]
    columns = max(map(len, every), default=0)
    every = [row + [""] * (columns - len(row)) for row in every]
    sizes = [max(display_width(row[i]) for row in every) for i in range(columns)]
    while wrap and sum(sizes) + 2 * (columns - 1) > terminal_width():
        widest = max(wrap, key=lambda i: sizes[i])
        if sizes[widest] <= 20:
            break
        sizes[widest] -= 1
    lines: list[str] = []
    for n, row in enumerate(every):
        cell_lines = [(textwrap.wrap(cell, sizes[i]) or [""]) if i in wrap else [cell] for i, cell in enumerate(row)]
        for k in range(max(map(len, cell_lines), default=0)):
            parts = [
                _pad_cell(cell[k] if k < len(cell) else "", sizes[i], i in right) for i, cell in enumerate(cell_lines)
            ]
            line = "  ".join(parts).rstrip()
            lines.append(format_title(line) if head and n == 0 else line)
    return "\n".join(lines)


def format_columns(heads: Sequence[str], texts: Sequence[str], gap: int = 3) -> str:
    """Texts side by side under their heads, lines folded to columns of equal width; indentation is kept.

    Args:
        gap: Blanks between columns.
    """
    width = max(20, (terminal_width() - gap * (len(texts) - 1)) // len(texts))
    columns = [[part for line in text.split("\n") for part in fold_line(line, width)] for text in texts]
    rows = [[fold_line(head, width)[0] for head in heads], *map(list, zip_longest(*columns, fillvalue=""))]
    lines = [(" " * gap).join(_pad_cell(cell, width, False) for cell in row).rstrip() for row in rows]
    return "\n".join([format_title(lines[0]), *lines[1:]])


def fold_line(line: str, width: int) -> list[str]:
    """A line as several of at most so many terminal columns, at blanks where there are some."""
    line, out = line.expandtabs(4).rstrip(), []
    while display_width(line) > width:
        end = 0
        while display_width(line[: end + 1]) <= width:
            end += 1
        blank = line.rfind(" ", 1, end + 1)
        place = blank if blank > 0 and line[:blank].strip() else end
        out.append(line[:place].rstrip())
        line = line[place:].lstrip()
    return [*out, line]


def _pad_cell(cell: str, size: int, right: bool) -> str:
    gap = " " * max(0, size - display_width(cell))
    return gap + cell if right else cell + gap


def format_title(text: str) -> str:
    """A heading."""
    return paint_text(text, "bold", sys.stdout)
