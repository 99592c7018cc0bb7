"""Building the `TokenTable`: rows tokenised in shards; long ones dropped, cut or refused; all counted and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from holdfast.data.batches import TokenTable
from holdfast.data.chat import Chat, Encoding
from holdfast.data.rows import Message, Row, Rows, fingerprint, rows_fingerprint
from holdfast.errors import UserError

__all__ = ["TableReport", "TokenTable", "build_table"]

Kind = Literal["answer", "pair", "text"]
OnLong = Literal["drop", "truncate", "error"]

VERSION = 1
"""Raised when rows are tokenised differently, so that cached tables are not used."""

SHARD = 1024
"""Rows tokenised by one call of the tokenizer."""

NAMED = 10
"""Row numbers listed per reason."""

LONG, CUT, UNTRAINED, WEIGHTLESS = "longer than max_length", "answer cut to nothing", "nothing trained", "weight 0"


@dataclass(slots=True)
class TableReport:
    """What became of the rows. Row numbers count from 1 in the order of the rows given.

    Args:
        rows, kept: How many there were, and are.
        dropped: Reason to number of rows; named: reason to the first row numbers.
        truncated: Rows whose answer lost its end.
        max_length: The limit, in tokens.
        tokens, trained_tokens: Of the kept rows.
        lengths: Tokens of the longest sequence of each row given: shortest, median, p90, p99, longest.
        longest: `(row number, tokens)` of the longest rows given.
        histogram: `(upper bound, rows)`: how many rows have at most that many tokens, and more than the bound before.
        padding: Share of padding when rows of like length make up padded micro-batches of 8192 positions.
    """

    rows: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[int]] = field(default_factory=dict)
    truncated: int = 0
    max_length: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    longest: list[list[int]] = field(default_factory=list)
    histogram: list[list[int]] = field(default_factory=list)
    padding: float = 0.0

    @property
    def trained_share(self) -> float:
        """Share of the kept tokens that are trained on."""
        return self.trained_tokens / max(1, self.tokens)

    def drop(self, number: int, reason: str) -> None:
        """Count a row that is left out, and name it."""
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if len(names := self.named.setdefault(reason, [])) < NAMED:
            names.append(number)

    def lines(self) -> list[str]:
        """The report in sentences, for the terminal."""
        out = [f"{self.kept} of {self.rows} rows, training on {self.trained_share:.0%} of {self.tokens} tokens"]
        for reason, count in self.dropped.items():
            names = ", ".join(map(str, self.named[reason])) + (", ..." if count > NAMED else "")
            out.append(f"left out {count}: {reason} (rows {names})")
        if self.truncated:
            out.append(f"{self.truncated} answers lost their end at {self.max_length} tokens")
        return out


def build_table(
    rows: Rows,
    chat: Chat,
    *,
    max_length: int,
    on_long: OnLong = "drop",
    kind: Kind = "answer",
    cache: str | Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[TokenTable, TableReport]:
    """Tokenise rows for training.

    Args:
        rows: Rows with answers (kind "answer"; plain text too), or with `chosen` and `rejected` (kind "pair").
        chat: Renders and tokenises.
        max_length: Most tokens of a sequence.
        on_long: Longer rows are dropped; or `truncate`d, which cuts the end of the answer (with its end of turn) and
            drops the row if nothing of the answer is left; or an `error`.
        kind: Which sequences a row has: its conversation, or prompt and chosen, prompt and rejected.
        cache: Directory in which the table is kept, named by rows, template and settings; default: in memory.
        progress: Called with the number of rows done since the last call.
    Raises:
        UserError: A row is of the wrong kind, the template refuses it, or no row is left.
    """
    name = fingerprint([VERSION, rows_fingerprint(rows), chat.fingerprint, max_length, on_long, kind])
    per_row = 2 if kind == "pair" else 1
    if cache is None:
        memory = _Writer(None)
        report = _fill(memory, rows, chat, max_length, on_long, kind, progress)
        table = memory.table(per_row, name)
        _measure(report, table)
        return table, report
    directory = Path(cache) / f"table-{name[:24]}"
    if not directory.exists():
        side = directory.with_name(f".{directory.name}.{os.getpid()}")
        side.mkdir(parents=True, exist_ok=True)
        try:
            with (side / "ids.bin").open("wb") as ids, (side / "trained.bin").open("wb") as trained:
                writer = _Writer((ids, trained))
                report = _fill(writer, rows, chat, max_length, on_long, kind, progress)
            writer.save(side)
            _measure(report, TokenTable.open(side, per_row=per_row, fingerprint=name))
            (side / "report.json").write_text(json.dumps(asdict(report)))
            if not directory.exists():
                os.replace(side, directory)
        finally:
            shutil.rmtree(side, ignore_errors=True)
    table = TokenTable.open(directory, per_row=per_row, fingerprint=name)
    return table, TableReport(**json.loads((directory / "report.json").read_text()))


class _Writer:
    """Collects sequences, in memory or appended to the two files `(ids, trained)`."""

    def __init__(self, files: tuple[BinaryIO, BinaryIO] | None) -> None:
        self.files = files
        self.ids: list[np.ndarray] = []
        self.trained: list[np.ndarray] = []
        self.pieces: list[tuple[np.ndarray, np.ndarray]] = []
        self.lengths: list[int] = []
        self.weights: list[float] = []
        self.source: list[int] = []

    def add(self, sequences: list[Encoding], weight: float, source: int) -> None:
        for ids, trained in sequences:
            self.ids.append(ids)
            self.trained.append(trained)
            self.lengths.append(len(ids))
        self.weights.append(weight)
        self.source.append(source)

    def flush(self) -> None:
        """Hand what has been collected to the files, or keep it as one piece: an array per row is mostly header."""
        if not self.ids:
            return
        ids, trained = np.concatenate(self.ids).astype(np.int32), np.concatenate(self.trained)
        self.ids, self.trained = [], []
        if self.files:
            self.files[0].write(ids.tobytes())
            self.files[1].write(trained.tobytes())
        else:
            self.pieces.append((ids, trained))

    def small(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        starts = np.concatenate([[0], np.cumsum(np.array(self.lengths, dtype=np.int64))]).astype(np.int64)
        return starts, np.array(self.weights, dtype=np.float32), np.array(self.source, dtype=np.int64)

    def save(self, directory: Path) -> None:
        for name, array in zip(TokenTable.ARRAYS[2:], self.small(), strict=True):
            np.save(directory / f"{name}.npy", array, allow_pickle=False)

    def table(self, per_row: int, name: str) -> TokenTable:
        ids, trained = (np.concatenate(part) for part in zip(*self.pieces, strict=True))
        return TokenTable(ids, trained, *self.small(), per_row=per_row, fingerprint=name)


def _fill(
    writer: _Writer,
    rows: Rows,
    chat: Chat,
    max_length: int,
    on_long: OnLong,
    kind: Kind,
    progress: Callable[[int], object] | None,
) -> TableReport:
    report = TableReport(rows=len(rows), max_length=max_length)
    lengths = np.zeros(len(rows), dtype=np.int64)
    start = 0
    for shard in _shards(rows):
        for index, row, sequences in _encode(shard, start, chat, kind):
            lengths[index] = max(len(ids) for ids, _ in sequences)
            kept, reason = _fit(sequences, max_length, on_long)
            if row.weight == 0:
                kept, reason = [], WEIGHTLESS
            if not kept:
                report.drop(index + 1, reason)
                continue
            report.truncated += bool(lengths[index] > max_length)
            writer.add(kept, row.weight, index)
        writer.flush()
        start += len(shard)
        if progress:
            progress(len(shard))
    _check(report, lengths, len(writer.source), on_long)
    return report


def _shards(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while shard := list(islice(stream, SHARD)):
        yield shard


def _encode(shard: list[Row], start: int, chat: Chat, kind: Kind) -> Iterator[tuple[int, Row, list[Encoding]]]:
    """`(index, row, sequences)` of each row of a shard."""
    conversations = [c for k, row in enumerate(shard) for c in _conversations(row, start + k + 1, kind)]
    per_row = len(conversations) // len(shard)
    names = [f"row {start + k // per_row + 1}" for k in range(len(conversations))]
    encoded = chat.encode_many(conversations, names)
    for k, row in enumerate(shard):
        yield start + k, row, encoded[k * per_row : (k + 1) * per_row]


def _conversations(row: Row, number: int, kind: Kind) -> list[list[Message]]:
    if kind != "pair":
        if row.answer is None:
            has = "chosen and rejected" if row.chosen is not None else "no answer"
            raise UserError(
                f"row {number} has {has}, but the objective trains on answers; use rows with answers, or dpo"
            )
        return [row.messages]
    if row.chosen is None or row.rejected is None:
        raise UserError(f"row {number} has no chosen and rejected answer, but the objective compares them; add them")
    # Only the answers compared are trained: earlier turns of the assistant belong to the prompt.
    prompt = [{**m, "weight": 0} if m["role"] == "assistant" else m for m in row.messages]
    return [[*prompt, {"role": "assistant", "content": text}] for text in (row.chosen, row.rejected)]


def _fit(sequences: list[Encoding], max_length: int, on_long: OnLong) -> tuple[list[Encoding], str]:
    """The sequences within `max_length`, or none and why."""
    if not all(trained.any() for _, trained in sequences):
        return [], UNTRAINED
    if all(len(ids) <= max_length for ids, _ in sequences):
        return sequences, ""
    if on_long != "truncate":
        return [], LONG
    cut = [(ids[:max_length], trained[:max_length]) for ids, trained in sequences]
    return (cut, "") if all(trained.any() for _, trained in cut) else ([], CUT)


def _check(report: TableReport, lengths: np.ndarray, kept: int, on_long: OnLong) -> None:
    """Fill in the lengths, and refuse a table that is empty or must not have long rows."""
    report.kept = kept
    if not len(lengths):
        raise UserError("there is no row to train on; the data or the curation left none")
    quantiles = np.quantile(lengths, [0, 0.5, 0.9, 0.99, 1], method="higher").tolist()
    report.lengths = dict(zip(("shortest", "median", "p90", "p99", "longest"), quantiles, strict=True))
    order = np.argsort(-lengths, kind="stable")[:5]
    report.longest = [[int(i) + 1, int(lengths[i])] for i in order]
    edges = 2 ** np.arange(int(np.ceil(np.log2(max(2, lengths.max())))) + 1)
    counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
    report.histogram = [[int(e), int(c)] for e, c in zip(edges, counts, strict=True) if c]
    number, most = report.longest[0]
    if on_long == "error" and LONG in report.dropped:
        raise UserError(
            f"{report.dropped[LONG]} rows are longer than train.max_length {report.max_length}, the longest "
            f"(row {number}) has {most} tokens; set train.max_length to {most}, or data.on_long to drop or truncate"
        )
    if kept == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        long = report.dropped.keys() & {LONG, CUT}
        mend = f"set train.max_length to {most}" if long else "give answers that are trained on"
        raise UserError(
            f"none of the {report.rows} rows can be trained on ({why}); train.max_length is {report.max_length}, "
            f"the rows have {report.lengths['shortest']} to {most} tokens (median {report.lengths['median']}); {mend}"
        )


def _measure(report: TableReport, table: TokenTable) -> None:
    report.tokens, report.trained_tokens = int(table.lengths.sum()), int(np.count_nonzero(table.trained))
    report.padding = table.sampler(batch_tokens=65536, micro_tokens=8192, layout="padded").padding()
