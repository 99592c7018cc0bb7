"""`data.ignore`: columns, and keys of messages, that the user says are not to be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from typing import Any

from holdfast.core.spelling import suggest_name
from holdfast.data.reading.columns import format_columns
from holdfast.data.reading.json_stream import ByPlace, Record
from holdfast.data.reading.messages import messages_in, unpack_messages
from holdfast.data.reading.readers import Source
from holdfast.errors import UserError


def drop_ignored(source: Source, names: Sequence[str], limit: int | None) -> Source:
    """The source as if its records had not these columns (`tools`) or keys of messages (`messages.toxic`).

    Raises:
        UserError: If no record has one of them.
    """
    if not names:
        return source
    _check_names(source, names, limit)
    return replace(source, records=lambda: _drop_fields(source.records(), names))


def _drop_fields(records: Iterator[Record], names: Sequence[str]) -> Iterator[Record]:
    for number, record in records:
        fields: dict[str, Any] = ByPlace(record) if isinstance(record, ByPlace) else dict(record)
        for name in names:
            column, key = _split_name(name, record)
            if key is None:
                fields.pop(column, None)
            elif column in fields:
                fields[column] = _without_key(fields[column], key)
        yield number, fields


def _split_name(name: str, record: Mapping[str, Any]) -> tuple[str, str | None]:
    """`(column, key)` of a name: a whole column, or a key of the messages that one holds."""
    column, dot, key = name.rpartition(".")
    return (name, None) if name in record or not dot else (column, key)


def _without_key(value: Any, key: str) -> Any:
    value = unpack_messages(value)
    if isinstance(value, dict):
        return {name: inner for name, inner in value.items() if name != key}
    if isinstance(value, list):
        return [_without_key(item, key) if isinstance(item, dict) else item for item in value]
    return value


def _check_names(source: Source, names: Sequence[str], limit: int | None) -> None:
    missing, columns = set(names), dict[str, None]()
    for _, record in islice(source.records(), limit):
        columns |= dict.fromkeys(record)
        for name in list(missing):
            column, key = _split_name(name, record)
            if column in record and (key is None or any(key in m for m in messages_in(record[column]))):
                missing.discard(name)
        if not missing:
            return
    if missing and columns:
        name = next(name for name in names if name in missing)
        close = suggest_name(name, columns)
        hint = close if "did you mean" in close else ""
        raise UserError(
            f"{source.name}: data.ignore names {name}, which no row has{hint}; there are "
            f"{format_columns(list(columns))}"
        )
