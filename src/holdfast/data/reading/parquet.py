"""The records of a Parquet file, in batches that fit the memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.data.reading.json_stream import LONGEST, Record, too_long
from holdfast.errors import UserError, first_line

BATCH = 64 << 20
"""Bytes that are unpacked at a time."""


def parquet_records(name: str, path: Path) -> Iterator[Record]:
    number = 0
    with _open_parquet(name, path, lambda: number) as file:
        names = file.schema_arrow.names
        if twice := next((column for column in names if names.count(column) > 1), None):
            raise UserError(f"{name}: two columns are called {twice}; rename one")
        each = _bytes_of(file) // max(1, file.metadata.num_rows) + 1
        for batch in file.iter_batches(batch_size=max(1, min(1024, BATCH // each))):
            records = batch.to_pylist()
            for record in records:
                number += 1
                if batch.nbytes > LONGEST and len(repr(record)) > LONGEST:
                    raise UserError(f"{name} row {number}: {too_long('the row')}")
                yield number, record


def unpacked_size(name: str, path: Path) -> int:
    """How many bytes a Parquet file holds when it is unpacked."""
    with _open_parquet(name, path) as file:
        return _bytes_of(file)


def _bytes_of(file: Any) -> int:
    meta = file.metadata
    return sum(meta.row_group(i).total_byte_size for i in range(meta.num_row_groups))


@contextlib.contextmanager
def _open_parquet(name: str, path: Path, rows_read: Any = lambda: 0) -> Iterator[Any]:
    """The file; whatever is wrong with it is said in one line, with the last row that could be read."""
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            yield file
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        place = f" after row {rows_read()}" if rows_read() else ""
        raise UserError(f"{name}: not a readable Parquet file{place} ({first_line(error)}); write it anew") from error
