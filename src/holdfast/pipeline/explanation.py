"""What became of every row, and why: `explained.jsonl`, beside the curated rows of a run."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from holdfast.core.files import fresh_file
from holdfast.data.row_store import RowFile
from holdfast.data.rows import MADE, Row, Rows

NAME = "explained.jsonl"


def explain_rows(rows: Rows, folder: Path) -> Path:
    """Write a line on each of `rows`, in their order, and on each curated row that comes from none of them.

    A line holds `row` (id), `place`, `beginning`, `kept`, and in `decisions` who decided what: `curator`, `reason`, and
    of rows that were kept `origin`, who wrote the answer that is trained on. Rows that no curator decided on, because
    there was nothing to decide, have none.

    Args:
        rows: As they were before curation.
        folder: The run's, with `curated.jsonl` and perhaps `dropped.jsonl`.
    """
    kept_rows, extra_rows = _read_kept(folder / "curated.jsonl", {_source_key(row) for row in rows})
    drops = _read_drops(folder / "dropped.jsonl")
    path = folder / NAME
    with fresh_file(path) as side, side.open("w", encoding="utf-8") as handle:
        for row in rows:
            key = _source_key(row)
            decisions = [decision for some in kept_rows.get(key, ()) for decision in some]
            fates = drops.pop(key, [])
            is_kept = key in kept_rows
            handle.write(_format_line(row, is_kept, [*decisions, *fates]))
        for row, decisions in extra_rows:
            handle.write(_format_line(row, True, decisions))
        for line in (each for some in drops.values() for each in some):  # rows from elsewhere, and those made of others
            row = Row.from_json(line.pop("row_itself"))
            handle.write(_format_line(row, False, [line]))
    return path


def describe_drops(about: dict[str, Any]) -> list[str]:
    """A line for each reason for which a curator left rows out, by what is written down of the curation."""
    return [f"{entry['curator']}: {entry['rows']:,} left out: {entry['reason']}" for entry in about.get("dropped", ())]


def _source_key(row: Row) -> tuple[str, str]:
    """What names the row that a row was made of: its place, or where it has none its id."""
    place = row.place.removeprefix(MADE)
    return (place, "") if place else ("", row.id)


def _read_kept(
    path: Path, sources: set[tuple[str, str]]
) -> tuple[dict[tuple[str, str], list[list[dict[str, Any]]]], list[tuple[Row, list[dict[str, Any]]]]]:
    """Decisions on curated rows by the row they come from, and the rows that come from none with theirs."""
    kept_rows: dict[tuple[str, str], list[list[dict[str, Any]]]] = defaultdict(list)
    extra_rows = []
    for row in RowFile(path):
        trace = row.meta.get("trace") or []
        decisions = [{key: entry.get(key, "") for key in ("curator", "reason", "origin")} for entry in trace]
        if not row.is_replayed and (key := _source_key(row)) in sources:
            kept_rows[key].append(decisions)
        else:
            extra_rows.append((row, decisions))
    return kept_rows, extra_rows


def _read_drops(path: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """Decisions to leave a row out, by the row."""
    drops: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in _read_lines(path) if path.exists() else ():
        row = Row.from_json(line["row"])
        entry = {"curator": line["curator"], "reason": line["reason"], "row_itself": line["row"]}
        drops[_source_key(row)].append(entry)
    return drops


def _read_lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8") as handle:
        yield from map(json.loads, handle)


def _format_line(row: Row, kept_row: bool, decisions: list[dict[str, Any]]) -> str:
    decisions_shown = [{key: value for key, value in one.items() if key != "row_itself"} for one in decisions]
    line = {
        "row": row.id,
        "place": row.place,
        "beginning": row.beginning,
        "kept": kept_row,
        "decisions": decisions_shown,
    }
    return json.dumps(line, ensure_ascii=False) + "\n"
