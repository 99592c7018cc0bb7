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
def golden_logits() -> Callable[..., torch.Tensor]:
    """`golden_logits(phase=0)` -> logits [3, 6, 7], float64; for phases see `golden_logps`."""

    def make(phase: float = 0.0) -> torch.Tensor:
        b, t, v = (torch.arange(n, dtype=torch.float64) for n in (3, 6, 7))
        return 1.5 * torch.sin(0.9 * (b[:, None, None] + 1) + 0.37 * (t[:, None] + 1) * (v + 1) + phase)

    return make


@pytest.fixture(scope="session")
def golden_logps(golden_logits) -> Callable[..., list[torch.Tensor]]:
    """`golden_logps(phase=0, labels=(3, 2, 1), lengths=(5, 3, 6))` -> label log-probabilities of 3 sequences, float64.

    Chosen: phase 0 (reference 0.15), labels (3, 2, 1), lengths (5, 3, 6). Rejected: 0.4 (0.52), (5, 1, 2), (4, 6, 2).
    Gold: 0.8, (1, 4, 3), (3, 4, 5).
    """

    def make(phase: float = 0.0, labels=(3, 2, 1), lengths=(5, 3, 6)) -> list[torch.Tensor]:
        b, t = torch.arange(3), torch.arange(6)
        ids = (labels[0] * b[:, None] + labels[1] * t + labels[2]) % 7
        every = golden_logits(phase).log_softmax(-1).gather(2, ids[..., None])[..., 0]
        return [every[i, :n] for i, n in enumerate(lengths)]

    return make


@pytest.fixture(scope="session")
def golden_batch() -> Callable[..., Any]:
    """`golden_batch(lengths)` -> a batch of sequences with one prompt token and as many labels as the golden ones."""
    from holdfast.data.batching.batches import EncodedSequence, collate_sequences

    def make(lengths=(5, 3, 6)):
        rows = [
            EncodedSequence(ids=np.zeros(n + 1, dtype=np.int32), label_mask=np.arange(n + 1) > 0, row=i)
            for i, n in enumerate(lengths)
        ]
        return collate_sequences(rows, "padded", 0)

    return make


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[Any]]:
    """`rows_of(objective, n=6, vocab=320, seed=0)` -> sequences of n rows of the kind that it
    takes.
    """
    from functools import partial

    from holdfast.testing.examples import example_rows

    return partial(example_rows, vocab=320)


@pytest.fixture(scope="session")
def readied() -> Callable[..., None]:
    """`readied(policy, objective, batches)`: what the trainer does once, before the weights move."""
    from holdfast.testing.objectives import prepare_policy

    return prepare_policy


@pytest.fixture(scope="session")
def looked_over() -> Callable[..., list[Any]]:
    """`looked_over(policy, objective, batches)` -> the batches of a step with what the objective surveys of all."""
    from holdfast.testing.objectives import survey_step

    return survey_step


@pytest.fixture(scope="session")
def step_of() -> Callable[..., tuple[float, dict[str, torch.Tensor]]]:
    """`step_of(policy, objective, batches)` -> loss and gradients of one step, divided as the trainer divides."""
    from holdfast.testing.objectives import take_step

    return take_step


@pytest.fixture
def moved(tiny) -> Callable[..., tuple[Any, Any]]:
    """`moved(rows, layout="packed")` -> a policy that left its reference, which is remembered, and the rows' batch."""
    from holdfast.data.batching.batches import collate_sequences
    from holdfast.models.policy import Policy, precompute_reference

    def make(rows, layout: str = "packed"):
        model, _ = tiny("llama")
        batch, policy = collate_sequences(rows, layout, 0), Policy(model)
        precompute_reference(policy, [batch])
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return policy, batch

    return make
