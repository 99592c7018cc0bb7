"""The trace of a row: what each curator decided about it, in `meta["trace"]`, which the report shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from holdfast.data.rows import Row, mark_made


def record_decision(row: Row, name: str, source: Row, attempts: Sequence[Mapping[str, Any]] = (), **more: Any) -> Row:
    """`row` with this decision appended to its trace.

    An entry holds `curator`, `origin` (of the answer now in the row), `source` (id of the row it came from), `gold`
    (the answer that row had), `reason` (of the last verdict) and `attempts`. A row with another content than `source`
    is one made from that.
    """
    reason = attempts[-1]["reason"] if attempts else "as given"
    entry = {"curator": name, "origin": row.origin, "source": source.id, "gold": source.answer, "reason": reason}
    trace = [*row.meta.get("trace", ()), {**entry, "attempts": list(attempts), **more}]
    same = (row.messages, row.chosen, row.rejected) == (source.messages, source.chosen, source.rejected)
    place = row.place or source.place
    return replace(row, meta={**row.meta, "trace": trace}, place=place if same else mark_made(place))
