"""Building the `TokenTable`: rows tokenised in shards; long ones windowed, dropped, cut or refused; all counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Literal

import numpy as np

from holdfast.core.files import fresh_directory, is_sealed, seal_directory
from holdfast.data.batching.batches import TokenTable
from holdfast.data.batching.table_writer import PICTURES, TableWriter, pictures_of_table
from holdfast.data.chat.encoder import Chat, Encoding, is_text
from holdfast.data.pictures.references import pictures_of
from holdfast.data.row_shapes import Column, Kind, RowShape, build_conversations, shape_of
from holdfast.data.rows import Message, Row, Rows, fingerprint_json, fingerprint_rows
from holdfast.errors import UserError

__all__ = ["TableReport", "TokenTable", "build_table"]

TooLong = Literal["auto", "drop", "cut", "window", "error"]
"""What becomes of rows that are too long; `auto`: plain text is cut into windows, other rows are dropped."""

VERSION = 6
"""Raised when rows are tokenised differently, so that cached tables are not used."""

SHARD = 1024
"""Rows tokenised by one call of the tokenizer."""

MOST_NAMED = 10
"""Row numbers listed per reason."""

LONG, CUT, UNTRAINED, WEIGHTLESS = "longer than max_length", "answer cut to nothing", "nothing trained", "weight 0"
BEYOND = "longer than the model's context"

MANY_DROPPED = 0.05
"""Share of rows left out for their length from which on it is warned of."""


@dataclass(slots=True)
class TableReport:
    """What became of the rows. Row numbers count from 1 in the order of the rows given.

    Args:
        rows, kept: How many there were, and are.
        dropped: Reason to number of rows; named: reason to the first row numbers; begins: reason to how the first of
            them begins; places: reason to where the rows named stand, if they were read from files.
        truncated: Rows whose answer lost its end.
        unrolled, parts: Conversations whose answers are trained apart, because the chat template cuts the thoughts of
            all but the last, and how many answers these are.
        marked: Rows with a control token of the chat template in the text of a prompt.
        windowed, windows: Long texts that were cut into windows, and how many windows they became.
        max_length: The limit, in tokens.
        context: Most tokens the model can read, if there is a limit; `max_length` is never above it.
        tokens, trained_tokens: Of the kept rows.
        pictures, picture_tokens: Of their sequences: how many there are, and the tokens that stand for them.
        lengths: Tokens of the longest sequence of each row given: shortest, median, p90, p99, longest.
        longest: `(row number, tokens)` of the longest rows given.
        histogram: `(upper bound, rows)`: how many rows have at most that many tokens, and more than the bound before.
        padding: Share of padding when rows of like length make up padded micro-batches of 8192 positions.
        are_prompts: Whether the rows are prompts alone, whose answers are sampled while training.
    """

    rows: int = 0
    kept: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    named: dict[str, list[int]] = field(default_factory=dict)
    begins: dict[str, str] = field(default_factory=dict)
    places: dict[str, list[str]] = field(default_factory=dict)
    truncated: int = 0
    windowed: int = 0
    windows: int = 0
    unrolled: int = 0
    parts: int = 0
    marked: int = 0
    max_length: int = 0
    context: int | None = None
    tokens: int = 0
    trained_tokens: int = 0
    pictures: int = 0
    picture_tokens: int = 0
    lengths: dict[str, int] = field(default_factory=dict)
    longest: list[list[int]] = field(default_factory=list)
    histogram: list[list[int]] = field(default_factory=list)
    padding: float = 0.0
    are_prompts: bool = False

    @property
    def trained_share(self) -> float:
        """Share of the kept tokens that are trained on."""
        return self.trained_tokens / max(1, self.tokens)

    def record_drop(self, number: int, row: Row, reason: str) -> None:
        """Count a row that is left out, and name it."""
        self.begins.setdefault(reason, row.beginning)
        self.dropped[reason] = self.dropped.get(reason, 0) + 1
        if len(names := self.named.setdefault(reason, [])) < MOST_NAMED:
            names.append(number)
            if row.place:
                self.places.setdefault(reason, []).append(row.place)

    def record_lengths(self, lengths: np.ndarray) -> None:
        """Write down how long rows are, in tokens [rows]."""
        quantiles = np.quantile(lengths, [0, 0.5, 0.9, 0.99, 1], method="higher").tolist()
        self.lengths = dict(zip(("shortest", "median", "p90", "p99", "longest"), quantiles, strict=True))
        self.longest = [[int(i) + 1, int(lengths[i])] for i in np.argsort(-lengths, kind="stable")[:5]]
        edges = 2 ** np.arange(int(np.ceil(np.log2(max(2, lengths.max())))) + 1)
        counts = np.bincount(np.searchsorted(edges, lengths), minlength=len(edges))
        self.histogram = [[int(e), int(c)] for e, c in zip(edges, counts, strict=True) if c]

    def summary_lines(self) -> list[str]:
        """The report in sentences, for the terminal."""
        answers = f"training on {self.trained_share:.0%} of {self.tokens} tokens"
        prompts = f"as prompts of {round(self.tokens / max(1, self.kept))} tokens on average, whose answers are sampled"
        out = [f"{self.kept} of {self.rows} rows, {prompts if self.are_prompts else answers}"]
        for reason, count in self.dropped.items():
            out.append(f"left out {count}: {reason} ({self._list_rows(reason)})")
        if self.truncated:
            out.append(f"{self.truncated} answers lost their end at {self.max_length} tokens")
        if self.windowed:
            texts = "1 long text is" if self.windowed == 1 else f"{self.windowed} long texts are"
            out.append(f"{texts} cut into {self.windows} windows of at most {self.max_length} tokens")
        return [*out, *self.unrolled_lines(), *self.picture_lines()]

    def picture_lines(self) -> list[str]:
        """A line when rows have pictures."""
        share = f"{self.picture_tokens / max(1, self.tokens):.0%} of all"
        return [f"{self.pictures:,} pictures, {self.picture_tokens:,} tokens ({share})"] if self.pictures else []

    def _list_rows(self, reason: str) -> str:
        """The first rows that were left out for a reason, by their places if all have one, else by their numbers."""
        count, numbers, places = self.dropped[reason], self.named[reason], self.places.get(reason, [])
        in_files = len(places) == len(numbers)
        first, *more = places if in_files else map(str, numbers)
        names = ", ".join([f"{first} {self.begins[reason]!r}", *more, *["..."] * (count > MOST_NAMED)])
        return names if in_files else f"row{'s' * (count > 1)} {names}"

    def unrolled_lines(self) -> list[str]:
        """A line when answers of a conversation are trained apart."""
        if not self.unrolled:
            return []
        one = self.unrolled == 1
        several, whose = ("1 conversation holds", "its") if one else (f"{self.unrolled} conversations hold", "their")
        return [
            f"{several} thoughts in earlier answers, which the chat template cuts: {whose} {self.parts} answers are "
            "trained one by one, each with its thought, behind the prompt a server makes"
        ]

    def warning_lines(self) -> list[str]:
        """A line when prompts hold control tokens, and when many rows are left out because they are too long."""
        marker_line = (
            f"{self.marked:,} of {self.rows:,} rows have control tokens of the chat template in a prompt's text"
        )
        out = [f"{marker_line}, which are read as real turns, as a server reads them"] if self.marked else []
        long = self.dropped.get(LONG, 0) + self.dropped.get(BEYOND, 0)
        if long <= MANY_DROPPED * self.rows:
            return out
        return [
            *out,
            f"{long:,} of {self.rows:,} rows ({long / self.rows:.0%}) are longer than {self.limit}, and are left out; "
            f"{self.describe_remedy()}",
        ]

    @property
    def limit(self) -> str:
        """The limit and whose it is, as `512 tokens, the model's context`."""
        return f"{self.max_length:,} tokens, {self._limit_source}"

    @property
    def _limit_source(self) -> str:
        return "the model's context" if self.max_length == self.context else "train.max_length"

    @property
    def reason(self) -> str:
        """Why a long row is left out."""
        return BEYOND if self.max_length == self.context else LONG

    def describe_remedy(self) -> str:
        """What to do about rows that are too long."""
        most = min(self.lengths["longest"], self.context or self.lengths["longest"])
        if CUT in self.dropped:
            more = f"set train.max_length to {most}" if most > self.max_length else "take a model with a longer context"
            return f"of some the prompt alone is too long: shorten the prompts, or {more}"
        return f"{self.describe_longer_limit()}data.too_long to cut, which trains on their beginnings"

    def describe_longer_limit(self) -> str:
        """The beginning of that sentence: a greater length, if the model can read more."""
        most = min(self.lengths["longest"], self.context or self.lengths["longest"])
        return f"set train.max_length to {most}, or set " if most > self.max_length else "set "


def build_table(
    rows: Rows,
    chat: Chat,
    *,
    max_length: int,
    context: int | None = None,
    too_long: TooLong = "auto",
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
        max_length: Most tokens of a sequence; no more than `context` where that is less.
        context: Most tokens the model can read (`models.context_length`); `None`: any number.
        too_long: Longer rows are dropped (`drop`); lose the end of the answer with its end of turn, or are dropped if
            nothing of the answer is left (`cut`); are cut into windows which train every token once if they are plain
            text, else as with `cut` (`window`); or are an error. `auto`: windows for plain text, else `drop`.
        kind: Which sequences a row has: a shape of `data.row_shapes`, or its name.
        columns: Numbers that rows must carry.
        prompts: System prompts under which a row's sequences follow once more.
        cache: Directory in which the table is kept, named by rows, template and settings; default: in memory.
        progress: Called with the number of rows done since the last call.
    Raises:
        UserError: A row is of the wrong kind, the template refuses it, or no row is left.
    """
    shape, column_specs = shape_of(kind), [asdict(column) for column in columns]
    max_length = min(max_length, context or max_length)
    name = fingerprint_json(
        [
            VERSION,
            fingerprint_rows(rows),
            chat.fingerprint,
            max_length,
            too_long,
            shape.identity,
            column_specs,
            list(prompts),
        ]
    )
    names = [column.name for column in columns]
    if cache is None:
        memory = TableWriter(None)
        report = _fill_table(memory, rows, chat, max_length, context, too_long, shape, columns, prompts, progress)
        table = memory.to_table(names, name)
        table.pictures = pictures_of_table(memory.pictures, chat)
        _record_token_counts(report, table)
        return table, report
    directory = Path(cache) / f"table-{name[:24]}"
    if not is_sealed(directory):
        with fresh_directory(directory) as side:
            with (side / "ids.bin").open("wb") as ids, (side / "trained.bin").open("wb") as mask_file:
                writer = TableWriter((ids, mask_file))
                report = _fill_table(
                    writer, rows, chat, max_length, context, too_long, shape, columns, prompts, progress
                )
            writer.save_small_arrays(side)
            (side / PICTURES).write_text(json.dumps(writer.pictures))
            table = TokenTable.load_from_disk(side, columns=names, fingerprint=name)
            table.pictures = pictures_of_table(writer.pictures, chat)
            _record_token_counts(report, table)
            (side / "report.json").write_text(json.dumps(asdict(report)))
            seal_directory(side)
    table = TokenTable.load_from_disk(directory, columns=names, fingerprint=name)
    pictures = directory / PICTURES  # tables of earlier versions, whose rows have none, lack it
    table.pictures = pictures_of_table(json.loads(pictures.read_text()) if pictures.exists() else [], chat)
    return table, TableReport(**json.loads((directory / "report.json").read_text()))


