"""The records of a file, kind by kind: JSON lines, JSON, CSV, Parquet and plain text, read as streams."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Literal

from holdfast.data.reading.json_stream import (
    BLANK,
    LONGEST,
    JsonFault,
    Record,
    TextWindow,
    array_elements,
    as_object,
    explain_gzip_faults,
    object_members,
    parse_json,
    skip_value,
    too_long,
)
from holdfast.data.reading.parquet import unpacked_size
from holdfast.errors import UserError

Document = Literal["auto", "paragraph", "line", "file"]
"""What is one document of a text file."""


def kind_of(path: Path) -> str:
    """The suffix that says how to read a file, `.gz` aside."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    kind = suffixes[-1] if suffixes else ""
    return ".jsonl" if kind == ".ndjson" else kind


def open_file(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix.lower() == ".gz" else path.open("rb")  # type: ignore[return-value]


def is_larger(name: str, path: Path, size: int) -> bool:
    """Whether a file has more than `size` bytes when it is unpacked."""
    if kind_of(path) == ".parquet":
        return path.stat().st_size > size or unpacked_size(name, path) > size
    if path.stat().st_size > size or path.suffix.lower() != ".gz":
        return path.stat().st_size > size
    with open_file(path) as handle, explain_gzip_faults(name):
        bytes_read = 0
        while bytes_read <= size and (block := handle.read(1 << 20)):
            bytes_read += len(block)
    return bytes_read > size


def decode_line(name: str, number: int, raw: bytes) -> str:
    """A line as text, without the mark that files joined from several have in the middle too."""
    try:
        return raw.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}:{number}: not UTF-8 text (byte {error.start + 1}); save the file as UTF-8") from error


def file_lines(name: str, path: Path) -> Iterator[tuple[int, str]]:
    # Split at line feeds only: str.splitlines would also cut at U+2028 and its like, which stand inside strings.
    with open_file(path) as handle, explain_gzip_faults(name):
        number = 0
        while raw := handle.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                raise UserError(f"{name}:{number}: {too_long('the line')}")
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
        line = line.rstrip("\r\n")
        try:
            record = parse_json(line)
        except JsonFault as fault:
            raise UserError(f"{name}:{number}: broken JSON ({fault}); {_suggest_mend(line)}") from fault
        yield number, as_object(f"{name}:{number}", record)


def _suggest_mend(line: str) -> str:
    """What to do about a line that is no JSON."""
    if "}\r{" in line.replace(" ", ""):
        return "its rows end in a lone CR, as on old Macs; save the file with LF line ends"
    if "}\ufeff{" in line or "}{" in line:
        return "two rows stand on one line; put each on a line of its own"
    return "mend or remove the line"


def array_records(name: str, path: Path) -> Iterator[Record]:
    """The elements of one big array, decoded as they are read, so that the file never lies in memory as a whole."""
    with open_file(path) as handle:
        text = TextWindow(name, handle)
        if text.skip_chars(BLANK) != "[":
            raise UserError(
                f"{name}: the file is one object, not a list of rows or one row per line{hint_of_splits(name, path)}"
            )
        yield from array_elements(name, text)
        text.require_end("list")


def csv_records(name: str, path: Path) -> Iterator[Record]:
    csv.field_size_limit(LONGEST)  # the default of 128 KiB is less than one long document
    texts = (text for _, text in file_lines(name, path))
    reader = csv.reader(texts, delimiter="\t" if kind_of(path) == ".tsv" else ",", strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise UserError(f"{name}:1: two columns have the same name; rename one")
        start = reader.line_num + 1
        for cells in reader:
            if cells == header:
                raise UserError(f"{name}:{start}: the header stands here once more; remove the line")
            if cells and len(cells) != len(header):
                raise UserError(
                    f"{name}:{start}: {len(cells)} fields, but the header has {len(header)}; quote the commas"
                )
            if cells:
                yield start, dict(zip(header, cells, strict=True))
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{name}:{reader.line_num}: {_csv_fault(str(error))}") from error


def _csv_fault(text: str) -> str:
    if "new-line character" in text:
        return "a lone CR ends a line here, as on old Macs; save the file with LF line ends"
    if "field larger" in text:
        return f"{too_long('a field')}, or close a quote before it"
    return f"broken CSV ({text}); mend the quotes of the line"


def text_records(name: str, path: Path, document: Document = "auto") -> Iterator[Record]:
    """The documents of a text file, each with the line it begins at.

    Args:
        document: `paragraph`: a block between blank lines; `line`; `file`: all of it; `auto`: paragraphs, or lines in a
            file without blank lines between them.
    Raises:
        UserError: If it is no text in UTF-8, or a document is too long.
    """
    if document == "auto":
        document = "paragraph" if _in_blocks(name, path) else "line"
    start, block, size = 0, list[str](), 0
    for number, line in file_lines(name, path):
        _refuse_foreign_text(name, number, line)
        is_blank = not line.strip()
        if block and (document == "line" or (document == "paragraph" and is_blank)):
            yield start, {"text": "".join(block).strip("\r\n")}
            block, size = [], 0
        if block or not is_blank:
            start, size = start if block else number, size + len(line)
            block.append(line)
        if size > LONGEST:
            split = "" if document == "paragraph" else ", or set data.document: paragraph"
            raise UserError(f"{name}:{start}: {too_long(f'the {document}')}{split}")
    if block:
        yield start, {"text": "".join(block).strip("\r\n")}


def _refuse_foreign_text(name: str, number: int, line: str) -> None:
    """See that a line is of a text as it is written today.

    Raises:
        UserError: If not: the line ends of old Macs, or the zeros that UTF-16 and binary files are full of.
    """
    if number == 1 and not line.endswith("\n") and "\r" in line.strip("\r"):
        raise UserError(f"{name}:{number}: its lines end in a lone CR, as on old Macs; save it with LF line ends")
    if "\0" in line:
        raise UserError(
            f"{name}:{number}: holds NUL bytes, so it is UTF-16 or no text; save it as UTF-8, or leave it out"
        )


def _in_blocks(name: str, path: Path) -> bool:
    """Whether a blank line has text before and after it."""
    has_text = blank = False
    for _, line in file_lines(name, path):
        if line.strip():
            if blank:
                return True
            has_text = True
        else:
            blank = has_text
    return False


def split_records(name: str, path: Path, split: str) -> Iterator[Record]:
    """The records of one of the lists that an object holds."""
    with open_file(path) as handle:
        text = TextWindow(str(path), handle)
        has_split = False
        if text.skip_chars(BLANK) == "{":
            for key in object_members(text):
                if key == split and text.skip_chars(BLANK) == "[":
                    has_split = True
                    yield from array_elements(name, text)
                else:
                    skip_value(name, text)
            if has_split:
                text.require_end("object")
    if not has_split:
        raise UserError(f"{name}: {path.name} has no list {split}{hint_of_splits(str(path), path)}")


def hint_of_splits(name: str, path: Path) -> str:
    """Which lists of rows a file that is one object holds, and how to name one."""
    sizes: dict[str, int] = {}
    with open_file(path) as handle:
        text = TextWindow(name, handle)
        if text.skip_chars(BLANK) == "{":
            for key in object_members(text):
                count, first = skip_value(name, text)
                if isinstance(first, (dict, list)):
                    sizes[key] = count
    if not sizes:
        return ""
    lists = ", ".join(f"{key} ({count:,} row{'s' * (count > 1)})" for key, count in sizes.items())
    return f"; it holds {lists}: write {name}:{'train' if 'train' in sizes else next(iter(sizes))}"
