"""Answers to one prompt in one line: the prompt stands there once, then each answer, none of which sees another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from holdfast.data.batching.batches import Batch, EncodedSequence, collate_sequences

Group = Sequence[EncodedSequence]
"""Answers that share their prompt, one after another."""


def group_by_prompt(sequences: Sequence[EncodedSequence]) -> list[list[EncodedSequence]]:
    """Neighbours with the same prompt together."""
    groups, last = list[list[EncodedSequence]](), b""
    for sequence in sequences:
        prompt = sequence.ids[: count_prompt(sequence)].tobytes()
        if groups and prompt == last:
            groups[-1].append(sequence)
        else:
            groups.append([sequence])
        last = prompt
    return groups


def count_prompt(sequence: EncodedSequence) -> int:
    """Tokens before the first label."""
    return int(sequence.label_mask.argmax()) if sequence.label_mask.any() else len(sequence.ids)


def count_line(group: Group) -> int:
    """Tokens of the line that holds a group."""
    prompt = count_prompt(group[0])
    return prompt + sum(len(sequence.ids) - prompt for sequence in group)


def collate_groups(groups: Sequence[Group], pad_id: int) -> Batch:
    """Groups as lines with a mask: what `collate_sequences` makes of their sequences, but for the lines.

    An answer looks at the prompt and at itself, and its positions go on from the prompt's. So log-probabilities and
    gradients are those of separate lines, given a model that obeys `Batch.attention_mask`.
    """
    flat = collate_sequences([sequence for group in groups for sequence in group], "packed", pad_id)
    assert flat is not None
    width = max(count_line(group) for group in groups)
    targets, owners = list[np.ndarray](), np.full((len(groups), width), -1)
    for line, group in enumerate(groups):
        prompt = count_prompt(group[0])
        owners[line, :prompt], end = 0, prompt
        for number, sequence in enumerate(group, 1):
            answer = len(sequence.ids) - prompt
            targets.append(line * width + np.append(np.arange(prompt), end + np.arange(answer)))
            owners[line, end : end + answer], end = number, end + answer
    target = torch.from_numpy(np.concatenate(targets))
    lines = torch.full((len(groups) * width,), pad_id)
    lines[target] = flat.input_ids[0]
    positions = torch.zeros_like(lines)
    positions[target] = flat.position_ids[0]
    return replace(
        flat,
        input_ids=lines.view(-1, width),
        position_ids=positions.view(-1, width),
        label_positions=target[flat.label_positions],
        tokens=sum(map(count_line, groups)),
        attention_mask=build_group_mask(torch.from_numpy(owners)),
    )


def build_group_mask(owners: Tensor) -> Tensor:
    """Who looks where, bool [B, 1, L, L]: back to the start of the prompt, and of the own answer.

    Args:
        owners: Whose each place of the lines is, [B, L]: 0 the prompt's, from 1 an answer's, -1 padding.
    """
    place = torch.arange(owners.shape[1])
    mine, other = owners[:, :, None], owners[:, None]  # [B, L, 1], [B, 1, L]
    return ((place[:, None] >= place) & ((other == 0) | (mine == other)))[:, None]
