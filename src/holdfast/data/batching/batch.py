"""One micro-batch: tokens in lines, and which of them are labels of which sequence of which row."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from holdfast.errors import UserError


@dataclass(slots=True)
class StepValues:
    """Figures of all sequences of a step, as an objective surveyed them, and where this micro-batch's stand.

    Args:
        all: Of the whole step, over all micro-batches and processes, [n].
        mine: Which of them are this micro-batch's.
    """

    all: Tensor
    mine: slice


@dataclass(slots=True)
class Batch:
    """One micro-batch of S sequences with N labels, on a device.

    Args:
        input_ids: [B, L] int64; padded: B = S lines; packed: B = 1; pairs that share their prompt: B = S / 2.
        position_ids: [B, L] int64, from 0 for every sequence. In padded lines they run on through the padding, so that
            nothing in a model takes the padding for another sequence; at the end of a shared line padding stands at 0.
        labels: [N] int64 token ids of the trained positions, by sequence, then position.
        label_positions: [N] int64 flat index into B*L of the position that predicts each label: one to its left, but
            for the first label behind a shared prompt, which the last token of the prompt predicts.
        sequence: [N] int64 which sequence a label belongs to, 0..S-1.
        weights: [N] fp32 weight of each label.
        rows: [S] int64 row index in the table. The sequences of a row are adjacent, in the order of their roles.
        roles: [S] int64 place of each sequence in its row: 0 answer or chosen, 1 rejected, ...
        n_sequences: S.
        tokens: Real (not padding) tokens computed; a shared prompt counts once.
        weight: Sum of `weights`, known without asking the device.
        cu_seqlens: [S + 1] int32 offsets of the sequences (without padding) laid one after another; their differences
            are the sequence lengths, a shared prompt in both of its two.
        longest: Tokens of the longest sequence, known without asking the device.
        attention_mask: None where the layout isolates. Pairs that share their prompt, padded: bool [B, 1, L, L], True
            where a position (third axis) looks at another (fourth); every position looks at itself at least.
        key_index: Pairs that share their prompt, packed: [cu_seqlens[-1]] int64 place in the line of each token of each
            sequence; the prompt of rejected stands where that of chosen does. Else None.
        query_seqlens: Beside it, [S + 1] int32 offsets in the line of the tokens that each sequence has to itself.
        values: Column name to fp32 [S]: the numbers that rows carry (label, score, ...).
        step_values: What the objective surveyed of the whole step, by name.
        token_values: By name, fp32 [N]: numbers that labels carry (advantages, log-probabilities when sampled, ...).
        inputs: By name, what the model reads beside the ids: one entry on the first axis for each line, or where
            `input_counts` says so as many as a line has pictures, or their patches, one line's behind another's.
        input_counts: By name, how many entries of an input belong to each sequence, S numbers.
    """

    input_ids: Tensor
    position_ids: Tensor
    labels: Tensor
    label_positions: Tensor
    sequence: Tensor
    weights: Tensor
    rows: Tensor
    roles: Tensor
    n_sequences: int
    tokens: int
    weight: float
    cu_seqlens: Tensor
    longest: int = 0
    attention_mask: Tensor | None = None
    key_index: Tensor | None = None
    query_seqlens: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict)
    step_values: dict[str, StepValues] = field(default_factory=dict)
    token_values: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)
    input_counts: dict[str, list[int]] = field(default_factory=dict)

    @property
    def n_rows(self) -> int:
        """R: every row has one sequence of role 0."""
        return int((self.roles == 0).sum())

    def count_labels(self, *roles: int) -> float:
        """The weighted number of labels in sequences of these roles."""
        in_roles = torch.isin(self.roles, self.roles.new_tensor(roles))  # [S]
        return _exact_sum(self.weights[in_roles[self.sequence]])

    def sum_per_sequence(self, values: Tensor) -> Tensor:
        """Sums of per-label `values` [N] over each sequence, [S]; differentiable."""
        return values.new_zeros(self.n_sequences).index_add(0, self.sequence, values)

    def label_counts(self) -> Tensor:
        """Labels of each sequence, fp32 [S]; at least 1, so that it can divide."""
        return self.sum_per_sequence(torch.ones_like(self.weights)).clamp_min(1)

    def sequence_weights(self) -> Tensor:
        """The weight of each sequence, [S]: that of its row."""
        return self.sum_per_sequence(self.weights) / self.label_counts()

    def to(self, device: torch.device | str) -> Batch:
        """A copy on `device`."""
        on_device: dict[str, Any] = {
            f.name: value.to(device, non_blocking=True)
            for f in fields(self)
            if isinstance(value := getattr(self, f.name), Tensor)
        }
        for name in ("values", "token_values", "inputs"):
            on_device[name] = {k: value.to(device, non_blocking=True) for k, value in getattr(self, name).items()}
        on_device["step_values"] = {name: StepValues(v.all.to(device), v.mine) for name, v in self.step_values.items()}
        return replace(self, **on_device)

    def sequence_ids(self) -> Tensor:
        """The sequence each position of the flat lines belongs to, int64 [B * L]; -1 for padding. Not for shared lines.

        In the padded layout line i is sequence i.
        """
        lengths = self.cu_seqlens.diff()
        if len(self.input_ids) < self.n_sequences:
            return torch.repeat_interleave(torch.arange(self.n_sequences, device=lengths.device), lengths)
        width = self.input_ids.shape[1]
        place = torch.arange(width, device=lengths.device)
        line = torch.arange(self.n_sequences, device=lengths.device)[:, None]
        return torch.where(place < lengths[:, None], line, -1).flatten()

    def select_roles(self, *roles: int) -> Batch:
        """The sequences of these roles as a batch of their own, in the same layout. Not for shared lines."""
        self._refuse_shared("select_roles")
        keep = torch.isin(self.roles, self.roles.new_tensor(roles))  # [S]
        is_padded = len(self.input_ids) == self.n_sequences
        if self.inputs and not is_padded:
            raise UserError(
                "inputs beside the ids belong to whole lines, which cannot be cut; set train.layout: padded"
            )
        width = self.input_ids.shape[1]
        places = keep.repeat_interleave(width) if is_padded else keep[self.sequence_ids()]  # [B * L]
        labels, index, new_index = keep[self.sequence], places.cumsum(0) - 1, keep.cumsum(0) - 1
        lengths = self.cu_seqlens.diff()[keep]
        shape = (-1, width) if is_padded else (1, -1)
        return replace(
            self,
            input_ids=self.input_ids.flatten()[places].view(shape),
            position_ids=self.position_ids.flatten()[places].view(shape),
            labels=self.labels[labels],
            label_positions=index[self.label_positions[labels]],
            sequence=new_index[self.sequence[labels]],
            weights=self.weights[labels],
            rows=self.rows[keep],
            roles=self.roles[keep],
            n_sequences=len(lengths),
            tokens=int(lengths.sum()),
            longest=int(lengths.max()) if len(lengths) else 0,
            weight=_exact_sum(self.weights[labels]),
            cu_seqlens=torch.cat([lengths.new_zeros(1), lengths.cumsum(0, dtype=lengths.dtype)]),
            values={name: value[keep] for name, value in self.values.items()},
            token_values={name: value[labels] for name, value in self.token_values.items()},
            inputs={name: value[self._entries_of(name, keep)] for name, value in self.inputs.items()},
            input_counts={
                name: [n for n, stays in zip(counts, keep.tolist(), strict=True) if stays]
                for name, counts in self.input_counts.items()
            },
        )

    def _entries_of(self, name: str, keep: Tensor) -> Tensor:
        """Which entries of an input belong to the sequences of `keep` [S], bool."""
        counts = self.input_counts.get(name)
        return keep if counts is None else keep.repeat_interleave(torch.tensor(counts, device=keep.device))

    def _refuse_shared(self, method: str) -> None:
        """Lines in which pairs stand behind their common prompt cannot be cut."""
        if self.attention_mask is not None or self.key_index is not None:
            raise UserError(
                f"Batch.{method} cannot cut pairs that share the line of their prompt: an objective that calls it says "
                "so by a `shares_prompts` that returns False"
            )

    def label_every_token(self) -> Batch:
        """The same lines with every token but the first of each sequence a label. Not for shared lines.

        There are no `token_values`, which belong to the labels of before.
        """
        self._refuse_shared("label_every_token")
        owner = self.sequence_ids()
        following = torch.cat([owner[1:], owner.new_full((1,), -1)])
        where = ((owner >= 0) & (owner == following)).nonzero()[:, 0]  # the right neighbour is of the same sequence
        sequence = owner[where]
        weights = self.sequence_weights()[sequence]
        return replace(
            self,
            labels=self.input_ids.flatten()[where + 1],
            label_positions=where,
            sequence=sequence,
            weights=weights,
            weight=_exact_sum(weights),
            token_values={},
        )


def _exact_sum(values: Tensor) -> float:
    """The sum in fp64, which not every device has."""
    return float(values.cpu().sum(dtype=torch.float64))
