"""Opening data in any common format, detected and validated; splitting it; finding duplicates."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from holdfast.data import preferences
from holdfast.data.columns import ROLES, ColumnMap, Reading, has
from holdfast.data.convert import (
    ANSWERS,
    CONVERSATIONS,
    MEDIA,
    PROMPTS,
    BadRow,
    answered,
    check_encodable,
    dialogue,
    number_of,
    plain,
)
from holdfast.data.json_stream import ByPlace
from holdfast.data.kinds import Column, Kind, require
from holdfast.data.preferences import Rejected, Tie, kto, label_kind, preference, ranked_column
from holdfast.data.readers import ROWS_IN_MEMORY, Source, open_source, refuse_splits
from holdfast.data.rowfile import RowFile, RowView, prompt_keys
from holdfast.data.rows import Row, Rows, fingerprint
from holdfast.errors import UserError
from holdfast.registry import nearest

__all__ = ["RowFile", "RowView", "duplicates", "open_rows", "split"]

VERSION = 3
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
KNOWN = (
    "alpaca (instruction, output), messages or conversations, prompt and completion (or question and answer), "
    "chosen and rejected (or completions with scores), or text"
)
NOT_PLAIN = {*ANSWERS, "code", "label", "target", "summary", "translation", "chosen", "rejected"}
"""Columns beside `text` that say the text alone is not what should be learned."""

COLUMNS = {
    *CONVERSATIONS,
    *PROMPTS,
    *ANSWERS,
    *MEDIA,
    *NOT_PLAIN,
    *preferences.COLUMNS,
    *("text", "system", "system_prompt", "history", "context", "reference", "tests", "choices", "score", "weight"),
}


def open_rows(
    source: str | Path,
    format: str = "auto",
    limit: int | None = None,
    cache: str | Path | None = None,
    *,
    rejected: Rejected = "worst",
    kind: Kind | None = None,
    columns: Sequence[Column] = (),
    mapping: Mapping[str, str | int] | None = None,
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
        mapping: Which column is the prompt, which the answer, ... (`data.columns`); default: their names say it.
        revision: Branch, tag or commit of a Hugging Face data set.
        say: Called with a line on how the columns were read, and one about rows that were left out.
    Returns:
        A list; for more than 32 MiB a `RowFile`, which reads rows on demand.
    Raises:
        UserError: One line that names file, line and field, and says what to do.
    """
    if format != "auto" and format not in FORMATS:
        raise UserError(f"data.format: {format} is not a format{nearest(format, ['auto', *FORMATS])}")
    found = open_source(str(source), revision)
    lines: list[str] = []
    mapped = ColumnMap.of(mapping) if mapping else None
    rows = _rows(found, format, limit, rejected, kind, columns, mapped, lines.append)
    if not found.large or (limit is not None and limit <= ROWS_IN_MEMORY):
        out: Rows = list(rows)
    else:
        home = Path(cache or os.environ.get("HOLDFAST_CACHE") or Path.home() / ".cache" / "holdfast")
        asked = [kind, [asdict(column) for column in columns]] if kind else []
        key = fingerprint([VERSION, found.digest(), format, limit, rejected, mapping, *asked])
        directory = home / f"rows-{key[:24]}"
        told = directory / "said.txt"
        if directory.exists():
            out = RowFile.open(directory)
            lines = told.read_text(encoding="utf-8").splitlines() if told.exists() else []
        else:
            out = RowFile.write(rows, directory)
            told.write_text("\n".join(lines), encoding="utf-8")
    for line in lines:
        say(line)
    return out


def _rows(
    source: Source,
    form: str,
    limit: int | None,
    rejected: Rejected,
    kind: Kind | None,
    columns: Sequence[Column],
    mapped: ColumnMap | None,
    say: Callable[[str], object],
) -> Iterator[Row]:
    """Rows as they are read; the rows that cannot be used are counted to the end, and then raised as one error."""
    if mapped is not None:
        _check_columns(source, limit, mapped)
    form = _detect(source, limit, mapped) if form == "auto" else form
    reading = Reading(mapped)
    faults: dict[str, list[tuple[int, BadRow]]] = {}
    ties: list[int] = []
    total = 0
    for number, record in islice(source.records(), limit):
        total += 1
        try:
            row, left = convert(mapped.apply(record) if mapped else named(record, source.at(number)), form, rejected)
        except BadRow as fault:
            if mapped:
                fault.what = mapped.in_user_words(fault.what)
            _note(faults, number, fault)
            continue
        except Tie:
            ties.append(number)
            continue
        if kind and not faults:
            require(row, source.at(number), kind, columns)
        if mapped:
            mapped.check_all_used(left, row.meta, source.at(number))
            reading.note(record, mapped.unused(record), str)
        elif "origin" not in record:  # written by us, every column has its meaning
            reading.note(record, left, known_name)
        yield row
    if faults:
        raise UserError(_report(source, faults))
    if total == 0:
        raise UserError(f"{source.name}: there are no rows in it; write one example per line")
    if reading.seen and not source.plain:
        say(reading.line(source.name))
    if ties:
        what = f"none of the answers is rated below the best, the first at {source.at(ties[0])}"
        if len(ties) == total:
            raise UserError(f"{source.name}: no pair can be made of any row ({what}); give ratings that differ")
        say(f"{source.name}: left out {len(ties)} of {total} rows ({what})")


