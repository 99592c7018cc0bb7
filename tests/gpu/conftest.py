"""The device of a test that runs on either: `cpu`, or with the marker `gpu` the accelerator."""

from __future__ import annotations

import pytest
import torch

from holdfast.models.placement import choose_device


@pytest.fixture
def device(place: str) -> torch.device:
    """Where a test computes; `place` is a parameter of it."""
    chosen = choose_device()
    assert (chosen.type == "cpu") == (place == "cpu")
    return chosen
