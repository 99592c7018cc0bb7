"""Opening data in any common format, detected and validated row by row."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.core.files import is_sealed
from holdfast.core.in_memory import cache_home
from holdfast.core.spelling import suggest_name
from holdfast.data.reading.columns import ColumnMap, ColumnUsage
from holdfast.data.reading.converters import (
    convert_messages,
    convert_prompt,
    convert_question,
    convert_text,
    refuse_unsupported,
)
from holdfast.data.reading.detection import (
    check_columns,
    detect_format,
    format_of,
    known_name,
    normalize_columns,
    record_signature,
)
from holdfast.data.reading.file_records import Document
from holdfast.data.reading.ignore import drop_ignored
from holdfast.data.reading.messages import unread_keys
from holdfast.data.reading.picture_parts import place_pictures, take_picture_columns
from holdfast.data.reading.preferences import Rejected, Tie, convert_kto, convert_preference
from holdfast.data.reading.readers import ROWS_IN_MEMORY, Source, open_source
from holdfast.data.reading.repeats import LOOK, repeat_prompts, without_prompts
from holdfast.data.reading.splits import count_shared_prompts, split_rows
from holdfast.data.reading.values import BadRow, check_encodable, has_content, number_of
from holdfast.data.row_shapes import Column, Kind, check_row, shape_of
from holdfast.data.row_store import RowFile, RowView
from holdfast.data.rows import Row, Rows, fingerprint_json
from holdfast.errors import UserError

__all__ = ["RowFile", "RowView", "count_shared_prompts", "format_of", "open_rows", "record_signature", "split_rows"]

VERSION = 5
"""Raised when rows come out differently, so that cached ones are not used."""


OWN_PLACE = re.compile(r":\d+$| row \d+$")
"""What a row's place looks like in a file that we wrote (`Row.place`)."""

FORMATS: dict[str, Callable[[dict[str, Any]], Row]] = {
    "alpaca": convert_prompt,
    "sharegpt": convert_messages,
    "messages": convert_messages,
    "prompt": convert_prompt,
    "preference": convert_preference,
    "kto": convert_kto,
    "text": convert_text,
}


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How the rows of a file are to be read.

    Args:
        format: One of `FORMATS`, or "auto".
        limit: Only so many.
        rejected: Which of several ranked answers is.
        kind, columns: What an objective asks of every row; `None`: not looked at.
        own: Columns that the objective reads by itself.
        own_answers: Whether these hold the answers, so that a row needs no other.
        column_map: Which column is what; `None`: their names say it.
    """

    format: str = "auto"
    limit: int | None = None
    rejected: Rejected = "worst"
    kind: Kind | None = None
    columns: Sequence[Column] = ()
    own: Collection[str] = ()
    own_answers: bool = False
    column_map: ColumnMap | None = None


def open_rows(
    source: str | Path,
    format: str = "auto",
    limit: int | None = None,
    cache: str | Path | None = None,
    *,
    rejected: Rejected = "worst",
    kind: Kind | None = None,
    columns: Sequence[Column] = (),
    own: Collection[str] = (),
    own_answers: bool = False,
    mapping: Mapping[str, str | int] | None = None,
    ignore: Sequence[str] = (),
    revision: str | None = None,
    document: Document = "auto",
    say: Callable[[str], object] = lambda text: None,
) -> Rows:
    """The validated rows of a data file or Hugging Face data set.

    Args:
        source: A JSONL, JSON, CSV, TSV, Parquet or text file (also .gz), `file.json:split`, a folder that `datasets`
            saved, or `owner/name[:config[:split]]` of the Hugging Face hub.
        format: `auto` (from the columns of all rows), or alpaca, sharegpt, messages, prompt, preference, kto, text.
        limit: Only the first rows.
        cache: Directory for the rows of large files; default `$HOLDFAST_CACHE`, else `~/.cache/holdfast`.
        rejected: Which of several ranked answers is: the "worst", or a "random" one of the lower.
        kind, columns: What an objective asks of every row; default: not looked at.
        own: Columns that the objective reads by itself (`RowShape.columns`), and that are no part of the prompt.
        own_answers: Whether these hold all answers of a row, which then needs no other (`RowShape.holds_answers`).
        mapping: Which column is the prompt, which the answer, ... (`data.columns`); default: their names say it.
        ignore: Columns, and keys of messages, that are not to be used (`data.ignore`).
        revision: Branch, tag or commit of a Hugging Face data set.
        document: What is one row of a text file (`data.document`).
        say: Called with a line on how the columns were read, and one about rows that were left out.
    Returns:
        A list; for more than 32 MiB a `RowFile`, which reads rows on demand.
    Raises:
        UserError: One line that names file, line and field, and says what to do.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"data.format: {format} is not a format{suggest_name(format, ['auto', *FORMATS])}")
    data_source = drop_ignored(open_source(str(source), revision, document), ignore, limit)
    lines: list[str] = []
    column_map = ColumnMap.from_mapping(mapping) if mapping else None
    options = ReadOptions(format, limit, rejected, kind, columns, own, own_answers, column_map)
    rows = _read_rows(data_source, options, lines.append)
    if not data_source.large or (limit is not None and limit <= ROWS_IN_MEMORY):
        out: Rows = list(rows)
    else:
        home = Path(cache) if cache else cache_home()
        requirements = [shape_of(kind).identity, [asdict(column) for column in columns]] if kind else []
        read = [
            format,
            limit,
            rejected,
            mapping,
            *ignore,
            sorted(own),
            *(["own answers"] if own_answers else []),
            *([] if document == "auto" else [document]),
            *requirements,
        ]
        directory = home / f"rows-{fingerprint_json([VERSION, data_source.digest(), *read])[:24]}"
        lines_path = directory / "said.txt"
        has_pictures = directory / "pictures"  # whose files may have changed: such rows are read anew
        if is_sealed(directory) and not has_pictures.exists():
            out = RowFile.open(directory, data_source.name)
            lines = lines_path.read_text(encoding="utf-8").splitlines() if lines_path.exists() else []
        else:
            out = RowFile.write(rows, directory, data_source.name)
            lines_path.write_text("\n".join(lines), encoding="utf-8")
            if any("images" in message for row in out for message in row.messages):
                has_pictures.touch()
    for line in lines:
        say(line)
    return out