def convert(record: Mapping[str, Any], form: str, rejected: Rejected = "worst") -> tuple[Row, list[str]]:
    """The row of a record in the format `form`, and the columns there was no use for, which go to `meta`.

    Raises:
        BadRow: With what is wrong and what to do.
        Tie: No pair can be made of its ranked answers.
    """
    rest = dict(record)
    for key in MEDIA:
        if rest.get(key):
            raise BadRow(f"field {key} holds media, only text can be trained on", "take {} out")
    own = "messages" in rest and isinstance(rest.get("origin"), str)
    row = preference(rest, rejected) if form == "preference" else FORMATS[form](rest)
    for key in ("score", "weight"):
        if rest.get(key) not in (None, ""):
            setattr(row, key, number_of(rest.pop(key), key))
    rating = rest.get("rating")
    if row.score is None and isinstance(rating, (int, float)) and not isinstance(rating, bool):
        row.score = number_of(rest.pop("rating"), "rating")
    if row.weight < 0:
        raise BadRow(f"field weight is negative ({row.weight:g})")
    if own:
        row.origin = rest.pop("origin")
        row.id = str(rest.pop("id", row.id))
        row.label = rest.pop("label", row.label)
    meta = rest.pop("meta", None)
    kept = {k: v for k, v in rest.items() if v is not None} | (meta if isinstance(meta, dict) else {})
    row.meta = row.meta | kept
    if row.meta or row.reference is not None:  # only what JSON can hold: Parquet has dates and the like
        text = json.dumps([row.meta, row.reference], ensure_ascii=False, default=str)
        check_encodable(text)
        row.meta, row.reference = json.loads(text)
    return row, [key for key in rest if key != "choices" or form not in ("alpaca", "prompt")]


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


# ---- which format -------------------------------------------------------------------------------------------------


def known_name(column: str) -> str:
    """The name of a column as it is known here: in lower case, if that is one of the names known."""
    return low if (low := column.strip().lower()) in COLUMNS else column


def named(record: Mapping[str, Any], where: str = "") -> dict[str, Any]:
    """The record with the columns known here in lower case.

    Raises:
        UserError: If its columns have no names; `where` it stands is told.
    """
    if isinstance(record, ByPlace):
        raise UserError(
            f"{where}: a row must be an object with named columns, not a list; say what stands where, as in "
            "data.columns: {prompt: 0, answer: 1}"
        )
    return {low if (low := key.strip().lower()) in COLUMNS else key: value for key, value in record.items()}


def signature(record: Mapping[str, Any]) -> frozenset[str]:
    """The columns of a record that hold something; whether its label is a truth value, and its answers are ranked."""
    keys = {key for key, value in record.items() if value is not None} or set(record)
    if "label" in keys:
        keys.add(f"label={label_kind(record['label'])}")
    ranked = ranked_column(record)
    return frozenset(keys - {ranked} | {"ranked="} if ranked else keys)


def format_of(keys: frozenset[str]) -> str | None:
    """alpaca, messages, prompt, preference, kto or text, or None if the columns fit none of them."""
    sides = preferences.sides_of(keys)
    if sides and (set(sides) <= keys or sides[1] in preferences.ENDED):
        return "preference"
    answer = any(k in keys for k in ANSWERS)
    if any(k in keys for k in CONVERSATIONS) and "ranked=" not in keys:
        base: str | None = "messages"
    elif "instruction" in keys and answer:
        base = "alpaca"
    elif any(k in keys for k in PROMPTS) and (answer or keys & {"reference", "tests"}):
        base = "prompt"
    elif sides or "ranked=" in keys:
        return "preference"
    else:
        return "text" if "text" in keys and not keys & NOT_PLAIN else None
    return "kto" if keys & {"label=truth", "label=bit", "kto_tag"} else base


def _check_columns(source: Source, limit: int | None, mapped: ColumnMap) -> None:
    """Refuse a mapping onto columns that no row has."""
    columns: dict[str, None] = {}
    open_yet, start = set(mapped.all), 0
    for number, record in islice(source.records(), limit):
        start = start or number
        columns |= dict.fromkeys(record)
        open_yet -= {name for name in open_yet if has(record, name)}
        if not open_yet:
            return
    wrong = mapped.missing(columns, set(mapped.all) - open_yet) if start else None
    if wrong:
        raise UserError(f"{source.at(start)}: {wrong}")


def _detect(source: Source, limit: int | None, mapped: ColumnMap | None = None) -> str:
    """The one format that the columns of all rows agree on."""
    if mapped is not None:
        return _mapped_format(source, mapped)
    seen: dict[frozenset[str], int] = {}  # columns: the first row that has them
    for number, record in islice(source.records(), limit):
        seen.setdefault(signature(named(record, source.at(number))), number)
    kinds = frozenset().union(*seen)
    if "label=other" in kinds and "label=truth" not in kinds:  # class labels, not KTO's
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
        names = ", ".join(sorted(k for k in keys if "=" not in k))
        refuse_splits(source)
        raise UserError(
            f"{source.at(number)}: no known format has the columns {names or '(none)'}; say which is which, as in "
            f"data.columns: {{prompt: question, answer: label}}, or rename them to those of {KNOWN}"
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


def _mapped_format(source: Source, mapped: ColumnMap) -> str:
    """The format that a mapping makes of a file: its roles say it, whatever the rows hold."""
    keys = frozenset(ROLES[role] for role in mapped.parts) | ({"label=truth"} if "label" in mapped.parts else set())
    form = format_of(keys | {"ranked="} if "completions" in mapped.parts else keys)
    if form is None:
        raise UserError(
            f"{source.name}: data.columns gives {', '.join(mapped.parts)}, which makes no row; add an answer (or a "
            "reference for a judge, or chosen and rejected)"
        )
    return form


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
