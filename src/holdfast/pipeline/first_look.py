"""What `holdfast init` finds in a data file: how it is read, which judge and which method its rows call for."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

LOOK = 1000
"""Rows that are looked at."""


@dataclass(frozen=True, slots=True)
class FirstLook:
    """What a file holds.

    Args:
        lines: One line each for the user.
        judge: The judge its references call for; "" where they are free text, or none is needed.
        method: The method its rows call for when none is named.
    """

    lines: list[str] = field(default_factory=list)
    judge: str = ""
    method: str = "s3ft"


def is_here(data: str) -> bool:
    """Whether a data name is a file, pattern or folder on this machine, a split of it included."""
    if glob.has_magic(data) and glob.glob(str(Path(data).expanduser()), recursive=True):
        return True
    return Path(data).expanduser().exists() or Path(data.rpartition(":")[0] or ".none").expanduser().is_file()


def unknown_columns(data: str) -> list[str]:
    """The columns of a file's first record, if no format has them; else nothing."""
    from holdfast.data.reading.formats import format_of, record_signature
    from holdfast.data.reading.readers import files_of, open_source

    source = open_source(files_of(data)[0])
    record = next((record for _, record in source.records()), None)
    if source.plain or record is None or format_of(record_signature(record)) is not None:
        return []
    return list(record)


def first_look(data: str, columns: Mapping[str, str] | None = None) -> FirstLook:
    """Read the beginning of a file as a run would read it.

    Args:
        columns: `data.columns` of the recipe.
    Raises:
        UserError: If the file cannot be read; the line says where and why.
    """
    from holdfast.axes.registry import name_of
    from holdfast.data.reading.formats import open_rows
    from holdfast.data.reading.readers import files_of
    from holdfast.methods.judges.selection import guess_judge

    lines: list[str] = []
    say: Callable[[str], object] = lines.append
    rows = open_rows(files_of(data)[0], limit=LOOK, mapping=columns or None, say=say)
    first = rows[0]
    if first.rejected is not None:
        return FirstLook([*lines, "pairs of a better and a worse answer: method dpo"], method="dpo")
    if first.label is not None:
        return FirstLook([*lines, "answers marked as good or bad: method kto"], method="kto")
    if not first.prompt:
        return FirstLook([*lines, "plain text, all of which is trained on: method sft"], method="sft")
    judge, why = guess_judge(rows)
    if judge is None:
        why += ": measured is the loss of the held-out answers; methods that train on judged answers need a judge"
        return FirstLook([*lines, why], method="sft")
    return FirstLook([*lines, why], name_of(judge))
