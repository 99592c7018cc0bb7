"""`holdfast env`."""

from __future__ import annotations

import os
import platform

from holdfast.cli.common import AsJson, Verbose, speaking

PACKAGES = (
    "torch", "transformers", "accelerate", "peft", "datasets", "safetensors", "tokenizers", "pydantic", "typer", "rich",
    "jinja2", "numpy", "scipy", "lm-eval", "math-verify", "vllm",
)  # fmt: skip


def env(verbose: Verbose = False, as_json: AsJson = False) -> None:
    """
    \b
    holdfast env

    Print versions and machine, to paste into a bug report. Nothing is sent anywhere.
    """
    with speaking(verbose, as_json=as_json) as ui:
        from holdfast.cli.text import table

        found = {**versions(), **machine()}
        ui.result(table(list(found.items())), **found)


def versions() -> dict[str, str]:
    """Holdfast, Python and the packages that matter; absent ones are left out."""
    from importlib import metadata

    import holdfast

    found = {"holdfast": holdfast.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Processor, cores, memory and accelerators."""
    import torch

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    found = {
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{pages / 2**30:.1f} GiB",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }
    for i in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(i)
        found[f"cuda:{i}"] = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB"
    if not torch.cuda.is_available():
        found["accelerator"] = "none"
    return found
