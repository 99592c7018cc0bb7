"""Repeating to the bit on an accelerator, whose quickest kernels add up in whatever order their threads arrive.

On a CPU every operation repeats already. On CUDA three kinds do not by default: the backward pass of flash and
memory-efficient attention, sums by index (`index_add`, the gradients of `gather` and `index_select`), and products of
cuBLAS in a workspace that streams share. torch has an algorithm with a fixed order for each; this asks for it. So do
flash attention 3 and 4 where they stand in for torch's own, and code that is compiled meanwhile (sums by index are left
to torch, and reductions are cut by rule and not by trying).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch

from holdfast.errors import UserError

CUBLAS_VARIABLE = "CUBLAS_WORKSPACE_CONFIG"
"""What torch wants set before it takes a product of cuBLAS for repeatable. 8 of 4 MiB are what it takes on recent cards
anyway, one workspace a stream."""
FLASH_VARIABLE = "FLASH_ATTENTION_DETERMINISTIC"
"""What transformers asks where attention is that of the package flash-attn; read at every call."""


def needs_deterministic_algorithms(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """Tell whether a run must ask torch for algorithms with a fixed order.

    Args:
        setting: `train.deterministic`; auto = only what costs nothing: on a CPU all is so, elsewhere nothing is asked.
    """
    return setting is True and device.type != "cpu"


@contextmanager
def deterministic_algorithms(is_needed: bool) -> Iterator[None]:
    """A context in which the same operation on the same numbers gives the same bits; as it was before, at its end.

    Sampling and evaluation belong outside of it: the running sum that sampling draws from has no such algorithm on CUDA
    by torch's account, and gives the same bits in a row of its own anyhow.

    Args:
        is_needed: Else nothing happens.
    Raises:
        UserError: If an operation has no deterministic algorithm on this device.
    """
    if not is_needed:
        yield
        return
    switches: Any = torch.utils.deterministic  # whose setting stands on a module class that types do not know
    was_enabled, was_warning = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    was_filling, flash_before = switches.fill_uninitialized_memory, os.environ.get(FLASH_VARIABLE)
    os.environ.setdefault(CUBLAS_VARIABLE, ":4096:8")
    # Not warn_only: attention would then keep its unordered backward pass, and only say so.
    torch.use_deterministic_algorithms(True)
    switches.fill_uninitialized_memory = False  # costs a pass over memory that nobody reads unwritten
    os.environ[FLASH_VARIABLE] = "1"
    try:
        yield
    except RuntimeError as error:
        if "use_deterministic_algorithms" not in str(error):
            raise
        raise UserError(
            f"train.deterministic: {_shorten_refusal(str(error))}; set train.deterministic: false"
        ) from error
    finally:
        torch.use_deterministic_algorithms(was_enabled, warn_only=was_warning)
        switches.fill_uninitialized_memory = was_filling
        if flash_before is None:
            del os.environ[FLASH_VARIABLE]
        else:
            os.environ[FLASH_VARIABLE] = flash_before


def _shorten_refusal(text: str) -> str:
    """What torch refuses, without its advice, which is about torch's own switches."""
    return text.partition(", but you set")[0].partition(", but this operation")[0].splitlines()[0]
