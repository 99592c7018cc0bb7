"""Token tables and batches: tokenised sequences on disk or in memory, gathered into padded or packed micro-batches.

No row ever attends to another. In the padded layout each sequence has a line of its own, padded on the right, where
causal attention never looks. In the packed layout all sequences stand in one line and positions restart at 0. Pairs
may share a line and their prompt in it: see `data.pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from holdfast.data.batching.batch import Batch, StepValues
from holdfast.data.batching.batch_sampler import BatchSampler, Layout, StepPlan
from holdfast.data.pictures.processor import Inputs, PictureProcessor, SequencePictures, join_inputs
from holdfast.errors import UserError

__all__ = [
    "Batch",
    "BatchSampler",
    "EncodedSequence",
    "Layout",
    "StepPlan",
    "StepValues",
    "TokenTable",
    "collate_sequences",
]


@dataclass(slots=True)
class EncodedSequence:
    """One tokenised sequence.

    Args:
        ids: int32 [n].
        label_mask: bool [n]; True where the token is a label, predicted from the tokens before it. The first token has
            nothing before it, so `trained[0]` counts as False.
        row: Index of the row in the table.
        role: Its place among the sequences of its row (see `data.kinds`): 0 answer or chosen, 1 rejected, ...
        weight: Weight of its labels in the loss.
        values: Numbers the row carries, by column; its own where the column has one for each.
        token_values: By name, a number for each token, [n]; those of labels come into the batch.
        inputs: By name, what the model reads beside the ids, of one shape in all sequences of a batch.
        pictures: Those of a sequence that has any.
    """

    ids: np.ndarray
    label_mask: np.ndarray
    row: int
    role: int = 0
    weight: float = 1.0
    values: dict[str, float] = field(default_factory=dict)
    token_values: dict[str, np.ndarray] = field(default_factory=dict)
    inputs: dict[str, np.ndarray] = field(default_factory=dict)
    pictures: SequencePictures | None = None


def collate_on_device(sequences: Sequence[EncodedSequence], layout: Layout, pad_id: int, device: torch.device) -> Batch:
    """One or more sequences as a batch on a device; arguments as of `collate_sequences`. With pictures: padded."""
    batch = collate_sequences(sequences, "padded" if any(e.pictures for e in sequences) else layout, pad_id)
    assert batch is not None  # only nothing makes none
    return batch.to(device)


def collate_sequences(sequences: Sequence[EncodedSequence], layout: Layout, pad_id: int) -> Batch | None:
    """The micro-batch of these sequences, or None when there are none (a rank that ran out of rows).

    Args:
        sequences: Sequences of any lengths; the two of a pair adjacent, chosen first.
        layout: "padded" or "packed".
        pad_id: Fills padded lines; it may equal any real token, since nothing is ever recognised by it.
    """
    if not sequences:
        return None
    if layout == "packed" and (sequences[0].inputs or any(e.pictures for e in sequences)):
        raise UserError("inputs beside the ids belong to a line of their own: set train.layout: padded")
    batch = _assemble_batch(
        ids=np.concatenate([e.ids for e in sequences]),
        label_mask=np.concatenate([e.label_mask for e in sequences]),
        lengths=np.array([len(e.ids) for e in sequences]),
        weights=np.array([e.weight for e in sequences], dtype=np.float32),
        rows=np.array([e.row for e in sequences]),
        roles=np.array([e.role for e in sequences]),
        values={name: np.array([e.values[name] for e in sequences]) for name in sequences[0].values},
        layout=layout,
        pad_id=pad_id,
    )
    label = np.concatenate([e.label_mask & (np.arange(len(e.ids)) > 0) for e in sequences])  # [n]
    for name in sequences[0].token_values:
        numbers = np.concatenate([e.token_values[name] for e in sequences])[label]
        batch.token_values[name] = torch.from_numpy(numbers.astype(np.float32))  # [N]
    for name in sequences[0].inputs:
        batch.inputs[name] = torch.from_numpy(np.stack([e.inputs[name] for e in sequences]))  # [S, ...]
    add_pictures(batch, [e.pictures for e in sequences])
    return batch


def add_pictures(batch: Batch, sequences: Sequence[SequencePictures | None]) -> None:
    """Put into a batch what the model reads of the pictures of its sequences, S of them in order."""
    many: list[Inputs] = [{} if pictures is None else pictures.read_inputs() for pictures in sequences]
    some = [inputs for inputs in many if inputs]
    for name, array in join_inputs(some).items():
        batch.inputs[name] = torch.from_numpy(array)
        batch.input_counts[name] = [len(inputs[name]) if inputs else 0 for inputs in many]


def _assemble_batch(
    *,
    ids: np.ndarray,  # [n] all sequences one after another
    label_mask: np.ndarray,  # [n]
    lengths: np.ndarray,  # [S]
    weights: np.ndarray,  # [S]
    rows: np.ndarray,  # [S]
    roles: np.ndarray,  # [S]
    values: dict[str, np.ndarray],  # [S] each
    layout: Layout,
    pad_id: int,
) -> Batch:
    total, count = len(ids), len(lengths)
    begins = np.cumsum(lengths) - lengths  # [S]
    sequence = np.repeat(np.arange(count), lengths)  # [n]
    position = np.arange(total) - begins[sequence]  # [n]
    is_packed = layout == "packed"
    width = total if is_packed else int(lengths.max())
    target = np.arange(total) if is_packed else sequence * width + position  # [n] flat index into B*L
    lines = np.full(total if is_packed else count * width, pad_id, dtype=np.int64)
    lines[target] = ids
    positions = position if is_packed else np.tile(np.arange(width), count)
    label = np.flatnonzero(label_mask & (position > 0))  # [N]
    label_weights = weights[sequence[label]].astype(np.float32)
    offsets = np.append(begins, total).astype(np.int32)
    return Batch(
        input_ids=torch.from_numpy(lines.reshape(-1, width)),
        position_ids=torch.from_numpy(positions.reshape(-1, width)),
        labels=torch.from_numpy(ids[label].astype(np.int64)),
        label_positions=torch.from_numpy(target[label] - 1),
        sequence=torch.from_numpy(sequence[label]),
        weights=torch.from_numpy(label_weights),
        rows=torch.from_numpy(rows.astype(np.int64)),
        roles=torch.from_numpy(roles.astype(np.int64)),
        n_sequences=count,
        tokens=total,
        weight=float(label_weights.sum(dtype=np.float64)),
        cu_seqlens=torch.from_numpy(offsets),
        longest=int(lengths.max()),
        values={name: torch.from_numpy(value.astype(np.float32)) for name, value in values.items()},
    )


@dataclass(slots=True)
class TablePictures:
    """The pictures of a table's sequences.

    Args:
        references: Of each sequence, in order.
        processor: Makes pixels of them.
    """

    references: list[list[str]]
    processor: PictureProcessor

    def list_pictures(self, sequence: int) -> SequencePictures | None:
        """Those of a sequence; `None` where it has none."""
        references = self.references[sequence]
        return SequencePictures(references, self.processor) if references else None

    def select_sequences(self, sequences: np.ndarray) -> TablePictures:
        """Those of some sequences."""
        return TablePictures([self.references[i] for i in sequences.tolist()], self.processor)


class TokenTable:
    """The tokenised training rows as flat arrays, in memory or mapped from disk. `len()` is the number of rows.

    Args:
        ids: int32 [tokens], all sequences one after another.
        label_mask: bool [tokens].
        starts: int64 [sequences + 1], where each sequence begins in `ids`.
        weights: fp32 [rows].
        source: int64 [rows], the index of each row in the `Rows` the table was built from (dropped rows are missing).
        first: int64 [rows + 1], where each row begins among the sequences.
        values: fp32 [sequences, columns], the numbers that rows carry.
        columns: Their names.
        fingerprint: Names data, template and settings.
    """

    pictures: TablePictures | None = None
    """The pictures of its sequences, of which some have any."""

    ARRAYS = ("ids", "label_mask", "starts", "weights", "source", "first", "values")

    def __init__(
        self,
        ids: np.ndarray,
        label_mask: np.ndarray,
        starts: np.ndarray,
        weights: np.ndarray,
        source: np.ndarray,
        first: np.ndarray,
        values: np.ndarray,
        *,
        columns: Sequence[str] = (),
        fingerprint: str = "",
    ) -> None:
        self.ids, self.label_mask, self.starts, self.weights, self.source = ids, label_mask, starts, weights, source
        self.first, self.values, self.columns, self.fingerprint = first, values, tuple(columns), fingerprint
        self._lengths = np.diff(starts)  # [sequences]
        self._counts = np.diff(first)  # [rows]
        self.per_row = int(self._counts.max(initial=1))
        """Sequences per row, of the row that has most."""
        begins = first[:-1]
        self.lengths: np.ndarray = np.add.reduceat(self._lengths, begins) if len(source) else self._lengths
        """Total tokens per row."""
        self.widths: np.ndarray = np.maximum.reduceat(self._lengths, begins) if len(source) else self._lengths
        """Tokens of each row's longest line when padded."""
        self.step_lengths: np.ndarray = self.lengths
        """Tokens per row by which steps are cut."""
        self.lines = self.per_row
        """Lines per row when padded."""

    @classmethod
    def from_sequences(cls, sequences: Sequence[EncodedSequence], fingerprint: str = "") -> TokenTable:
        """An in-memory table of sequences ordered by row, those of a row by role."""
        lengths = [len(e.ids) for e in sequences]
        rows = np.array([e.row for e in sequences])
        first = np.flatnonzero(np.diff(rows, prepend=-1))
        heads = [sequences[i] for i in first.tolist()]
        columns = list(heads[0].values) if heads else []
        table = cls(
            np.concatenate([e.ids for e in sequences]).astype(np.int32),
            np.concatenate([e.label_mask for e in sequences]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.array([e.weight for e in heads], dtype=np.float32),
            np.arange(len(heads)),
            np.append(first, len(sequences)).astype(np.int64),
            np.array([[e.values[name] for name in columns] for e in sequences], dtype=np.float32),
            columns=columns,
            fingerprint=fingerprint,
        )
        processor = next((e.pictures.processor for e in sequences if e.pictures), None)
        if processor is not None:
            references = [e.pictures.references if e.pictures else [] for e in sequences]
            table.pictures = TablePictures(references, processor)
        return table

    @classmethod
    def load_from_disk(cls, directory: Path, *, columns: Sequence[str], fingerprint: str) -> TokenTable:
        """A table written by `data.table.build_table`; ids and mask stay on disk."""
        ids = np.memmap(directory / "ids.bin", dtype=np.int32, mode="r")
        label_mask = np.memmap(directory / "trained.bin", dtype=np.bool_, mode="r")
        small = [np.load(directory / f"{name}.npy", allow_pickle=False) for name in cls.ARRAYS[2:]]
        return cls(ids, label_mask, *small, columns=columns, fingerprint=fingerprint)

    def __len__(self) -> int:
        return len(self.source)

    def keep_first_sequences(self, count: int | None) -> TokenTable:
        """The same rows with the first `count` of their sequences, held in memory; the table itself for None."""
        if count is None:
            return self
        sequences = np.flatnonzero(_concatenate_ranges(self._counts) < count)  # [sequences kept]
        lengths = self._lengths[sequences]
        index = np.repeat(self.starts[sequences], lengths) + _concatenate_ranges(lengths)
        table = TokenTable(
            self.ids[index], self.label_mask[index], np.append(0, np.cumsum(lengths)), self.weights, self.source,
            np.append(0, np.cumsum(np.minimum(self._counts, count))), self.values[sequences],
            columns=self.columns, fingerprint=self.fingerprint,
        )  # fmt: skip
        table.pictures = self.pictures and self.pictures.select_sequences(sequences)
        return table

    def row_sequences(self, row: int) -> list[EncodedSequence]:
        """The sequences of one row, in the order of their roles."""
        sequences = []
        for role, index in enumerate(range(self.first[row], self.first[row + 1])):
            begin, end = self.starts[index : index + 2]
            ids, label_mask = np.array(self.ids[begin:end]), np.array(self.label_mask[begin:end])
            values = dict(zip(self.columns, self.values[index].tolist(), strict=True))
            one = EncodedSequence(ids, label_mask, row, role, float(self.weights[row]), values)
            one.pictures = self.pictures.list_pictures(index) if self.pictures else None
            sequences.append(one)
        return sequences

    def collate_rows(self, rows: Sequence[int] | np.ndarray, layout: Layout, pad_id: int) -> Batch | None:
        """`collate` of these rows' sequences, gathered without touching them one by one; None for no rows."""
        if len(rows) == 0:
            return None
        rows = np.asarray(rows)
        counts = self._counts[rows]
        roles = _concatenate_ranges(counts)  # [S]
        sequences = np.repeat(self.first[rows], counts) + roles
        lengths = self._lengths[sequences]
        index = np.repeat(self.starts[sequences], lengths) + _concatenate_ranges(lengths)  # [n]
        values = self.values[sequences]  # [S, columns]
        if self.pictures and layout == "packed":
            raise UserError("rows with pictures belong to a line of their own: set train.layout: padded")
        batch = _assemble_batch(
            ids=np.asarray(self.ids[index]),
            label_mask=np.asarray(self.label_mask[index]),
            lengths=lengths,
            weights=np.repeat(self.weights[rows], counts),
            rows=np.repeat(rows, counts),
            roles=roles,
            values={name: values[:, i] for i, name in enumerate(self.columns)},
            layout=layout,
            pad_id=pad_id,
        )
        if self.pictures:
            add_pictures(batch, [self.pictures.list_pictures(i) for i in sequences.tolist()])
        return batch

    def build_sampler(
        self,
        *,
        batch_tokens: int,
        micro_tokens: int | None = None,
        layout: Layout = "padded",
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> BatchSampler:
        """The `BatchSampler` over this table's rows."""
        return BatchSampler(
            self.step_lengths, batch_tokens=batch_tokens, micro_tokens=micro_tokens, layout=layout, seed=seed,
            rank=rank, world=world, widths=self.widths, per_row=self.lines,
        )  # fmt: skip


def _concatenate_ranges(counts: np.ndarray) -> np.ndarray:
    """0 to counts[0] - 1, then 0 to counts[1] - 1, and so on."""
    return np.arange(int(counts.sum())) - np.repeat(np.cumsum(counts) - counts, counts)
