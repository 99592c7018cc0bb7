"""Sequences through a model a group at a time, in smaller groups where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from holdfast.data.batching.areas import group_by_area
from holdfast.errors import RunError
from holdfast.models.placement import GIB, free_bytes, give_back_memory, is_out_of_memory, memory_bytes

if TYPE_CHECKING:
    import torch
    from torch import nn

    from holdfast.data.batching.batches import EncodedSequence


FLOATING_POINT_OPERATIONS = {"cpu": 1e11}
FLOATING_POINT_OPERATIONS_OF_CARDS = 1e15
"""Of one stretch of work: seconds of one core, or of a card."""
FEWEST_TOKENS = 128
"""Of a stretch of work, however large the model: fewer would read the weights for too little."""


def choose_stretch_tokens(model: nn.Module, device: torch.device, most: int) -> int:
    """Tokens that a model reads forward in seconds, at most `most`: what is kept of each stretch survives a kill.

    It depends on the size of the model, never on a clock: so that what is computed after a kill is computed as before.
    """
    operations = FLOATING_POINT_OPERATIONS.get(device.type, FLOATING_POINT_OPERATIONS_OF_CARDS)
    parameters = max(1, sum(weight.numel() for weight in model.parameters()))
    return min(most, max(FEWEST_TOKENS, int(operations / (2 * parameters))))


def run_by_area(
    sequences: Sequence[EncodedSequence],
    micro_tokens: int,
    device: torch.device,
    run_group: Callable[[list[int]], None],
) -> None:
    """Call a function with the numbers of sequences of like length, longest first, whose padded area is at most
    `micro_tokens`; where that finds no memory, again with half as many, and with no more from then on.

    Args:
        device: Where it computes.
        run_group: Called with every number once, and again with some only where memory was short.
    Raises:
        RunError: If not even one sequence finds memory.
    """
    most = micro_tokens
    for group in group_by_area(sequences, micro_tokens):
        parts = [group]
        while parts:
            numbers = parts.pop(0)
            longest = len(sequences[numbers[0]].ids)
            size = max(1, most // longest)
            if len(numbers) > size:
                parts[:0] = [numbers[:size], numbers[size:]]
            elif not _finds_memory(run_group, numbers):
                give_back_memory(device)
                if len(numbers) == 1:
                    raise RunError(describe_lack(longest, device))
                most = longest * (len(numbers) // 2)
                parts.insert(0, numbers)


def describe_lack(tokens: int, device: torch.device) -> str:
    """What to do about a text that finds no memory."""
    free, total = free_bytes(device), memory_bytes(device)
    there = "" if free is None or total is None else f" ({free / GIB:.1f} of {total / GIB:.1f} GiB are free)"
    return (
        f"not enough memory on {device} even for one text of {tokens:,} tokens{there}: end what else uses it, give "
        "shorter texts, take a smaller model, or another device (`device:`, `--device`, HOLDFAST_DEVICE)"
    )


def _finds_memory(run_group: Callable[[list[int]], None], numbers: list[int]) -> bool:
    try:
        run_group(numbers)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    return True
