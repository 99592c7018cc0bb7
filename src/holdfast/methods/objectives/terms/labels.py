"""How labels are weighed in a sum over tokens, or over answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.data.batching.batches import Batch


def count_labels(batch: Batch, reduction: Literal["token", "sequence"]) -> float:
    """What a sum over tokens, or over means of answers, is divided by."""
    return batch.weight if reduction == "token" else batch.n_sequences


def label_weights(batch: Batch, reduction: Literal["token", "sequence"]) -> Tensor:
    """What each label's loss [N] is multiplied by in a sum over tokens, or over means of answers."""
    if reduction == "token":
        return batch.weights
    lengths = batch.sum_per_sequence(batch.weights.new_ones(len(batch.labels)))  # [S]
    return batch.weights / lengths[batch.sequence]
