"""Preference pairs that share their prompt: one line holds it once, then chosen's answer, then rejected's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from holdfast.data.batching.batch_sampler import Layout
from holdfast.data.batching.batches import Batch, TokenTable

BLOCK = 1024
"""Rows compared at a time."""


class SharedPrefixTable(TokenTable):
    """A table of pairs as lines of shared prefix, rest of chosen, rest of rejected: one a line, or all in one (packed).

    The shared prefix is the longest common beginning of the two sequences without a label in either. The rest of
    rejected looks at the prefix and at itself, never at chosen, and its positions go on from the prefix. So log-
    probabilities and gradients are those of two lines (dropout, where there is any, draws once for the prefix), given
    a model that obeys `Batch.attention_mask` (padded) or `Batch.key_index` (packed).

    Steps hold the rows that they hold without sharing: `batch_tokens` counts the prompt twice. Micro-batches are cut
    by what is computed.

    Args:
        table: The pairs; its arrays are used, not copied.
    """

    def __init__(self, table: TokenTable) -> None:
        assert table.per_row == 2
        arrays = (getattr(table, name) for name in self.ARRAYS)
        super().__init__(*arrays, columns=table.columns, fingerprint=table.fingerprint)
        self.prefixes: np.ndarray = compute_prefix_lengths(table)
        """Tokens of each row's shared prefix."""
        self.lengths = self.widths = self.lengths - self.prefixes
        self.lines = 1

    def collate_rows(self, rows: Sequence[int] | np.ndarray, layout: Layout, pad_id: int) -> Batch | None:
        """As `TokenTable.collate_rows` in all but the lines."""
        flat = super().collate_rows(rows, "packed", pad_id)
        if flat is None:
            return None
        return self._pack_pairs(flat, rows) if layout == "packed" else self._pad_pairs(flat, rows, pad_id)

    def _pack_pairs(self, flat: Batch, rows: Sequence[int] | np.ndarray) -> Batch:
        """All pairs in one line: what `flat` [1, n] holds, but for each rejected's prefix.

        As keys that prefix is still there: chosen's, to which `key_index` leads.
        """
        lengths = flat.cu_seqlens.diff().numpy().astype(np.int64)  # [2 R]
        begins = np.cumsum(lengths) - lengths
        sequence = np.repeat(np.arange(len(lengths)), lengths)  # [n]
        position, pair = flat.position_ids[0].numpy(), sequence // 2
        is_twice = (sequence % 2 == 1) & (position < self.prefixes[rows][pair])
        rank = np.cumsum(~is_twice) - 1  # place in the line of a token that stands there
        key_index = torch.from_numpy(rank[np.where(is_twice, begins[2 * pair] + position, np.arange(len(position)))])
        counts = np.bincount(sequence[~is_twice], minlength=len(lengths))
        stays = torch.from_numpy(~is_twice)
        return replace(
            flat,
            input_ids=flat.input_ids[:, stays],
            position_ids=flat.position_ids[:, stays],
            label_positions=key_index[flat.label_positions],
            tokens=int(counts.sum()),
            query_seqlens=torch.from_numpy(np.append(0, np.cumsum(counts)).astype(np.int32)),
            key_index=key_index,
        )

    def _pad_pairs(self, flat: Batch, rows: Sequence[int] | np.ndarray, pad_id: int) -> Batch:
        """A pair a line, with a mask."""
        lengths = flat.cu_seqlens.diff().numpy()  # [2 R]
        prefixes, widths, chosen = self.prefixes[rows], self.widths[rows], lengths[::2]  # [R]
        width = int(widths.max())
        sequence = np.repeat(np.arange(len(lengths)), lengths)  # [n]
        position, pair = flat.position_ids[0].numpy(), sequence // 2
        in_rejected = (sequence % 2 == 1) & (
            position >= prefixes[pair]
        )  # the rest of rejected stands behind all of chosen
        target = torch.from_numpy(pair * width + position + np.where(in_rejected, (chosen - prefixes)[pair], 0))
        lines = torch.full((len(widths) * width,), pad_id)
        lines[target] = flat.input_ids[0]
        positions = torch.zeros_like(lines)
        positions[target] = flat.position_ids[0]
        return replace(
            flat,
            input_ids=lines.view(-1, width),
            position_ids=positions.view(-1, width),
            label_positions=target[flat.label_positions],
            tokens=int(widths.sum()),
            attention_mask=build_prefix_attention_mask(torch.from_numpy(prefixes), torch.from_numpy(chosen), width),
        )


def build_prefix_attention_mask(prefixes: Tensor, chosen: Tensor, width: int) -> Tensor:
    """Who looks where, bool [R, 1, width, width]: back to the start, but from rejected not at chosen's answer.

    Args:
        prefixes, chosen: Where chosen's answer begins and ends in each line, [R].
    """
    place = torch.arange(width)
    answer = (place >= prefixes[:, None]) & (place < chosen[:, None])  # [R, width]
    behind = place >= chosen[:, None]
    return ((place[:, None] >= place) & ~(behind[:, :, None] & answer[:, None]))[:, None]


def compute_prefix_lengths(table: TokenTable) -> np.ndarray:
    """Tokens of the longest common beginning of each pair without a label in either sequence, int64 [rows]."""
    blocks = [_compute_block_lengths(table, start) for start in range(0, len(table), BLOCK)]
    return np.concatenate(blocks) if blocks else np.zeros(0, dtype=np.int64)


def _compute_block_lengths(table: TokenTable, start: int) -> np.ndarray:
    bounds = table.starts[2 * start : 2 * (start + BLOCK) + 1]
    begins, lengths = bounds[:-1].reshape(-1, 2), np.diff(bounds).reshape(-1, 2)
    shorter = lengths.min(axis=1)  # [R]
    ends = np.cumsum(shorter)
    row = np.repeat(np.arange(len(shorter)), shorter)
    place = np.arange(len(row)) - (ends - shorter)[row]
    one, other = begins[row, 0] + place, begins[row, 1] + place
    apart = (table.ids[one] != table.ids[other]) | ((table.label_mask[one] | table.label_mask[other]) & (place > 0))
    stops = np.append(np.flatnonzero(apart), len(row))
    return np.minimum(stops[np.searchsorted(stops, ends - shorter)], ends) - (ends - shorter)
