"""Faster flash kernels, where somebody installed them, through torch's public registry of implementations.

torch itself carries flash attention 2. Flash 3 (`flash_attn_interface`) and flash 4 (`flash_attn.cute`) take its place
in the dispatcher, for `varlen_attn` and SDPA alike and in the whole process, once they are activated. Nothing here
depends on them: without one, or where one gives other numbers than torch's own, that stays.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.attention
from torch import Tensor

from holdfast.errors import first_line
from holdfast.models.llama_family import outputs_agree

if TYPE_CHECKING:
    from holdfast.models.varlen_attention import Kernel


@dataclass(frozen=True, slots=True)
class FlashKernel:
    """An implementation of flash attention.

    Args:
        name: In torch's registry.
        module: That must be installed.
        capabilities: First numbers of the compute capabilities it is written for.
        words: What the plan calls it.
    """

    name: str
    module: str
    capabilities: tuple[int, ...]
    words: str


FLASH_KERNELS = (
    FlashKernel("FA3", "flash_attn_interface", (9,), "flash 3"),
    FlashKernel("FA4", "flash_attn.cute", (9, 10), "flash 4"),
)
"""The first that fits is used: on Hopper flash 3, whose kernels are compiled and not made at their first call."""


def is_installed(module: str) -> bool:
    """Whether a module lies where Python looks; nothing of it is run, since a broken one fails when it is imported."""
    top, *rest = module.split(".")
    spec = find_spec(top)
    if spec is None or not rest:
        return spec is not None
    places = [Path(place, *rest) for place in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)


def find_flash_kernel(
    capability: int, names: Collection[str], is_there: Callable[[str], bool] = is_installed
) -> FlashKernel | None:
    """The first of `FLASH_KERNELS` that fits; `None` for torch's own.

    Args:
        capability: First number of the card's compute capability.
        names: Names that torch can activate.
        is_there: Whether a module is installed.
    """
    fitting = (one for one in FLASH_KERNELS if capability in one.capabilities and one.name in names)
    return next((one for one in fitting if is_there(one.module)), None)


def list_registered() -> list[str]:
    """Implementations that torch can activate; none in releases before it could."""
    attention = torch.nn.attention
    return attention.list_flash_attention_impls() if hasattr(attention, "list_flash_attention_impls") else []


def restore_own() -> None:
    """Let torch's own flash attention compute again, where another one does."""
    if list_registered() and torch.nn.attention.current_flash_attention_impl() is not None:
        torch.nn.attention.restore_flash_attention_impl()


def choose_flash_kernel(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> tuple[str, str]:
    """Activate the fastest implementation there is beneath torch's varlen attention.

    Args:
        kernel: `torch.nn.attention.varlen.varlen_attn`.
    Returns:
        What computes, in words, "" for torch's own; and why one that is installed does not.
    """
    names = list_registered()
    if not names or device.type != "cuda":
        return "", ""
    active = torch.nn.attention.current_flash_attention_impl()
    if active is not None and active not in {one.name for one in FLASH_KERNELS}:
        return active, ""  # somebody's choice
    chosen = find_flash_kernel(torch.cuda.get_device_capability(device)[0], names)
    if chosen is not None and active == chosen.name:  # proven when an earlier model came
        return chosen.words, ""
    return ("", "") if chosen is None else activate_flash_kernel(chosen, kernel, device, dtype)


def activate_flash_kernel(
    chosen: FlashKernel, kernel: Kernel, device: torch.device, dtype: torch.dtype
) -> tuple[str, str]:
    """Let an implementation compute, if it gives torch's own numbers; returns as `choose_flash_kernel`."""
    restore_own()
    own = compute_samples(kernel, device, dtype)
    try:
        torch.nn.attention.activate_flash_attention_impl(chosen.name)
        samples = compute_samples(kernel, device, dtype)
    except (ImportError, RuntimeError, ValueError, TypeError, AttributeError) as error:  # of another's prototype
        reason = f"{type(error).__name__}: {first_line(error)}"
    else:
        if all(outputs_agree(one, other, dtype) for one, other in zip(samples, own, strict=True)):
            return chosen.words, ""
        reason = "it gives other numbers than torch's own"
    restore_own()
    return "", f"{chosen.words} is installed and not used: {reason}"


SAMPLE_LENGTHS = (17, 23)
WINDOWS = ((-1, 0), (6, 0))
"""As a kernel counts: causal, and causal with six tokens before each one."""


def compute_samples(kernel: Kernel, device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """Outputs and gradients of a few sequences, causal and in a window, which a model's trial is too short for."""
    generator = torch.Generator().manual_seed(0)
    shape = (4, sum(SAMPLE_LENGTHS), 2, 64)  # query, key, value and the output's gradient: [T, heads, head] each
    *inputs, direction = torch.randn(shape, generator=generator).to(device, dtype)
    bounds = torch.tensor([0, *SAMPLE_LENGTHS], device=device).cumsum(0).to(torch.int32)
    samples: list[Tensor] = []
    for window in WINDOWS:
        q, k, v = leaves = [x.detach().requires_grad_() for x in inputs]
        with torch.enable_grad():
            out = kernel(q, k, v, bounds, bounds, max(SAMPLE_LENGTHS), max(SAMPLE_LENGTHS), window_size=window)
            samples += [x.float() for x in (out.detach(), *torch.autograd.grad(out, leaves, direction))]
    return samples
