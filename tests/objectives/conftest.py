"""The reference generator of the golden values, and the values themselves (float64, computed independently)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch


@pytest.fixture(scope="session")
def golden() -> dict[str, Any]:
    """Values by name; b, e, tau, g, lam in the names are beta, epsilon, temperature, gamma, lambda."""
    return json.loads((Path(__file__).parent / "golden.json").read_text())


@pytest.fixture(scope="session")
def golden_logps() -> Callable[..., list[torch.Tensor]]:
    """`golden_logps(phase=0, labels=(3, 2, 1), lengths=(5, 3, 6))` -> label log-probabilities of 3 sequences, float64.

    Chosen: phase 0 (reference 0.15), labels (3, 2, 1), lengths (5, 3, 6). Rejected: 0.4 (0.52), (5, 1, 2), (4, 6, 2).
    Gold: 0.8, (1, 4, 3), (3, 4, 5).
    """

    def make(phase: float = 0.0, labels=(3, 2, 1), lengths=(5, 3, 6)) -> list[torch.Tensor]:
        b, t, v = (torch.arange(n, dtype=torch.float64) for n in (3, 6, 7))
        logits = 1.5 * torch.sin(0.9 * (b[:, None, None] + 1) + 0.37 * (t[:, None] + 1) * (v + 1) + phase)
        ids = (labels[0] * b[:, None] + labels[1] * t + labels[2]).long() % 7
        every = logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
        return [every[i, :n] for i, n in enumerate(lengths)]

    return make


@pytest.fixture(scope="session")
def golden_batch() -> Callable[..., Any]:
    """`golden_batch(lengths)` -> a batch of sequences with one prompt token and as many labels as the golden ones."""
    from holdfast.data.batches import Encoded, collate

    def make(lengths=(5, 3, 6)):
        rows = [
            Encoded(ids=np.zeros(n + 1, dtype=np.int32), trained=np.arange(n + 1) > 0, row=i)
            for i, n in enumerate(lengths)
        ]
        return collate(rows, "padded", 0)

    return make
