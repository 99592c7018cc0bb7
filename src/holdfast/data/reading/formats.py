"""Opening data in any common format, detected and validated row by row."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from holdfast.core.files import is_sealed
from holdfast.core.spelling import nearest
from holdfast.data.reading.columns import ColumnMap, Reading
from holdfast.data.reading.converters import answered, dialogue, plain, refuse_unsupported, unanswered
from holdfast.data.reading.detection import check_columns, detect, format_of, known_name, named, signature
from holdfast.data.reading.ignore import without
from holdfast.data.reading.messages import unread_keys
from holdfast.data.reading.preferences import Rejected, Tie, kto, preference
from holdfast.data.reading.readers import ROWS_IN_MEMORY, Source, open_source
from holdfast.data.reading.repeats import LOOK, repeat_prompts, without_prompts
from holdfast.data.reading.splits import duplicates, split
from holdfast.data.reading.values import BadRow, check_encodable, holds, number_of
from holdfast.data.row_shapes import Column, Kind, require, shape_of
from holdfast.data.row_store import RowFile, RowView
from holdfast.data.rows import Row, Rows, fingerprint
from holdfast.errors import UserError

__all__ = ["RowFile", "RowView", "duplicates", "format_of", "open_rows", "signature", "split"]

VERSION = 4
"""Raised when rows come out differently, so that cached ones are not used."""


FORMATS: dict[str, Callable[[dict[str, Any]], Row]] = {
    "alpaca": answered,
    "sharegpt": dialogue,
    "messages": dialogue,
    "prompt": answered,
    "preference": preference,
    "kto": kto,
    "text": plain,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """How the rows of a file are to be read.

    Args:
        format: One of `FORMATS`, or "auto".
        limit: Only so many.
        rejected: Which of several ranked answers is.
        kind, columns: What an objective asks of every row; `None`: not looked at.
        own: Columns that the objective reads by itself.
        answered: Whether these hold the answers, so that a row needs no other.
        mapped: Which column is what; `None`: their names say it.
    """

    format: str = "auto"
    limit: int | None = None
    rejected: Rejected = "worst"
    kind: Kind | None = None
    columns: Sequence[Column] = ()
    own: Collection[str] = ()
    answered: bool = False
    mapped: ColumnMap | None = None


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
        say: Called with a line on how the columns were read, and one about rows that were left out.
    Returns:
        A list; for more than 32 MiB a `RowFile`, which reads rows on demand.
    Raises:
        UserError: One line that names file, line and field, and says what to do.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"data.format: {format} is not a format{nearest(format, ['auto', *FORMATS])}")
    found = without(open_source(str(source), revision), ignore, limit)
    lines: list[str] = []
    mapped = ColumnMap.of(mapping) if mapping else None
    asked = Asked(format, limit, rejected, kind, columns, own, own_answers, mapped)
    rows = _rows(found, asked, lines.append)
    if not found.large or (limit is not None and limit <= ROWS_IN_MEMORY):
        out: Rows = list(rows)
    else:
        home = Path(cache or os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast")
        needed = [shape_of(kind).identity, [asdict(column) for column in columns]] if kind else []
        read = [
            format,
            limit,
            rejected,
            mapping,
            *ignore,
            sorted(own),
            *(["own answers"] if own_answers else []),
            *needed,
        ]
        directory = home / f"rows-{fingerprint([VERSION, found.digest(), *read])[:24]}"
        said = directory / "said.txt"
        if is_sealed(directory):
            out = RowFile.open(directory)
            lines = said.read_text(encoding="utf-8").splitlines() if said.exists() else []
        else:
            out = RowFile.write(rows, directory)
            said.write_text("\n".join(lines), encoding="utf-8")
    for line in lines:
        say(line)
    return out


def _rows(source: Source, asked: Asked, say: Callable[[str], object]) -> Iterator[Row]:
    """Rows as they are read; the rows that cannot be used are counted to the end, and then raised as one error."""
    mapped = asked.mapped
    if mapped is not None:
        check_columns(source, asked.limit, mapped)
    form = (
        detect(source, asked.limit, mapped, asked.own if asked.answered else ())
        if asked.format == "auto"
        else asked.format
    )
    prompted = form not in ("text", "messages", "sharegpt")
    doubled = prompted and repeat_prompts(_first_records(source, asked))
    reading = Reading(mapped)
    faults: dict[str, list[tuple[int, BadRow]]] = {}
    ties: list[int] = []
    total = cut = 0
    for number, record in islice(source.records(), asked.limit):
        total += 1
        try:
            known = _known(record, mapped, source.at(number))
            once = without_prompts(known, doubled) if prompted else known
            row, left = convert(once, form, asked.rejected, asked.own)
        except BadRow as fault:
            _note(faults, number, fault, mapped)
            continue
        except Tie:
            ties.append(number)
            continue
        cut += once is not known
        if asked.kind and not faults:
            require(row, source.at(number), asked.kind, asked.columns)
        if mapped:
            mapped.check_all_used(left, row.meta, source.at(number))
            reading.note(record, [*mapped.unused(record), *unread_keys(record)], str)
        elif "origin" not in record:  # written by us, every column has its meaning
            reading.note(record, left, known_name)
        yield row
    _refuse_faults(source, faults, total)
    if reading.seen and not source.plain:
        say(reading.line(source.name))
    if cut:
        say(f"{source.name}: the answers of {cut} of {total} rows begin with their prompt once more: it is taken off")
    if ties:
        what = f"none of the answers is rated below the best, the first at {source.at(ties[0])}"
        if len(ties) == total:
            raise UserError(f"{source.name}: no pair can be made of any row ({what}); give ratings that differ")
        say(f"{source.name}: left out {len(ties)} of {total} rows ({what})")


def _refuse_faults(source: Source, faults: dict[str, list[tuple[int, BadRow]]], total: int) -> None:
    if faults:
        raise UserError(_report(source, faults))
    if total == 0:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")


def _known(record: Mapping[str, Any], mapped: ColumnMap | None, where: str) -> dict[str, Any]:
    """A record by the names that formats know."""
    return mapped.apply(record) if mapped else named(record, where)


def _first_records(source: Source, asked: Asked) -> Iterator[dict[str, Any]]:
    """The first records by the names that formats know."""
    for number, record in islice(source.records(), min(LOOK, asked.limit or LOOK)):
        try:
            yield _known(record, asked.mapped, source.at(number))
        except BadRow:
            continue  # it is told when the rows are read


def convert(
    record: Mapping[str, Any], form: str, rejected: Rejected = "worst", own: Collection[str] = ()
) -> tuple[Row, list[str]]:
    """The row of a record in the format `form`, and the columns there was no use for, which go to `meta`.

    Args:
        own: Columns that the objective reads by itself: they go to `meta`, and not into the prompt.
    Raises:
        BadRow: With what is wrong and what to do.
        Tie: No pair can be made of its ranked answers.
    """
    rest = dict(record)
    written = "messages" in rest and isinstance(rest.get("origin"), str)
    if not written:
        refuse_unsupported(rest, calls=form in ("messages", "sharegpt"))
    apart = {key: rest.pop(key) for key in own if key != "choices" and rest.get(key) is not None}
    row = _row_of(rest, form, rejected, show="choices" not in own)
    _add_numbers(row, rest)
    if written:
        row.origin = rest.pop("origin")
        row.id = str(rest.pop("id", row.id))
        row.label = rest.pop("label", row.label)
    meta = rest.pop("meta", None)
    kept = {k: v for k, v in rest.items() if v is not None} | (meta if isinstance(meta, dict) else {})
    row.meta = row.meta | kept | apart
    if row.meta or row.reference is not None:  # only what JSON can hold: Parquet has dates, Python has NaN
        text = json.dumps([row.meta, row.reference], ensure_ascii=False, default=str)
        check_encodable(text)
        row.meta, row.reference = json.loads(text, parse_constant=lambda name: None)
    left = [key for key, value in rest.items() if holds(value) and (key != "choices" or "right" not in row.meta)]
    return row, left if written else [*left, *unread_keys(record)]


def _row_of(rest: dict[str, Any], form: str, rejected: Rejected, show: bool) -> Row:
    if form == "preference":
        return preference(rest, rejected)
    if form == "question":  # never by name: an objective's own columns say it
        return unanswered(rest)
    return answered(rest, show) if form in ("alpaca", "prompt") else FORMATS[form](rest)


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


def _note(faults: dict[str, list[tuple[int, BadRow]]], number: int, fault: BadRow, mapped: ColumnMap | None) -> None:
    """Count a fault with those like it, in the words of the user's own columns."""
    if mapped:
        fault.what = mapped.in_user_words(fault.what)
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