def _fill_table(
    writer: TableWriter,
    rows: Rows,
    chat: Chat,
    max_length: int,
    context: int | None,
    too_long: TooLong,
    shape: RowShape,
    columns: Sequence[Column],
    prompts: Sequence[str],
    progress: Callable[[int], object] | None,
) -> TableReport:
    report = TableReport(rows=len(rows), max_length=max_length, context=context)
    cuts = too_long in ("cut", "window") and shape.cuttable and not prompts  # or one answer is cut at two places
    in_windows = too_long in ("auto", "window")
    lengths = np.zeros(len(rows), dtype=np.int64)
    start, last_dropped = 0, -1
    for shard in _iterate_shards(rows):
        for index, row, sequences, pictures in _encode_shard(shard, start, chat, shape, prompts, report):
            plain = len(sequences) // (1 + len(prompts))
            numbers = [
                column.values_of(row, row.describe_place(index + 1), plain) * (1 + len(prompts)) for column in columns
            ]
            if shape.looks_on:  # what is too long of what is only looked at is not needed
                sequences[1:] = [(ids[:max_length], label_mask[:max_length]) for ids, label_mask in sequences[1:]]
            longest = max(len(ids) for ids, _ in sequences)
            lengths[index] = max(lengths[index], longest)  # of a row in several parts, the longest counts
            values, long = list(zip(*numbers, strict=True)), longest > max_length
            if long and in_windows and is_text(row.messages) and len(sequences) == 1 and row.weight:
                parts = cut_windows(sequences[0], max_length)
                for part in parts:
                    writer.add_row([part], row.weight, index, values, pictures)
                report.windowed, report.windows = report.windowed + 1, report.windows + len(parts)
                continue
            usable, reason = _fit_sequences(sequences, max_length, cuts and not any(pictures), report.reason)
            if row.weight == 0:
                usable, reason = [], WEIGHTLESS
            if not usable:
                if index != last_dropped:  # a row in several parts counts once
                    report.record_drop(index + 1, row, reason)
                last_dropped = index
                continue
            report.truncated += long
            writer.add_row(usable, row.weight, index, values, pictures)
        writer.flush()
        start += len(shard)
        if progress:
            progress(len(shard))
    _check_lengths(report, rows, lengths, too_long)
    return report


