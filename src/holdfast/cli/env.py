"""`holdfast env`."""

from __future__ import annotations

import os
import platform

from holdfast.cli.common import AsJson, Verbose, open_session

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
    with open_session(verbose, as_json=as_json) as ui:
        from holdfast.cli.text import format_table

        facts = {**package_versions(), **describe_machine()}
        ui.report_result(format_table(list(facts.items())), **facts)


def package_versions() -> dict[str, str]:
    """Holdfast, Python and the packages that matter; absent ones are left out."""
    from importlib import metadata

    import holdfast

    by_package = {"holdfast": holdfast.__version__, "python": platform.python_version()}
    for package in PACKAGES:
        try:
            by_package[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return by_package


def describe_machine() -> dict[str, str]:
    """Processor, cores, memory and accelerators."""
    import torch

    from holdfast.models.placement import GIB, choose_device, describe_device, good_at_bf16, memory_bytes

    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    facts = {
        "platform": platform.platform(),
        "cores": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "memory": f"{pages / 2**30:.1f} GiB",
        "cpu capability": torch.backends.cpu.get_cpu_capability(),
    }
    kind = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    for i in range(torch.accelerator.device_count() if kind else 0):
        device = torch.device(kind.type, i)  # type: ignore[union-attr]
        memory = memory_bytes(device)
        bf16 = ", bf16" if good_at_bf16(device) else ""
        facts[str(device)] = describe_device(device) + (f", {memory / GIB:.0f} GiB" if memory else "") + bf16
    facts["device"] = str(choose_device())
    if kind is None:
        facts["accelerator"] = "none"
    return facts
