"""`Row`, the one shape every room of Holdfast speaks: a conversation with what is known about it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

from holdfast.data.pictures.references import identify_pictures
from holdfast.data.thoughts import final_answer

Message = dict[str, Any]
"""`{"role": "system" | "user" | "assistant", "content": str}`; an assistant message may carry `"weight": 0`
(as in the OpenAI format) to be read but not trained on; one with pictures has `"images": [reference, ...]`, one for
each `<image>` in its content (`data.pictures.references`)."""


BEGINNING = 48
"""Characters of a row that are quoted where it is named."""

MADE = "a row made from "
"""How the place of a row begins that a curator wrote: what is wrong with it need not be wrong in the file."""


LAST_PLACE = re.compile(rb', "place": "(?:[^"\\]|\\.)*"(\}\n?)$')
"""The place at the end of a line of `Row.to_line`."""


@dataclass(slots=True)
class Row:
    """One example.

    Args:
        messages: The conversation. For answer rows it ends with the assistant's answer; for preference rows
            (`chosen`/`rejected` set) and prompt-only rows it ends with the user's turn.
        reference: Gold answer or checker arguments, read by the judge only. `None`: the answer itself is the reference.
        chosen, rejected: Preferred and dispreferred answer, for pair objectives.
        label: Desirable or not (KTO).
        score: Explicit score of the answer.
        weight: Weight of the row's trained tokens in the loss.
        origin: Who wrote the answer: "gold", "model", "paraphrase", "replay".
        meta: Anything else (skill, judge trace, base log-probability...), kept and shown in the report.
        id: Stable name, derived from the content when empty.
        place: Where it stands, for errors: `rows.jsonl:17`, or `a row made from rows.jsonl:17`; empty where there is
            no file. It is no part of the row: neither id nor fingerprints know it, and equal rows may differ in it.
    """

    messages: list[Message]
    reference: Any = None
    chosen: str | None = None
    rejected: str | None = None
    label: bool | None = None
    score: float | None = None
    weight: float = 1.0
    origin: str = "gold"
    meta: dict[str, Any] = field(default_factory=dict)
    id: str = ""
    place: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if not self.id:
            self.id = fingerprint_json([identify_pictures(self.messages), self.chosen, self.rejected])[:16]

    @property
    def prompt(self) -> list[Message]:
        """The messages before the final answer: what a model is shown to answer this row."""
        return self.messages[:-1] if self.messages[-1]["role"] == "assistant" else self.messages

    @property
    def answer(self) -> str | None:
        """The final assistant message's content, or `None` for rows without one."""
        last = self.messages[-1]
        return last["content"] if last["role"] == "assistant" else None

    @property
    def gold(self) -> Any:
        """What a judge compares with: `reference` if given, else the answer (or `chosen`) without its thought."""
        if self.reference is not None:
            return self.reference
        answer = self.answer if self.answer is not None else self.chosen
        return answer and (final_answer(answer) or answer)

    @property
    def beginning(self) -> str:
        """How its last question begins (of a text its own first words): what a reader of a message can search for."""
        questions = [message for message in self.messages if message["role"] == "user"] or self.messages
        line = " ".join(str(questions[-1]["content"]).split())
        return line if len(line) <= BEGINNING else f"{line[: BEGINNING - 1]}…"

    @property
    def is_replayed(self) -> bool:
        """Whether it is a general row that was mixed in to be rehearsed."""
        return self.origin == "replay"

    def with_answer(self, text: str, origin: str, **meta: Any) -> Row:
        """A copy whose final answer is `text`; id and reference stay those of this row."""
        messages = [*self.prompt, {"role": "assistant", "content": text}]
        place = self.place if origin == "gold" else mark_made(self.place)
        return replace(
            self, messages=messages, reference=self.gold, origin=origin, meta={**self.meta, **meta}, place=place
        )

    def describe_place(self, number: int | str) -> str:
        """What errors call it: its place; of a row from no file, `row 17`, by its number among the rows there are."""
        return self.place or f"row {number}"

    def describe_row(self, number: int) -> str:
        """Its place, and how it begins."""
        return f"{self.describe_place(number)} ({self.beginning!r})"

    def to_json(self) -> dict[str, Any]:
        """What it is, as a plain dictionary without the fields that still hold their defaults, and without its place.

        Fingerprints are made of this.
        """
        out: dict[str, Any] = {"messages": self.messages}
        for name in ("reference", "chosen", "rejected", "label", "score"):
            if (value := getattr(self, name)) is not None:
                out[name] = value
        if self.weight != 1.0:
            out["weight"] = self.weight
        out["origin"] = self.origin
        if self.meta:
            out["meta"] = self.meta
        out["id"] = self.id
        return out

    def to_line(self) -> str:
        """Itself as a line of JSON, its place last; a number that is none, which JSON does not have, as null."""
        row = self.to_json()
        if self.place:
            row["place"] = self.place
        try:
            return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
        except ValueError:
            text = json.dumps(row, ensure_ascii=False)
            return json.dumps(json.loads(text, parse_constant=lambda name: None), ensure_ascii=False) + "\n"

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Row:
        """The inverse of `to_json`, and of a line of `to_line`."""
        return cls(**data)


