"""What holds for every registered objective: how a step is cut into micro-batches changes neither loss nor gradient."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.data.batches import collate
from holdfast.policy import Policy, precompute
from holdfast.registry import REGISTRY, find

NAMES = sorted(REGISTRY["objectives"])
LAYOUTS = {
    "one by one": (1, "padded"),
    "two by two, packed": (2, "packed"),
    "all packed": (6, "packed"),
}


def step(policy: Policy, objective, rows, size: int, layout: str) -> tuple[float, dict[str, torch.Tensor]]:
    """Loss and gradients of one step, cut into micro-batches of `size` rows, divided as the trainer divides."""
    per_row = 2 if objective.rows == "pair" else 1
    cuts = [rows[i : i + size * per_row] for i in range(0, len(rows), size * per_row)]
    batches = [collate(cut, layout, 0) for cut in cuts]
    counts = {term: sum(b.count(unit) for b in batches) for term, unit in objective.units().items()}
    total = 0.0
    for batch in batches:
        sums = objective.losses(policy, batch).sums
        assert sums.keys() == counts.keys()
        loss = sum(value / counts[term] for term, value in sums.items())
        loss.backward()
        total += loss.item()
    grads = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return total, grads


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("name", NAMES)
def test_accumulation_and_packing_change_nothing(tiny, make_rows, name, kind):
    objective = find("objectives", name)()
    model, _ = tiny(kind)
    rows = make_rows(6, pairs=objective.rows == "pair")
    policy = Policy(model)
    if objective.needs_reference:
        precompute(policy, [collate(rows, "padded", 0)])
        torch.manual_seed(0)
        with torch.no_grad():
            for p in model.parameters():
                p.add_(0.02 * torch.randn_like(p))
    loss, grads = step(policy, objective, rows, 6, "padded")
    assert math.isfinite(loss)
    assert sum(g.norm() for g in grads.values()) > 0
    for label, (size, layout) in LAYOUTS.items():
        other, other_grads = step(policy, objective, rows, size, layout)
        assert abs(other - loss) <= 1e-6 * max(1.0, abs(loss)), label
        assert other_grads.keys() == grads.keys()
        whole = torch.stack([g.norm() for g in grads.values()]).norm()
        apart = torch.stack([torch.dist(grads[n], other_grads[n]) for n in grads]).norm()
        assert apart <= 1e-5 * whole, label


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_says_what_it_is(name):
    objective = find("objectives", name)
    page = objective.page()
    assert objective.paper
    assert objective.summary().endswith("]")
    for heading in ("What it does:", "When it helps:", "When it fails:", "Columns:", "Formula"):
        assert heading in page, heading
    assert len(page.splitlines()) < 60
    for field in objective.model_fields.values():
        assert field.description


@pytest.mark.parametrize("name", NAMES)
def test_losses_are_sums_with_gradients_and_metrics_are_numbers(tiny, make_rows, name):
    objective = find("objectives", name)()
    model, _ = tiny("llama")
    policy = Policy(model.train())
    batch = collate(make_rows(3, pairs=objective.rows == "pair"), "padded", 0)
    if objective.needs_reference:
        precompute(policy, [batch])
    out = objective.losses(policy, batch)
    for value in out.sums.values():
        assert value.shape == ()
        assert value.requires_grad
        assert torch.isfinite(value)
    for total, count in out.metrics.values():
        assert isinstance(total, (int, float))
        assert count > 0
