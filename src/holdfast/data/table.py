"""Building the `TokenTable`: rows tokenised in shards; long ones dropped, cut or refused; all counted and named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from holdfast.data.batches import TokenTable
from holdfast.data.chat import Chat, Encoding
from holdfast.data.kinds import Column, Kind, conversations
from holdfast.data.rows import Row, Rows, fingerprint, rows_fingerprint
from holdfast.errors import UserError

__all__ = ["TableReport", "TokenTable", "build_table"]

OnLong = Literal["drop", "truncate", "error"]

VERSION = 3
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
    columns: Sequence[Column] = (),
    prompts: Sequence[str] = (),
    cache: str | Path | None = None,
    progress: Callable[[int], object] | None = None,
) -> tuple[TokenTable, TableReport]:
    """Tokenise rows for training.

    Args:
        rows: Rows of the kind.
        chat: Renders and tokenises.
        max_length: Most tokens of a sequence.
        on_long: Longer rows are dropped; or `truncate`d, which cuts the end of the answer (with its end of turn) and
            drops the row if nothing of the answer is left; or an `error`.
        kind: Which sequences a row has: see `data.kinds`.
        columns: Numbers that rows must carry.
        prompts: System prompts under which a row's sequences follow once more.
        cache: Directory in which the table is kept, named by rows, template and settings; default: in memory.
        progress: Called with the number of rows done since the last call.
    Raises:
        UserError: A row is of the wrong kind, the template refuses it, or no row is left.
    """
    asked = [asdict(column) for column in columns]
    name = fingerprint(
        [VERSION, rows_fingerprint(rows), chat.fingerprint, max_length, on_long, kind, asked, list(prompts)]
    )
    names = [column.name for column in columns]
    if cache is None:
        memory = _Writer(None)
        report = _fill(memory, rows, chat, max_length, on_long, kind, columns, prompts, progress)
        table = memory.table(names, name)
        _measure(report, table)
        return table, report
    directory = Path(cache) / f"table-{name[:24]}"
    if not directory.exists():
        side = directory.with_name(f".{directory.name}.{os.getpid()}")
        side.mkdir(parents=True, exist_ok=True)
        try:
            with (side / "ids.bin").open("wb") as ids, (side / "trained.bin").open("wb") as trained:
                writer = _Writer((ids, trained))
                report = _fill(writer, rows, chat, max_length, on_long, kind, columns, prompts, progress)
            writer.save(side)
            _measure(report, TokenTable.open(side, columns=names, fingerprint=name))
            (side / "report.json").write_text(json.dumps(asdict(report)))
            if not directory.exists():
                os.replace(side, directory)
        finally:
            shutil.rmtree(side, ignore_errors=True)
    table = TokenTable.open(directory, columns=names, fingerprint=name)
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
        self.first: list[int] = [0]
        self.values: list[tuple[float, ...]] = []

    def add(self, sequences: list[Encoding], weight: float, source: int, values: list[tuple[float, ...]]) -> None:
        for ids, trained in sequences:
            self.ids.append(ids)
            self.trained.append(trained)
            self.lengths.append(len(ids))
        self.weights.append(weight)
        self.source.append(source)
        self.first.append(len(self.lengths))
        self.values += values

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

    def small(self) -> tuple[np.ndarray, ...]:
        return (
            np.concatenate([[0], np.cumsum(np.array(self.lengths, dtype=np.int64))]).astype(np.int64),
            np.array(self.weights, dtype=np.float32),
            np.array(self.source, dtype=np.int64),
            np.array(self.first, dtype=np.int64),
            np.array(self.values, dtype=np.float32).reshape(len(self.lengths), -1 if self.lengths else 0),
        )

    def save(self, directory: Path) -> None:
        for name, array in zip(TokenTable.ARRAYS[2:], self.small(), strict=True):
            np.save(directory / f"{name}.npy", array, allow_pickle=False)

    def table(self, columns: list[str], name: str) -> TokenTable:
        ids, trained = (np.concatenate(part) for part in zip(*self.pieces, strict=True))
        return TokenTable(ids, trained, *self.small(), columns=columns, fingerprint=name)


def _fill(
    writer: _Writer,
    rows: Rows,
    chat: Chat,
    max_length: int,
    on_long: OnLong,
    kind: Kind,
    columns: Sequence[Column],
    prompts: Sequence[str],
    progress: Callable[[int], object] | None,
) -> TableReport:
    report = TableReport(rows=len(rows), max_length=max_length)
    if on_long == "truncate" and (kind == "taught" or prompts):
        on_long = "drop"  # the same answer would be cut at different places
    lengths = np.zeros(len(rows), dtype=np.int64)
    start = 0
    for shard in _shards(rows):
        for index, row, sequences in _encode(shard, start, chat, kind, prompts):
            plain = len(sequences) // (1 + len(prompts))
            numbers = [column.of_each(row, f"row {index + 1}", plain) * (1 + len(prompts)) for column in columns]
            if kind == "shifted":  # the answer of another row is only looked at: what is too long of it is not needed
                sequences[1:] = [(ids[:max_length], trained[:max_length]) for ids, trained in sequences[1:]]
            lengths[index] = max(len(ids) for ids, _ in sequences)
            kept, reason = _fit(sequences, max_length, on_long)
            if row.weight == 0:
                kept, reason = [], WEIGHTLESS
            if not kept:
                report.drop(index + 1, reason)
                continue
            report.truncated += bool(lengths[index] > max_length)
            writer.add(kept, row.weight, index, list(zip(*numbers, strict=True)))
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


def _encode(
    shard: list[Row], start: int, chat: Chat, kind: Kind, prompts: Sequence[str]
) -> Iterator[tuple[int, Row, list[Encoding]]]:
    """`(index, row, sequences)` of each row of a shard."""
    by_row = list(conversations(shard, start, kind, prompts))
    names = [f"row {start + k + 1}" for k, some in enumerate(by_row) for _ in some]
    encoded = iter(chat.encode_many([one for some in by_row for one in some], names))
    for k, row in enumerate(shard):
        yield start + k, row, [next(encoded) for _ in by_row[k]]


def _fit(sequences: list[Encoding], max_length: int, on_long: OnLong) -> tuple[list[Encoding], str]:
    """The sequences within `max_length`, or none and why."""
    long = any(len(ids) > max_length for ids, _ in sequences)
    if long and on_long != "truncate":
        return [], LONG
    cut = [(ids[:max_length], trained[:max_length]) for ids, trained in sequences]
    if all(trained.any() for _, trained in cut):
        return cut, ""
    return [], CUT if long else UNTRAINED


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
