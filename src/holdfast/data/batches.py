"""Token tables and batches: tokenised sequences on disk or in memory, gathered into padded or packed micro-batches.

No row ever attends to another. In the padded layout each sequence has a line of its own, padded on the right, where
causal attention never looks. In the packed layout all sequences stand in one line and positions restart at 0. Pairs
may share a line and their prompt in it: see `data.pairs`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from holdfast.data.sampler import BatchSampler, Layout, StepPlan

if TYPE_CHECKING:
    from holdfast.objectives.base import Unit

__all__ = ["Batch", "BatchSampler", "Encoded", "Layout", "StepPlan", "TokenTable", "collate", "longest"]


@dataclass(slots=True)
class Encoded:
    """One tokenised sequence.

    Args:
        ids: int32 [n].
        trained: bool [n]; True where the token is a label, predicted from the tokens before it. The first token has
            nothing before it, so `trained[0]` counts as False.
        row: Index of the row in the table.
        role: 0 answer or chosen, 1 rejected.
        weight: Weight of its labels in the loss.
    """

    ids: np.ndarray
    trained: np.ndarray
    row: int
    role: int = 0
    weight: float = 1.0


@dataclass(slots=True)
class Batch:
    """One micro-batch of S sequences with N labels, on a device.

    Args:
        input_ids: [B, L] int64; padded: B = S lines; packed: B = 1; pairs that share their prompt: B = S / 2.
        position_ids: [B, L] int64, from 0 for every sequence. In padded lines they run on through the padding, so that
            nothing in a model takes the padding for another sequence; at the end of a shared line padding stands at 0.
        labels: [N] int64 token ids of the trained positions, by sequence, then position.
        where: [N] int64 flat index into B*L of the position that predicts each label: one to its left, but for the
            first label behind a shared prompt, which the last token of the prompt predicts.
        sequence: [N] int64 which sequence a label belongs to, 0..S-1.
        weights: [N] fp32 weight of each label.
        rows: [S] int64 row index in the table. The sequences of a pair are adjacent, chosen first.
        roles: [S] int64, 0 answer or chosen, 1 rejected.
        n_sequences: S.
        tokens: Real (not padding) tokens computed; a shared prompt counts once.
        weight: Sum of `weights`, known without asking the device.
        cu_seqlens: [S + 1] int32 offsets of the sequences (without padding) laid one after another; their differences
            are the sequence lengths, a shared prompt in both of its two.
        attention_mask: None where the layout isolates. Pairs that share their prompt: bool [B, 1, L, L], True where a
            position (third axis) looks at another (fourth); every position looks at itself at least.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    where: Tensor
    sequence: Tensor
    weights: Tensor
    rows: Tensor
    roles: Tensor
    n_sequences: int
    tokens: int
    weight: float
    cu_seqlens: Tensor
    attention_mask: Tensor | None = None

    def count(self, unit: Unit) -> float:
        """What a term counted in `unit` is divided by: weighted labels, sequences or pairs."""
        return {"tokens": self.weight, "sequences": float(self.n_sequences), "pairs": self.n_sequences / 2}[unit]

    def per_sequence(self, values: Tensor) -> Tensor:
        """Sums of per-label `values` [N] over each sequence, [S]; differentiable."""
        return values.new_zeros(self.n_sequences).index_add(0, self.sequence, values)

    def to(self, device: torch.device | str) -> Batch:
        """A copy on `device`."""
        moved: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        return replace(self, **moved)


def collate(encoded: Sequence[Encoded], layout: Layout, pad_id: int) -> Batch | None:
    """The micro-batch of these sequences, or None when there are none (a rank that ran out of rows).

    Args:
        encoded: Sequences of any lengths; the two of a pair adjacent, chosen first.
        layout: "padded" or "packed".
        pad_id: Fills padded lines; it may equal any real token, since nothing is ever recognised by it.
    """
    if not encoded:
        return None
    return _assemble(
        ids=np.concatenate([e.ids for e in encoded]),
        trained=np.concatenate([e.trained for e in encoded]),
        lengths=np.array([len(e.ids) for e in encoded]),
        weights=np.array([e.weight for e in encoded], dtype=np.float32),
        rows=np.array([e.row for e in encoded]),
        roles=np.array([e.role for e in encoded]),
        layout=layout,
        pad_id=pad_id,
    )


def _assemble(
    *,
    ids: np.ndarray,  # [n] all sequences one after another
    trained: np.ndarray,  # [n]
    lengths: np.ndarray,  # [S]
    weights: np.ndarray,  # [S]
    rows: np.ndarray,  # [S]
    roles: np.ndarray,  # [S]
    layout: Layout,
    pad_id: int,
) -> Batch:
    total, count = len(ids), len(lengths)
    begins = np.cumsum(lengths) - lengths  # [S]
    sequence = np.repeat(np.arange(count), lengths)  # [n]
    position = np.arange(total) - begins[sequence]  # [n]
    packed = layout == "packed"
    width = total if packed else int(lengths.max())
    target = np.arange(total) if packed else sequence * width + position  # [n] flat index into B*L
    lines = np.full(total if packed else count * width, pad_id, dtype=np.int64)
    lines[target] = ids
    positions = position if packed else np.tile(np.arange(width), count)
    label = np.flatnonzero(trained & (position > 0))  # [N]
    label_weights = weights[sequence[label]].astype(np.float32)
    offsets = np.append(begins, total).astype(np.int32)
    return Batch(
        input_ids=torch.from_numpy(lines.reshape(-1, width)),
        position_ids=torch.from_numpy(positions.reshape(-1, width)),
        labels=torch.from_numpy(ids[label].astype(np.int64)),
        where=torch.from_numpy(target[label] - 1),
        sequence=torch.from_numpy(sequence[label]),
        weights=torch.from_numpy(label_weights),
        rows=torch.from_numpy(rows.astype(np.int64)),
        roles=torch.from_numpy(roles.astype(np.int64)),
        n_sequences=count,
        tokens=total,
        weight=float(label_weights.sum(dtype=np.float64)),
        cu_seqlens=torch.from_numpy(offsets),
    )


