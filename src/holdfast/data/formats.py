"""Opening data in any common format, detected and validated; splitting it; finding duplicates."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from holdfast.data.convert import FORMATS, KNOWN, BadRow, columns, convert, format_of, signature
from holdfast.data.readers import ROWS_IN_MEMORY, Source, open_source
from holdfast.data.rowfile import RowFile, RowView, prompt_keys
from holdfast.data.rows import Row, Rows, fingerprint
from holdfast.errors import UserError
from holdfast.registry import nearest

__all__ = ["RowFile", "RowView", "duplicates", "open_rows", "split"]

VERSION = 1
"""Raised when rows come out differently, so that cached ones are not used."""


def open_rows(
    source: str | Path, format: str = "auto", limit: int | None = None, cache: str | Path | None = None
) -> Rows:
    """The validated rows of a data file or Hugging Face data set.

    Args:
        source: A JSONL, JSON, CSV, TSV, Parquet or text file (also .gz), or `owner/name[:config[:split]]`.
        format: `auto` (from the columns of all rows), or alpaca, sharegpt, messages, prompt, preference, kto, text.
        limit: Only the first rows.
        cache: Directory for the rows of large files; default `$HOLDFAST_CACHE`, else `~/.cache/holdfast`.
    Returns:
        A list; for more than 32 MiB a `RowFile`, which reads rows on demand.
    Raises:
        UserError: One line that names file, line and field, and says what to do.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"data.format: {format} is not a format{nearest(format, ['auto', *FORMATS])}")
    found = open_source(str(source))
    if not found.large or (limit is not None and limit <= ROWS_IN_MEMORY):
        return list(_rows(found, format, limit))
    home = Path(cache or os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast")
    directory = home / f"rows-{fingerprint([VERSION, found.digest(), format, limit])[:24]}"
    return RowFile.open(directory) if directory.exists() else RowFile.write(_rows(found, format, limit), directory)


def _rows(source: Source, form: str, limit: int | None) -> Iterator[Row]:
    """Rows as they are read; the rows that cannot be used are counted to the end, and then raised as one error."""
    form = _detect(source, limit) if form == "auto" else form
    faults: dict[str, list[tuple[int, BadRow]]] = {}
    total = 0
    for number, record in islice(source.records(), limit):
        total += 1
        try:
            yield convert(columns(record), form)
        except BadRow as fault:
            _note(faults, number, fault)
    if faults:
        raise UserError(_report(source, faults))
    if total == 0:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")


def _note(faults: dict[str, list[tuple[int, BadRow]]], number: int, fault: BadRow) -> None:
    kind = re.sub(r"\[\d+\]|\(.*?\)", "", fault.what)
    faults.setdefault(kind, []).append((number, fault))


def _report(source: Source, faults: dict[str, list[tuple[int, BadRow]]]) -> str:
    (number, fault), *alike = next(iter(faults.values()))
    others = [at for group in list(faults.values())[1:] for at, _ in group]
    line = fault.line(source.at(number), 1 + len(alike))
    if others:
        rows = "1 more row has another fault" if len(others) == 1 else f"{len(others)} more rows have other faults"
        line += f" ({rows}, the first at {source.at(min(others))})"
    return line


def _detect(source: Source, limit: int | None) -> str:
    """The one format that the columns of all rows agree on."""
    seen: dict[frozenset[str], int] = {}  # columns: the first row that has them
    for number, record in islice(source.records(), limit):
        seen.setdefault(signature(columns(record)), number)
    if any("label=other" in keys for keys in seen):  # class labels, not KTO's
        seen = {frozenset(k for k in keys if not k.startswith("label=")): n for keys, n in reversed(seen.items())}
    formats: dict[str, int] = {}
    for keys, number in sorted(seen.items(), key=lambda item: item[1]):
        form = format_of(keys)
        if form is not None:
            formats.setdefault(form, number)
    if not seen:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")
    if not formats:
        keys, number = min(seen.items(), key=lambda item: item[1])
        names = ", ".join(sorted(k for k in keys if not k.startswith("label=")))
        raise UserError(
            f"{source.at(number)}: no known format has the columns {names or '(none)'}; rename them to those of {KNOWN}"
        )
    if "kto" in formats and len(formats) == 2 and formats.keys() & {"messages", "prompt", "alpaca"}:
        return "kto"  # rows without a label are named as such
    if len(formats) > 1:
        (one, first), (other, second) = list(formats.items())[:2]
        raise UserError(
            f"{source.at(second)}: the row is in the {other} format, but {source.at(first)} is in the {one} format; "
            "put each format into a file of its own"
        )
    return next(iter(formats))


# ---- splitting ----------------------------------------------------------------------------------------------------


def split(rows: Rows, test: float, seed: int = 0) -> tuple[Rows, Rows]:
    """`(train, test)`: hold out a share of the rows, the same ones for the same seed however the file is ordered.

    Rows with the same prompt stay on one side, unless so many share one that this is impossible. Order is kept.

    Args:
        rows: At least two, unless `test` is 0.
        test: Share in [0, 1).
        seed: Chooses the rows.
    """
    if not 0 <= test < 1:
        raise UserError(f"data.test: {test} is not a share from 0 to 1")
    if test == 0:
        return rows, []
    if len(rows) < 2:
        raise UserError("data.test: a single row cannot be split; set data.test to 0 or to a file")
    wanted = min(max(1, round(len(rows) * test)), len(rows) - 1)
    held = _hold_out(_mixed(prompt_keys(rows), seed), wanted)
    if not wanted / 2 <= held.sum() <= 1.5 * wanted + 1 or held.all():
        ids = np.array([int(fingerprint([row.id, row.messages])[:16], 16) for row in rows], dtype=np.uint64)
        # Equal rows fall to one side only as long as there are others.
        mixed = _mixed(ids, seed)
        held = np.zeros(len(rows), dtype=np.bool_)
        held[np.argsort(mixed, kind="stable")[:wanted]] = True
    return _select(rows, np.flatnonzero(~held)), _select(rows, np.flatnonzero(held))


def _hold_out(mixed: np.ndarray, wanted: int) -> np.ndarray:
    """Whole groups of equal numbers, smallest first, until `wanted` are held out; bool [rows]."""
    bound = np.sort(mixed)[wanted - 1]
    return mixed <= bound


def _mixed(keys: np.ndarray, seed: int) -> np.ndarray:
    """SplitMix64 of the keys: another order for every seed. Wraps around by design."""
    z = keys + np.uint64((seed * 0x9E3779B97F4A7C15 + 0x9E3779B97F4A7C15) % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _select(rows: Rows, indices: np.ndarray) -> Rows:
    return [rows[i] for i in indices.tolist()] if isinstance(rows, list) else RowView(rows, indices)


def duplicates(train: Rows, test: Rows) -> int:
    """How many different prompts occur in both, white space aside."""
    return int(np.intersect1d(prompt_keys(train), prompt_keys(test)).size)
