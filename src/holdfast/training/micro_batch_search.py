"""How large a micro-batch is on an accelerator: measured, the smallest that is about as fast as one of twice the size.

A larger micro-batch is faster until the device is busy, and takes memory for ever. So the largest that fits is the
wrong one: on an H100 two rows of 8,192 tokens a micro-batch were as fast as four, at half the memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from holdfast.models.placement import GIB, memory_bytes
from holdfast.training.memory import FREE_SHARE

GAIN = 1.05
"""How much faster the double size must be to be taken."""

TIMES = 2
"""Passes that are timed, after one that compiles, chooses kernels and takes memory; the faster one counts."""

LEAST_TOKENS = 2048
"""Where the search begins, if a row is not longer: smaller ones leave any accelerator idle."""


class DeviceMemory(Protocol):
    """Reads the memory of a device."""

    def start_peak(self) -> None:
        """Let go of what is not used, and look for the peak from now on."""

    def wait_for_device(self) -> None:
        """Until the device has done what it was given."""

    def read_free(self) -> tuple[int, int]:
        """Bytes that were free at the peak, and all there are."""


class CudaMemory:
    """The memory of a device whose allocator is torch's (CUDA, ROCm, XPU): what that took from it, used or not."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.module: Any = torch.get_device_module(device.type)

    def start_peak(self) -> None:
        self.module.empty_cache()
        self.module.reset_peak_memory_stats(self.device)

    def wait_for_device(self) -> None:
        self.module.synchronize(self.device)

    def read_free(self) -> tuple[int, int]:
        free, total = self.module.mem_get_info(self.device)
        given_back = self.module.max_memory_reserved(self.device) - self.module.memory_reserved(self.device)
        return free - given_back, total


@dataclass(frozen=True, slots=True)
class PassCost:
    """What a forward and backward pass took.

    Args:
        tokens: Real ones.
        seconds: For all of them.
        free, total: Bytes of the device: free at the peak, and all.
    """

    tokens: int
    seconds: float
    free: int
    total: int

    @property
    def leaves_room(self) -> bool:
        return self.free >= FREE_SHARE * self.total

    @property
    def rate(self) -> float:
        """Tokens a second."""
        return self.tokens / self.seconds

    def describe_cost(self) -> str:
        """One line."""
        used_gib = (self.total - self.free) / GIB
        return f"{self.rate:,.0f} tokens/s, {used_gib:.1f} of {self.total / GIB:.1f} GiB in use at the peak"


class PassMeter:
    """Measures passes.

    Args:
        memory: Of the device.
        clock: Seconds.
    """

    def __init__(self, memory: DeviceMemory, clock: Callable[[], float] = time.perf_counter) -> None:
        self.memory, self.clock = memory, clock

    def measure_pass(self, run_pass: Callable[[], bool], tokens: int) -> PassCost | None:
        """What a pass takes whose gradients are added to those of one before, as in a step; `None` if it does not fit.

        Args:
            run_pass: Does it; whether there was memory for it.
            tokens: That it is over.
        """
        self.memory.start_peak()
        seconds = []
        for _ in range(1 + TIMES):
            self.memory.wait_for_device()
            began = self.clock()
            if not run_pass():
                return None
            self.memory.wait_for_device()
            seconds.append(self.clock() - began)
        return PassCost(tokens, min(seconds[1:]), *self.memory.read_free())


def build_meter(device: torch.device) -> PassMeter | None:
    """What measures passes on a device; `None` where nobody says what memory they take (on a CPU, too)."""
    module: Any = torch.get_device_module(device.type)
    knows_peak = hasattr(module, "max_memory_reserved") and device.type != "cpu"
    return PassMeter(CudaMemory(device)) if knows_peak and memory_bytes(device) is not None else None


def search_micro_tokens(
    measure_size: Callable[[int], PassCost | None], least: int, first: int, most: int
) -> tuple[int, PassCost | None]:
    """The size of micro-batches in tokens, and what one costs; `None` if not even the least fits.

    The smallest size that is about as fast as the double one and leaves a fifth of the memory free. Where no size does
    that, the least, if it fits at all.

    Args:
        measure_size: From a size to its cost; called with each size once.
        least: At which a micro-batch is one row.
        first: Where to begin.
        most: The largest of use.
    """
    size = max(least, min(first, most))
    cost = measure_size(size)
    while size > least and (cost is None or not cost.leaves_room):
        size = max(least, size // 2)
        cost = measure_size(size)
    if cost is None or not cost.leaves_room or size < first:
        return size, cost
    smaller: tuple[int, PassCost] | None = None
    while size < most:
        double = min(2 * size, most)
        if smaller is not None and not _expect_room(smaller, (size, cost), double):
            break
        double_cost = measure_size(double)
        if double_cost is None or not double_cost.leaves_room or double_cost.rate < GAIN * cost.rate:
            break
        smaller, size, cost = (size, cost), double, double_cost
    return size, cost


def _expect_room(one: tuple[int, PassCost], other: tuple[int, PassCost], size: int) -> bool:
    """Whether a size leaves room, by a line through two that were measured: trying costs time and fragments."""
    (smaller, few), (larger, many) = one, other
    per_token = (few.free - many.free) / (larger - smaller)
    return many.free - per_token * (size - larger) >= FREE_SHARE * many.total
