"""Where models live and in which dtype they are read: the one place that decides it, for every verb.

A device is chosen once, when a model is loaded; whatever computes with the model asks the model for it. The order is:
what was asked for by name (the recipe's `device`, `--device`), then `HOLDFAST_DEVICE`, then the accelerator that
`torch.accelerator` finds (CUDA, XPU, MPS, ...), then the CPU. Each of several processes has its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import platform
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from holdfast.errors import UserError

GIB = 2**30
KEPT_HEAP_GIB = 2.0
"""Resident memory below which collecting what earlier runs left is not worth its tenth of a second."""
VARIABLE = "HOLDFAST_DEVICE"
"""Environment variable with the device of all that names none."""


def choose_device(name: str = "auto") -> torch.device:
    """Choose the device for models, and make it the current one where several are alike.

    Args:
        name: `auto`, or as torch writes a device: `cpu`, `cuda`, `cuda:1`, `mps`, `xpu`, ...
    Returns:
        With its index, unless it is the CPU, or there can be only one.
    Raises:
        UserError: If there is no such device here, or one is named for several processes.
    """
    source = "device"
    if name == "auto" and os.environ.get(VARIABLE):
        source, name = VARIABLE, os.environ[VARIABLE]
    if name == "auto":
        accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        device = torch.device("cpu" if accelerator is None else accelerator.type)
    else:
        device = _device_by_name(source, name)
    return device if device.type == "cpu" else _with_index(source, name, device)


def _device_by_name(source: str, name: str) -> torch.device:
    try:
        device = torch.device(name)
        module: Any = None if device.type == "cpu" else torch.get_device_module(device.type)
    except RuntimeError:
        raise UserError(f"{source}: {name} is not a device; {_describe_choices()}") from None
    if module is not None and not module.is_available():
        raise UserError(f"{source}: {name} is not there; {_describe_choices()}")
    return torch.device("cpu") if device.type == "cpu" else device


def _with_index(source: str, name: str, device: torch.device) -> torch.device:
    """The device of this process: by its local rank, unless there is one process, or one device of this type."""
    module: Any = torch.get_device_module(device.type)
    if not hasattr(module, "set_device"):  # MPS: there is only one
        return torch.device(device.type)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        if device.index is not None:
            raise UserError(f"{source}: {name} is one device, and there are several processes; set it to {device.type}")
        index = int(os.environ.get("LOCAL_RANK", "0"))
    else:
        index = module.current_device() if device.index is None else device.index
    if index >= module.device_count():
        raise UserError(f"{source}: {device.type}:{index} is not there; {_describe_choices()}")
    device = torch.device(device.type, index)
    module.set_device(device)  # libraries that say only `cuda` mean the current one
    return device


def _describe_choices() -> str:
    """What there is here, for messages."""
    names = ["cpu"]
    if torch.accelerator.is_available():
        kind, count = torch.accelerator.current_accelerator(), torch.accelerator.device_count()
        assert kind is not None
        names += [kind.type] if count == 1 else [f"{kind.type}:{i}" for i in range(count)]
    return f"here {'is only' if len(names) == 1 else 'are'} {', '.join(names)}"


def good_at_bf16(device: torch.device) -> bool:
    """Whether products in bfloat16 are done by the device itself, and faster than in fp32.

    Not so on a CPU: most emulate them, and the rest are no faster for small models.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "xpu" and torch.xpu.is_bf16_supported()


def autocast_dtype(precision: str, device: torch.device, weights: str) -> torch.dtype | None:
    """What training computes in, by `train.precision` and `train.weights`; `None` for fp32."""
    bf16 = good_at_bf16(device) if precision == "auto" else precision == "bf16"
    return torch.bfloat16 if bf16 or weights == "bf16" else None


def weights_dtype(own: torch.dtype, device: torch.device) -> torch.dtype:
    """The dtype in which a model is read, to sample from it and to measure it; what trains is made fp32 by the trainer.

    Its own, where the device is good at it; fp32 on a CPU, which is exact for every smaller type.

    Args:
        own: Of the files.
    """
    if own == torch.bfloat16:
        return own if good_at_bf16(device) else torch.float32
    return own if own == torch.float16 and device.type != "cpu" else torch.float32


