"""Tests that are not marked `gpu` compute on the CPU, on any machine, and so do the programs that they start."""

from __future__ import annotations

import json
import os

import pytest
import torch

import card
import processes
from accelerator import skip_reason
from holdfast.core import threads
from holdfast.models.placement import choose_device

LOOK = """
import json, torch
from accelerate import Accelerator
from holdfast.models.placement import choose_device
print(json.dumps([str(choose_device()), torch.cuda.device_count(), Accelerator().device.type, torch.get_num_threads()]))
"""


def test_nothing_sees_a_card() -> None:
    assert os.environ["CUDA_VISIBLE_DEVICES"] == os.environ["HIP_VISIBLE_DEVICES"] == ""
    assert torch.cuda.device_count() == 0
    started = processes.run(["-c", LOOK])
    assert json.loads(started.stdout) == ["cpu", 0, "cpu", torch.get_num_threads()]


def test_where_there_is_an_accelerator_the_cpu_is_chosen_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that torch says is its accelerator, such as MPS, which no variable hides."""
    card.register()
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: card.CARD)
    assert choose_device() == torch.device("cpu")
    assert threads.computes_on_cpu()
    monkeypatch.delenv("HOLDFAST_DEVICE")
    assert choose_device() == card.CARD, "the test could not fail"


def test_every_test_runs_in_one_session_and_is_skipped_with_a_reason_in_the_other(request) -> None:
    assert skip_reason(False, False, True) == skip_reason(True, True, True) == ""
    assert skip_reason(False, True, True) == "runs on the CPU: make test"
    assert skip_reason(True, False, True) == "runs on an accelerator: make test-gpu"
    assert skip_reason(True, True, False) == "torch finds no accelerator here"
    assert skip_reason(request.node.get_closest_marker("gpu") is not None, False, False) == ""