def _iterate_shards(rows: Iterable[Row]) -> Iterator[list[Row]]:
    stream = iter(rows)
    while shard := list(islice(stream, SHARD)):
        yield shard


def _encode_shard(
    shard: list[Row], start: int, chat: Chat, shape: RowShape, prompts: Sequence[str], report: TableReport
) -> Iterator[tuple[int, Row, list[Encoding], list[list[str]]]]:
    """`(index, row, sequences, pictures of each)` of the rows of a shard; several of a conversation whose answers are
    trained apart."""
    entries: list[tuple[int, Row, list[Sequence[Message]]]] = []
    for k, plain in enumerate(build_conversations(shard, start, shape, prompts)):
        prompt_texts = [m["content"] for m in plain[0] if m["role"] != "assistant"]
        report.marked += any(mark in text for text in prompt_texts for mark in chat.template.markers)
        parts = chat.unroll_answers(plain[0]) if shape.whole and len(plain) == 1 else []
        if len(parts) > 1:
            report.unrolled, report.parts = report.unrolled + 1, report.parts + len(parts)
            entries += [(k, shard[k], [part]) for part in parts]
        else:
            entries.append((k, shard[k], list(plain)))
    names = [row.describe_place(start + k + 1) for k, row, some in entries for _ in some]
    encodings = iter(chat.encode_many([one for _, _, some in entries for one in some], names))
    for k, row, some in entries:
        yield start + k, row, [next(encodings) for _ in some], [pictures_of(one) for one in some]


