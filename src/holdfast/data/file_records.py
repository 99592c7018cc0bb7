"""The records of a file, kind by kind: JSON lines, JSON, CSV, Parquet and plain text, read as streams."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import IO

from holdfast.data.json_stream import (
    BLANK,
    Record,
    TextWindow,
    array_elements,
    as_object,
    json_fault,
    object_members,
    unpacking,
)
from holdfast.errors import UserError, first_line


def kind_of(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    return ".jsonl" if kind == ".ndjson" else kind


def open_file(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def decode_line(name: str, number: int, raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8") from error


def file_lines(name: str, path: Path) -> Iterator[tuple[int, str]]:
    # Split at line feeds only: str.splitlines would also cut at U+2028 and its like, which stand inside strings.
    with open_file(path) as handle, unpacking(name):
        for number, raw in enumerate(handle, 1):
            yield number, decode_line(name, number, raw)


def is_array(name: str, path: Path) -> bool:
    """Whether a JSON file is one array (or one object over several lines) rather than one object per line."""
    lines = (line.strip() for _, line in file_lines(name, path) if line.strip())
    if first := next(lines, ""):
        if first.startswith("[") and first.endswith("]"):  # or rows that are lists, one a line
            return not next(lines, "").startswith("[")
        return first.startswith("[") or (first.startswith("{") and not first.endswith("}"))
    raise UserError(f"{name}: the file is empty; write one example per line")


def json_records(name: str, path: Path) -> Iterator[Record]:
    return array_records(name, path) if is_array(name, path) else jsonl_records(name, path)


def jsonl_records(name: str, path: Path) -> Iterator[Record]:
    for number, line in file_lines(name, path):
        if not line.strip():
            continue
        try:
            record = json.loads(line.rstrip("\r\n"))
        except json.JSONDecodeError as error:
            raise UserError(f"{name}:{number}: broken JSON ({json_fault(error)}); mend or remove the line") from error
        except ValueError as error:  # a whole number of more than 4,300 digits
            raise UserError(f"{name}:{number}: {str(error).split(';')[0]}; mend or remove the line") from error
        except RecursionError as error:
            raise UserError(f"{name}:{number}: JSON nested too deeply; mend or remove the line") from error
        yield number, as_object(f"{name}:{number}", record)


def array_records(name: str, path: Path) -> Iterator[Record]:
    """The elements of one big array, decoded as they are read, so that the file never lies in memory as a whole."""
    with open_file(path) as handle:
        text = TextWindow(name, handle)
        if text.skip(BLANK) != "[":
            raise UserError(
                f"{name}: the file is one object, not a list of rows or one row per line{hint_of_splits(name, path)}"
            )
        yield from array_elements(name, text)


def csv_records(name: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(1 << 30)  # the default of 128 KiB is less than one long document
    texts = (text for _, text in file_lines(name, path))
    reader = csv.reader(texts, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise UserError(f"{name}:1: two columns have the same name; rename one")
        start = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{name}:{start}: {len(cells)} fields, but the header has {len(header)}; quote the commas"
                )
            if cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: broken CSV ({error}); mend the quotes of the line") from error


def parquet_records(name: str, path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=1024):
            for record in batch.to_pylist():
                number += 1
                yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise UserError(f"{name}: not a readable Parquet file ({first_line(error)})") from error


def text_records(name: str, path: Path) -> Iterator[Record]:
    """Paragraphs: blocks between blank lines; or single lines, in a file without blank lines between them."""
    blocks = _in_blocks(name, path)
    start, block = 0, list[str]()
    for number, line in chain(file_lines(name, path), [(0, "")]):
        if block and (not line.strip() or not blocks):
            yield start, {"text": "".join(block).strip("\r\n")}
            block = []
        if line.strip():
            start = number if not block else start
            block.append(line)


def _in_blocks(name: str, path: Path) -> bool:
    """Whether a blank line has text before and after it."""
    begun = blank = False
    for _, line in file_lines(name, path):
        if line.strip():
            if blank:
                return True
            begun = True
        else:
            blank = begun
    return False


def split_records(name: str, path: Path, split: str) -> Iterator[Record]:
    """The records of one of the lists that an object holds."""
    with open_file(path) as handle:
        text = TextWindow(str(path), handle)
        if text.skip(BLANK) == "{":
            for key in object_members(text):
                if key == split and text.skip(BLANK) == "[":
                    yield from array_elements(name, text)
                    return
                text.value()
    raise UserError(f"{name}: {path.name} has no list {split}{hint_of_splits(str(path), path)}")


def hint_of_splits(name: str, path: Path) -> str:
    """Which lists of rows a file that is one object holds, and how to name one."""
    sizes: dict[str, int] = {}
    with open_file(path) as handle:
        text = TextWindow(name, handle)
        if text.skip(BLANK) == "{":
            for key in object_members(text):
                value = text.value()
                if isinstance(value, list) and value and isinstance(value[0], (dict, list)):
                    sizes[key] = len(value)
    if not sizes:
        return ""
    lists = ", ".join(f"{key} ({count:,} row{'s' * (count > 1)})" for key, count in sizes.items())
    return f"; it holds {lists}: write {name}:{'train' if 'train' in sizes else next(iter(sizes))}"
