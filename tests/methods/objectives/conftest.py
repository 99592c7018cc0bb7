"""The reference generator of the golden values, and the values themselves (float64, computed independently)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

ROLES = {"answer": 1, "single": 1, "pair": 2, "triple": 3, "shifted": 2, "taught": 2}


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
    from holdfast.data.batching.batches import Encoded, collate

    def make(lengths=(5, 3, 6)):
        rows = [
            Encoded(ids=np.zeros(n + 1, dtype=np.int32), trained=np.arange(n + 1) > 0, row=i)
            for i, n in enumerate(lengths)
        ]
        return collate(rows, "padded", 0)

    return make


@pytest.fixture(scope="session")
def rows_of() -> Callable[..., list[Any]]:
    """`rows_of(objective, n=6, vocab=320, seed=0)` -> `Encoded` sequences of n rows of the kind that it takes.

    Random prompts and answers of various lengths and weights. Rows of choices have two to four of them; in taught rows
    both sequences end with the same answer, the second after a longer prompt.
    """
    from holdfast.data.batching.batches import Encoded

    def make(objective, n: int = 6, vocab: int = 320, seed: int = 0, weighted: bool = True) -> list[Encoded]:
        rng = np.random.default_rng(seed)
        out = []
        for row in range(n):
            roles = ROLES.get(objective.kind().name, 2 + row % 3)
            prompt = rng.integers(3, vocab, size=rng.integers(2, 10))
            values = {c.name: value_of(c, row, rng) for c in objective.columns() if not c.each}
            weight = float(rng.uniform(0.5, 1.5)) if weighted else 1.0
            answer = rng.integers(3, vocab, size=rng.integers(2, 14))
            for role in range(roles):
                if role and objective.kind().name == "taught":
                    prompt = np.concatenate([rng.integers(3, vocab, size=4), prompt])
                elif role:
                    answer = rng.integers(3, vocab, size=rng.integers(2, 14))
                ids = np.concatenate([prompt, answer]).astype(np.int32)
                own = {c.name: value_of(c, row, rng) for c in objective.columns() if c.each}
                out.append(Encoded(ids, np.arange(len(ids)) >= len(prompt), row, role, weight, values | own))
        return out

    return make


def value_of(column: Any, row: int, rng: np.random.Generator) -> float:
    """A value in the column's range; truth values alternate."""
    if column.truth:
        return float(row % 2 == 0)
    low, high = max(column.low, 0.0), min(column.high, 1.0)
    return float(rng.uniform(low, high))


@pytest.fixture(scope="session")
def readied() -> Callable[..., None]:
    """`readied(policy, objective, batches)`: what the trainer does once, before the weights move."""
    from holdfast.models.loading import evaluating
    from holdfast.models.policy import precompute

    def ready(policy, objective, batches) -> None:
        if objective.needs_reference:
            precompute(policy, batches)
        if objective.prepares:
            with evaluating(policy.model), torch.no_grad():
                objective.prepare(policy, lambda: batches, policy.kept)

    return ready


@pytest.fixture(scope="session")
def looked_over() -> Callable[..., list[Any]]:
    """`looked_over(policy, objective, batches)` -> the batches of a step with what the objective surveys of all."""
    from holdfast.axes.objective import surveyed

    def look(policy, objective, batches):
        if not objective.surveys:
            return batches
        with torch.no_grad():
            return surveyed([[objective.survey(policy, batch) for batch in batches]], 0, batches)

    return look


@pytest.fixture(scope="session")
def step_of(looked_over) -> Callable[..., tuple[float, dict[str, torch.Tensor]]]:
    """`step_of(policy, objective, batches)` -> loss and gradients of one step, divided as the trainer divides."""

    def step(policy, objective, batches):
        counts: dict[str, float] = {}
        for batch in batches:
            for term, count in objective.counts(batch).items():
                counts[term] = counts.get(term, 0.0) + count
        total = 0.0
        for batch in looked_over(policy, objective, batches):
            sums = objective.losses(policy, batch).sums
            assert sums.keys() == counts.keys()
            loss = sum(value / (counts[term] or 1.0) for term, value in sums.items())
            loss.backward()
            total += loss.item()
        grads = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
        policy.model.zero_grad()
        return total, grads

    return step


@pytest.fixture
def moved(tiny) -> Callable[..., tuple[Any, Any]]:
    """`moved(rows, layout="packed")` -> a policy that left its reference, which is remembered, and the rows' batch."""
    from holdfast.data.batching.batches import collate
    from holdfast.models.policy import Policy, precompute

    def make(rows, layout: str = "packed"):
        model, _ = tiny("llama")
        batch, policy = collate(rows, layout, 0), Policy(model)
        precompute(policy, [batch])
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.05 * torch.randn_like(p))
        return policy, batch

    return make