def cut_windows(sequence: Encoding, width: int) -> list[Encoding]:
    """Cut a sequence into windows of at most `width` tokens, each label in exactly one of them.

    Every window but the first begins with the last token of the one before, which is only read: without it the first
    token of a window would never be predicted.
    """
    ids, label_mask = sequence
    out = []
    for start in range(0, len(ids) - 1, width - 1):
        part = label_mask[start : start + width].copy()
        part[0] = False
        out.append((ids[start : start + width], part))
    return out


def _fit_sequences(sequences: list[Encoding], max_length: int, cuts: bool, too_long: str) -> tuple[list[Encoding], str]:
    """The sequences within `max_length`, or none and why."""
    long = any(len(ids) > max_length for ids, _ in sequences)
    if long and not cuts:
        return [], too_long
    cut = [(ids[:max_length], label_mask[:max_length]) for ids, label_mask in sequences]
    if all(mask.any() for _, mask in cut):
        return cut, ""
    return [], CUT if long else UNTRAINED


def _check_lengths(report: TableReport, rows: Rows, lengths: np.ndarray, too_long: TooLong) -> None:
    """Fill in the lengths, and refuse a table that is empty or must not have long rows."""
    report.kept = report.rows - sum(report.dropped.values())
    if not len(lengths):
        raise UserError("there is no row to train on; the data or the curation left none")
    report.record_lengths(lengths)
    number, most = report.longest[0]
    if too_long == "error" and report.reason in report.dropped:
        raise UserError(
            f"{report.dropped[report.reason]} rows are longer than {report.limit}, the longest "
            f"({rows[number - 1].describe_place(number)}, {rows[number - 1].beginning!r}) has {most} tokens; "
            f"{report.describe_longer_limit()}data.too_long to cut or drop"
        )
    if report.kept == 0:
        why = ", ".join(f"{count} {reason}" for reason, count in report.dropped.items())
        long = report.dropped.keys() & {LONG, BEYOND, CUT}
        raise UserError(
            f"none of the {report.rows} rows can be trained on ({why}); the limit is {report.limit}, the rows have "
            f"{report.lengths['shortest']} to {most} tokens (median {report.lengths['median']}); "
            f"{report.describe_remedy() if long else 'give answers that are trained on'}"
        )


def _record_token_counts(report: TableReport, table: TokenTable) -> None:
    report.tokens, report.trained_tokens = int(table.lengths.sum()), int(np.count_nonzero(table.label_mask))
    if table.pictures:
        report.pictures = sum(map(len, table.pictures.references))
        report.picture_tokens = int(np.count_nonzero(table.ids == table.pictures.processor.image_token_id))
    report.padding = table.build_sampler(batch_tokens=65536, micro_tokens=8192, layout="padded").padding_share()