def widest_dtype(device: torch.device) -> torch.dtype:
    """fp64, or fp32 where there is no fp64."""
    return torch.float32 if device.type == "mps" else torch.float64


def describe_device(device: torch.device) -> str:
    """A device by the name its maker gave it."""
    if device.type == "cpu":
        return platform.processor() or platform.machine()
    module: Any = torch.get_device_module(device.type)
    return module.get_device_name(device) if hasattr(module, "get_device_name") else device.type


def peak_gib(device: torch.device) -> float:
    """Peak memory so far: allocated on the accelerator (MPS: now), resident in the process on a CPU."""
    module: Any = torch.get_device_module(device.type)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory() / GIB
    if hasattr(module, "max_memory_allocated"):
        return module.max_memory_allocated(device) / GIB
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / GIB


def reset_peak(device: torch.device) -> None:
    """Let `peak_gib` begin anew with what is held now, where that can be: for several runs in one process."""
    module: Any = torch.get_device_module(device.type)
    if hasattr(module, "reset_peak_memory_stats"):
        module.reset_peak_memory_stats(device)
    elif device.type == "cpu" and sys.platform == "linux":
        with contextlib.suppress(OSError):  # a kernel that has no such switch, or does not let us
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5: the largest resident size so far


def free_bytes(device: torch.device) -> int | None:
    """Memory of an accelerator that can still be taken; `None` where nobody says (on a CPU, too)."""
    module: Any = torch.get_device_module(device.type)
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    return module.mem_get_info(device)[0] if hasattr(module, "mem_get_info") else None


def memory_bytes(device: torch.device) -> int | None:
    """All memory of an accelerator; `None` where nobody says."""
    module: Any = torch.get_device_module(device.type)
    if device.type == "mps":
        return torch.mps.recommended_max_memory()
    return module.mem_get_info(device)[1] if hasattr(module, "mem_get_info") else None


def give_back_memory(device: torch.device) -> None:
    """Let go of what is no longer used: objects in cycles, and blocks that the device's allocator keeps for later."""
    if device.type == "cpu":
        return
    gc.collect()
    module: Any = torch.get_device_module(device.type)
    if hasattr(module, "empty_cache"):
        module.empty_cache()


def give_back_heap() -> None:
    """Give main memory back that runs before this one held and that the allocator keeps, where it is much.

    Tensors below 32 MiB lie in glibc's heap among others that live, and stay resident once they are freed: a second run
    of half a billion parameters began beside 7 GiB of the first one's weights, gradients and states.
    """
    if sys.platform != "linux" or resident_gib() < KEPT_HEAP_GIB:
        return
    gc.collect()
    libc = ctypes.CDLL(None)
    if hasattr(libc, "malloc_trim"):  # other C libraries have none
        libc.malloc_trim(0)


def resident_gib() -> float:
    """What of this process is in main memory now (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * resource.getpagesize() / GIB


def count_weight_bytes(model: nn.Module) -> int:
    """Bytes of a model's weights as they are held."""
    return sum(p.numel() * p.element_size() for p in model.parameters())


def is_out_of_memory(error: BaseException) -> bool:
    """Whether `error` says that an allocation failed, on an accelerator or on the CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)


def wait_for(device: torch.device) -> None:
    """Until a device has done what it was given; a CPU always has."""
    module: Any = torch.get_device_module(device.type)
    if device.type != "cpu" and hasattr(module, "synchronize"):
        module.synchronize()


def random_states(device: torch.device) -> dict[str, Tensor]:
    """States of the CPU's and the device's random generators, as byte tensors on the CPU."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "mps":
        states["mps"] = torch.mps.get_rng_state()
    elif device.type != "cpu":
        module: Any = torch.get_device_module(device.type)
        states[_generator_name(device)] = module.get_rng_state(device)
    return states


def set_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    """The inverse of `random_states`; a state of a generator that is not used here is left out."""
    torch.set_rng_state(states["cpu"])
    if device.type == "mps" and "mps" in states:
        torch.mps.set_rng_state(states["mps"])
    elif device.type not in ("cpu", "mps") and _generator_name(device) in states:
        module: Any = torch.get_device_module(device.type)
        module.set_rng_state(states[_generator_name(device)], device)


def _generator_name(device: torch.device) -> str:
    return f"{device.type}{device.index or 0}"