def mark_made(place: str) -> str:
    """The place of what a curator made of a row at `place`."""
    return place if not place or place.startswith(MADE) else MADE + place


def without_place(line: bytes) -> bytes:
    """A line of `Row.to_line` as it is without the row's place.

    The place is the last member. A member of `meta` may have the same name, but something follows it, and inside a
    string its quotes would be escaped; so nothing needs to be parsed.
    """
    return LAST_PLACE.sub(rb"\1", line)


def fingerprint_json(value: Any) -> str:
    """SHA-256 of a JSON-able value, independent of key order: the name of rows, data sets and settings in caches."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def fingerprint_rows(rows: Iterable[Row]) -> str:
    """Fingerprint of an ordered collection of rows; a disk-backed one knows its own."""
    own_fingerprint = getattr(rows, "fingerprint", None)
    if isinstance(own_fingerprint, str):
        return own_fingerprint
    digest = hashlib.sha256()
    for row in rows:
        digest.update(fingerprint_json(row.to_json() | {"messages": identify_pictures(row.messages)}).encode())
    return digest.hexdigest()


Rows = Sequence[Row]
"""A list of rows, or a disk-backed sequence that reads them on demand (`data.formats.RowFile`)."""


class LazyRows(Sequence[Row]):
    """Rows that are made as they are read: a subclass says how one is made (`_read_row`) and what a slice is
    (`_take_slice`).
    """

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> Rows: ...
    def __getitem__(self, index: int | slice) -> Row | Rows:
        return self._take_slice(index) if isinstance(index, slice) else self._read_row(index)

    def _read_row(self, index: int) -> Row:
        raise NotImplementedError

    def _take_slice(self, index: slice) -> Rows:
        raise NotImplementedError


class RowMap(LazyRows):
    """The rows of another sequence, each changed as it is read."""

    def __init__(self, rows: Rows, change: Callable[[Row], Row]) -> None:
        self.rows, self.change = rows, change

    def __len__(self) -> int:
        return len(self.rows)

    def _read_row(self, index: int) -> Row:
        return self.change(self.rows[index])

    def _take_slice(self, index: slice) -> Rows:
        return RowMap(self.rows[index], self.change)

    def __iter__(self) -> Iterator[Row]:
        return map(self.change, self.rows)


class RowSelection(LazyRows):
    """Some of the rows of another sequence, each changed as it is read.

    Args:
        rows: All of them.
        indices: Which are taken, in this order.
        change: What becomes of each.
    """

    def __init__(self, rows: Rows, indices: Sequence[int], change: Callable[[Row], Row]) -> None:
        self.rows, self.indices, self.change = rows, indices, change

    def __len__(self) -> int:
        return len(self.indices)

    def _read_row(self, index: int) -> Row:
        return self.change(self.rows[self.indices[index]])

    def _take_slice(self, index: slice) -> Rows:
        return RowSelection(self.rows, self.indices[index], self.change)

    def __iter__(self) -> Iterator[Row]:
        return (self.change(self.rows[i]) for i in self.indices)
