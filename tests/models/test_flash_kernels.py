"""Which flash attention is chosen: by the card, by what torch can activate and by what is installed; proven, or not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from holdfast.models.attention_choice import AttentionChoice
from holdfast.models.flash_kernels import (
    FLASH_KERNELS,
    activate_flash_kernel,
    choose_flash_kernel,
    compute_samples,
    find_flash_kernel,
    is_installed,
    list_registered,
    restore_own,
)
from varlen_reference import reference_varlen

CPU = torch.device("cpu")
CASES = [
    (9, {"flash_attn_interface"}, "FA3"),
    (9, {"flash_attn.cute"}, "FA4"),
    (9, {"flash_attn_interface", "flash_attn.cute"}, "FA3"),
    (10, {"flash_attn_interface"}, None),
    (10, {"flash_attn.cute"}, "FA4"),
    (8, {"flash_attn_interface", "flash_attn.cute"}, None),
    (9, set(), None),
]


def test_the_card_and_what_is_installed_decide() -> None:
    for capability, modules, name in CASES:
        chosen = find_flash_kernel(capability, ["FA3", "FA4"], modules.__contains__)
        assert (chosen and chosen.name) == name, (capability, modules)
    assert find_flash_kernel(9, ["FA4"], lambda module: True) == FLASH_KERNELS[1]
    assert find_flash_kernel(9, [], lambda module: True) is None
    assert choose_flash_kernel(reference_varlen, CPU, torch.float32) == ("", "")  # not for this device


def test_a_module_is_found_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_installed("torch")
    assert not is_installed("flash_attn_interface_nobody_has")
    (tmp_path / "broken_flash" / "cute").mkdir(parents=True)
    (tmp_path / "broken_flash" / "__init__.py").write_text("raise ImportError('built for another torch')")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert is_installed("broken_flash.cute")
    assert not is_installed("broken_flash.missing")


@pytest.mark.skipif(not list_registered(), reason="this torch has no registry of flash kernels")
def test_what_cannot_be_activated_leaves_torchs_own() -> None:
    for one in FLASH_KERNELS:
        flash, refusal = activate_flash_kernel(one, reference_varlen, CPU, torch.float32)
        assert flash == ""
        assert refusal.startswith(f"{one.words} is installed and not used: ")
    assert torch.nn.attention.current_flash_attention_impl() is None


PROGRAM = """
import torch
from holdfast.models.flash_kernels import FlashKernel, activate_flash_kernel, restore_own
from varlen_reference import reference_varlen

class Handle:
    def remove(self): print("removed")

torch.nn.attention.register_flash_attention_impl("ours", register_fn=Handle)
one, factor = FlashKernel("ours", "torch", (9,), "flash 9"), 1

def attend(*args, **words):
    active = torch.nn.attention.current_flash_attention_impl() == "ours"
    return reference_varlen(*args, **words) * (factor if active else 1)

for factor in (1, 1.2):
    print(activate_flash_kernel(one, attend, torch.device("cpu"), torch.float32))
    print(torch.nn.attention.current_flash_attention_impl())
"""


@pytest.mark.skipif(not list_registered(), reason="this torch has no registry of flash kernels")
def test_one_that_computes_something_else_is_let_go() -> None:
    """In a process of its own: names stay in torch's registry."""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, cwd=root / "tests"
    )
    assert done.stdout.splitlines() == [
        "('flash 9', '')", "ours", "removed", "removed",
        "('', \"flash 9 is installed and not used: it gives other numbers than torch's own\")", "None",
    ]  # fmt: skip


def test_samples_hold_windows_and_gradients() -> None:
    """By the definition: 2 windows of an output and three gradients, which a kernel blind to windows does not give."""
    samples = compute_samples(reference_varlen, CPU, torch.float32)
    assert [tuple(x.shape) for x in samples] == [(40, 2, 64)] * 8

    def ignore_window(*args, window_size, **words):
        return reference_varlen(*args, window_size=(-1, 0), **words)

    blind = compute_samples(ignore_window, CPU, torch.float32)
    assert [torch.allclose(a, b) for a, b in zip(samples, blind, strict=True)] == [True] * 4 + [False] * 4
    restore_own()
    assert AttentionChoice("varlen").flash == ""