class TokenTable:
    """The tokenised training rows as flat arrays, in memory or mapped from disk. `len()` is the number of rows.

    Args:
        ids: int32 [tokens], all sequences one after another.
        trained: bool [tokens].
        starts: int64 [sequences + 1], where each sequence begins in `ids`.
        weights: fp32 [rows].
        source: int64 [rows], the index of each row in the `Rows` the table was built from (dropped rows are missing).
        per_row: Sequences per row: 1, or 2 (chosen, rejected) for pairs.
        fingerprint: Names data, template and settings.
    """

    ARRAYS = ("ids", "trained", "starts", "weights", "source")

    def __init__(
        self,
        ids: np.ndarray,
        trained: np.ndarray,
        starts: np.ndarray,
        weights: np.ndarray,
        source: np.ndarray,
        *,
        per_row: int = 1,
        fingerprint: str = "",
    ) -> None:
        self.ids, self.trained, self.starts, self.weights, self.source = ids, trained, starts, weights, source
        self.per_row, self.fingerprint = per_row, fingerprint
        self._lengths = np.diff(starts)  # [sequences]
        by_row = self._lengths.reshape(-1, per_row)
        self.lengths: np.ndarray = by_row.sum(axis=1)
        """Total tokens per row."""
        self.widths: np.ndarray = by_row.max(axis=1)
        """Tokens of each row's longest line when padded."""
        self.planned: np.ndarray = self.lengths
        """Tokens per row by which steps are cut."""
        self.lines = per_row
        """Lines per row when padded."""

    @classmethod
    def of(cls, encoded: Sequence[Encoded], per_row: int = 1, fingerprint: str = "") -> TokenTable:
        """An in-memory table of sequences ordered by row (the two of a pair adjacent)."""
        lengths = [len(e.ids) for e in encoded]
        return cls(
            np.concatenate([e.ids for e in encoded]).astype(np.int32),
            np.concatenate([e.trained for e in encoded]),
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.array([e.weight for e in encoded[::per_row]], dtype=np.float32),
            np.arange(len(encoded) // per_row),
            per_row=per_row,
            fingerprint=fingerprint,
        )

    @classmethod
    def open(cls, directory: Path, *, per_row: int, fingerprint: str) -> TokenTable:
        """A table written by `data.table.build_table`; ids and mask stay on disk."""
        ids = np.memmap(directory / "ids.bin", dtype=np.int32, mode="r")
        trained = np.memmap(directory / "trained.bin", dtype=np.bool_, mode="r")
        small = [np.load(directory / f"{name}.npy", allow_pickle=False) for name in cls.ARRAYS[2:]]
        return cls(ids, trained, *small, per_row=per_row, fingerprint=fingerprint)

    def __len__(self) -> int:
        return len(self.source)

    def sequences(self, row: int) -> list[Encoded]:
        """The sequences of one row: its answer, or chosen and rejected."""
        found = []
        for role in range(self.per_row):
            begin, end = self.starts[row * self.per_row + role : row * self.per_row + role + 2]
            ids, trained = np.array(self.ids[begin:end]), np.array(self.trained[begin:end])
            found.append(Encoded(ids, trained, row, role, float(self.weights[row])))
        return found

    def collate(self, rows: Sequence[int] | np.ndarray, layout: Layout, pad_id: int) -> Batch | None:
        """`collate` of these rows' sequences, gathered without touching them one by one; None for no rows."""
        if len(rows) == 0:
            return None
        rows = np.asarray(rows)
        sequences = (rows[:, None] * self.per_row + np.arange(self.per_row)).ravel()  # [S]
        lengths = self._lengths[sequences]
        begins = np.cumsum(lengths) - lengths
        index = np.arange(int(lengths.sum())) + np.repeat(self.starts[sequences] - begins, lengths)  # [n]
        return _assemble(
            ids=np.asarray(self.ids[index]),
            trained=np.asarray(self.trained[index]),
            lengths=lengths,
            weights=np.repeat(self.weights[rows], self.per_row),
            rows=np.repeat(rows, self.per_row),
            roles=np.tile(np.arange(self.per_row), len(rows)),
            layout=layout,
            pad_id=pad_id,
        )

    def sampler(
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
            self.planned,
            batch_tokens=batch_tokens,
            micro_tokens=micro_tokens,
            layout=layout,
            seed=seed,
            rank=rank,
            world=world,
            widths=self.widths,
            per_row=self.lines,
        )


def longest(table: TokenTable, micro_tokens: int, layout: Layout, pad_id: int) -> Batch:
    """The most expensive micro-batch `table` can give at `micro_tokens`, with the longest row: for memory probes."""
    rows = table.sampler(batch_tokens=micro_tokens, layout=layout).longest()
    batch = table.collate(rows, layout, pad_id)
    assert batch is not None  # there is at least one row
    return batch