def _read_rows(source: Source, options: ReadOptions, say: Callable[[str], object]) -> Iterator[Row]:
    """Rows as they are read; the rows that cannot be used are counted to the end, and then raised as one error."""
    column_map = options.column_map
    if column_map is not None:
        check_columns(source, options.limit, column_map)
    form = (
        detect_format(source, options.limit, column_map, options.own if options.own_answers else None)
        if options.format == "auto"
        else options.format
    )
    has_prompts = form not in ("text", "messages", "sharegpt")
    repeats_prompts = has_prompts and repeat_prompts(_first_records(source, options))
    reading = ColumnUsage(column_map)
    faults: dict[str, list[tuple[int, BadRow]]] = {}
    ties: list[int] = []
    total = cut = 0
    for number, record in islice(source.records(), options.limit):
        total += 1
        try:
            fields = _map_columns(record, column_map, source.describe_place(number))
            once = without_prompts(fields, repeats_prompts) if has_prompts else fields
            row, leftover = convert_record(once, form, options.rejected, options.own, source.folder)
        except BadRow as fault:
            _note_fault(faults, number, fault, column_map)
            continue
        except Tie:
            ties.append(number)
            continue
        cut += once is not fields
        row.place = source.describe_place(number)
        if options.kind and not faults:
            check_row(row, row.place, options.kind, options.columns)
        if column_map:
            column_map.check_all_used(leftover, row.meta, row.place)
            reading.add_record(record, [*column_map.unused_columns(record), *unread_keys(record)], str)
        elif "origin" not in record:  # written by us, every column has its meaning
            reading.add_record(record, leftover, known_name)
        yield row
    _refuse_faults(source, faults, total)
    if reading.row_keys and not source.plain:
        say(reading.format_line(source.name))
    if cut:
        say(f"{source.name}: the answers of {cut} of {total} rows begin with their prompt once more: it is taken off")
    if ties:
        say(_describe_ties(source, ties, total))


def _describe_ties(source: Source, ties: list[int], total: int) -> str:
    """A line on the rows of which no pair can be made.

    Raises:
        UserError: If these are all.
    """
    what = f"none of the answers is rated below the best, the first at {source.describe_place(ties[0])}"
    if len(ties) == total:
        raise UserError(f"{source.name}: no pair can be made of any row ({what}); give ratings that differ")
    return f"{source.name}: left out {len(ties)} of {total} rows ({what})"


def _refuse_faults(source: Source, faults: dict[str, list[tuple[int, BadRow]]], total: int) -> None:
    if faults:
        raise UserError(_describe_faults(source, faults))
    if total == 0:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")


