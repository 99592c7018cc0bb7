"""The value head: one number for each state, trained beside the model and kept in a file of its own."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from holdfast.core.files import fresh_file

FILE = "value_head.safetensors"
"""Its name in a run's directory, beside the model's."""


def make_value_head(width: int, device: torch.device | str = "cpu", *, scale: float = 0.0, seed: int = 0) -> nn.Linear:
    """Make a head over states of `width` numbers.

    Args:
        scale: Of its first weights: their deviation is `scale / sqrt(width + 1)`. 0: all zero, so that it says nothing
            before it has learned something; but what is beneath it learns nothing until then either.
        seed: Of these.
    """
    head = nn.utils.skip_init(nn.Linear, width, 1, device=device, dtype=torch.float32)
    for parameter in head.parameters():
        nn.init.zeros_(parameter)
    if scale:
        first = torch.randn(1, width, generator=torch.Generator().manual_seed(seed)) * scale / (width + 1) ** 0.5
        head.weight.data.copy_(first)
    return head


def save_value_head(head: nn.Linear, directory: Path, name: str = FILE) -> None:
    """Write the head into a run's directory, whole or not at all."""
    with fresh_file(directory / name) as side:
        save_file({name: p.detach().cpu().contiguous() for name, p in head.named_parameters()}, side)


def load_value_head(directory: Path, device: torch.device | str = "cpu", name: str = FILE) -> nn.Linear:
    """Read what `save_value_head` wrote; for `Policy.value_head`."""
    tensors = load_file(directory / name)
    head = make_value_head(tensors["weight"].shape[1], device)
    head.load_state_dict(tensors)
    return head