def _map_columns(record: Mapping[str, Any], column_map: ColumnMap | None, where: str) -> dict[str, Any]:
    """A record by the names that formats know."""
    return column_map.map_record(record) if column_map else normalize_columns(record, where)


def _first_records(source: Source, options: ReadOptions) -> Iterator[dict[str, Any]]:
    """The first records by the names that formats know."""
    for number, record in islice(source.records(), min(LOOK, options.limit or LOOK)):
        try:
            yield _map_columns(record, options.column_map, source.describe_place(number))
        except BadRow:
            continue  # it is told when the rows are read


def convert_record(
    record: Mapping[str, Any],
    form: str,
    rejected: Rejected = "worst",
    own: Collection[str] = (),
    folder: Path | None = None,
) -> tuple[Row, list[str]]:
    """The row of a record in the format `form`, and the columns there was no use for, which go to `meta`.

    Args:
        own: Columns that the objective reads by itself: they go to `meta`, and not into the prompt.
        folder: Where relative paths of pictures begin.
    Raises:
        BadRow: With what is wrong and what to do.
        Tie: No pair can be made of its ranked answers.
    """
    rest = dict(record)
    is_own_row = "messages" in rest and isinstance(rest.get("origin"), str)
    if not is_own_row:
        refuse_unsupported(rest, calls=form in ("messages", "sharegpt"))
    apart = {key: rest.pop(key) for key in own if key != "choices" and rest.get(key) is not None}
    pictures = take_picture_columns(rest)
    row = _row_of(rest, form, rejected, show="choices" not in own)
    place_pictures(row, pictures, folder)
    _add_numbers(row, rest)
    if is_own_row:
        row.origin = rest.pop("origin")
        row.id = str(rest.pop("id", row.id))
        row.label = rest.pop("label", row.label)
        if "id" in record and OWN_PLACE.search(str(rest.get("place", ""))):
            del rest["place"]  # where it stood once; now it stands here
    meta = rest.pop("meta", None)
    extra = {k: v for k, v in rest.items() if v is not None} | (meta if isinstance(meta, dict) else {})
    row.meta = row.meta | extra | apart
    if row.meta or row.reference is not None:  # only what JSON can hold: Parquet has dates, Python has NaN
        text = json.dumps([row.meta, row.reference], ensure_ascii=False, default=str)
        check_encodable(text)
        row.meta, row.reference = json.loads(text, parse_constant=lambda name: None)
    leftover = [
        key for key, value in rest.items() if has_content(value) and (key != "choices" or "right" not in row.meta)
    ]
    return row, leftover if is_own_row else [*leftover, *unread_keys(record)]


def _row_of(rest: dict[str, Any], form: str, rejected: Rejected, show: bool) -> Row:
    if form == "preference":
        return convert_preference(rest, rejected)
    if form == "question":  # never by name: an objective's own columns say it
        return convert_question(rest)
    return convert_prompt(rest, show) if form in ("alpaca", "prompt") else FORMATS[form](rest)


def _add_numbers(row: Row, rest: dict[str, Any]) -> None:
    """Score and weight of a row; taken out of `rest`."""
    for key in ("score", "weight"):
        if rest.get(key) not in (None, ""):
            setattr(row, key, number_of(rest.pop(key), key))
    rating = rest.get("rating")
    if row.score is None and isinstance(rating, (int, float)) and not isinstance(rating, bool):
        row.score = number_of(rest.pop("rating"), "rating")
    if row.weight < 0:
        raise BadRow(f"field weight is negative ({row.weight:g})")


def _note_fault(
    faults: dict[str, list[tuple[int, BadRow]]], number: int, fault: BadRow, column_map: ColumnMap | None
) -> None:
    """Count a fault with those like it, in the words of the user's own columns."""
    if column_map:
        fault.what = column_map.reword_for_user(fault.what)
    kind = re.sub(r"\[\d+\]|\(.*?\)", "", fault.what)
    faults.setdefault(kind, []).append((number, fault))


def _describe_faults(source: Source, faults: dict[str, list[tuple[int, BadRow]]]) -> str:
    (number, fault), *alike = next(iter(faults.values()))
    others = [at for group in list(faults.values())[1:] for at, _ in group]
    line = fault.format_line(source.describe_place(number), 1 + len(alike))
    if others:
        rows = "1 more row has another fault" if len(others) == 1 else f"{len(others)} more rows have other faults"
        line += f" ({rows}, the first at {source.describe_place(min(others))})"
    return line
