"""What holds for every registered objective: how a step is cut into micro-batches changes neither loss nor gradient."""

from __future__ import annotations

import math
import os
import signal

import material
import pytest
import torch

from holdfast.axes.registry import REGISTRY, find
from holdfast.data.batching.batches import TokenTable, collate
from holdfast.errors import Interrupted
from holdfast.models.policy import Policy
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

NAMES = [*sorted(REGISTRY["objectives"]), "textbook_focal:Focal"]
"""The registered ones, and one as a user would add it."""
LAYOUTS = {
    "one by one": (1, "padded"),
    "two by two, packed": (2, "packed"),
    "all packed": (6, "packed"),
}


def cuts(rows, size: int, layout: str):
    """The rows as micro-batches of `size` rows."""
    last = rows[-1].row
    groups = [[e for e in rows if start <= e.row < start + size] for start in range(0, last + 1, size)]
    return [collate(group, layout, 0) for group in groups]


@pytest.mark.parametrize("kind", ["llama", "gemma2"])
@pytest.mark.parametrize("name", NAMES)
def test_accumulation_and_packing_change_nothing(tiny, rows_of, readied, step_of, name, kind):
    objective = find("objectives", name)()
    model, _ = tiny(kind)
    rows = rows_of(objective)
    policy = Policy(model)
    readied(policy, objective, cuts(rows, 6, "padded"))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.02 * torch.randn_like(p))
    loss, grads = step_of(policy, objective, cuts(rows, 6, "padded"))
    assert math.isfinite(loss)
    assert sum(g.norm() for g in grads.values()) > 0
    for label, (size, layout) in LAYOUTS.items():
        other, other_grads = step_of(policy, objective, cuts(rows, size, layout))
        assert abs(other - loss) <= 1e-6 * max(1.0, abs(loss)), label
        assert other_grads.keys() == grads.keys()
        whole = torch.stack([g.norm() for g in grads.values()]).norm()
        apart = torch.stack([torch.dist(grads[n], other_grads[n]) for n in grads]).norm()
        assert apart <= 1e-5 * whole, label


@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_an_interrupted_run_ends_bit_equal(tmp_path, rows_of, name, tuner):
    """Through the real loop, on all rows at every step."""
    objective = find("objectives", name)()
    table = TokenTable.of(rows_of(objective, vocab=material.VOCABULARY), fingerprint=name)
    axes = {"objective": {"name": name, **objective.model_dump()}, "tuner": tuner}
    axes |= {"optimizer": {"name": "adamw", "learning_rate": 0.01}}
    recipe = material.recipe({"epochs": 12, "batch_tokens": 4000, "micro_tokens": 100}, **axes)
    losses = []

    def fit(out, on_step):
        return Trainer(recipe, material.model(), table, out, pad_id=0, hooks=Hooks(on_step=on_step)).fit().model

    calm = fit(tmp_path / "calm", lambda log: losses.append(log.loss))
    assert all(map(math.isfinite, losses))
    assert min(losses[-3:]) < losses[0]
    stop = lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 5 else None  # noqa: E731
    with pytest.raises(Interrupted):
        fit(tmp_path / "stormy", stop)
    stormy = fit(tmp_path / "stormy", lambda log: None)
    assert all(torch.equal(p, q) for p, q in zip(calm.parameters(), stormy.parameters(), strict=True))


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
def test_losses_are_sums_with_gradients_and_metrics_are_numbers(tiny, rows_of, readied, looked_over, name):
    objective = find("objectives", name)()
    model, _ = tiny("llama")
    policy = Policy(model.train())
    batch = collate(rows_of(objective, 3), "padded", 0)
    readied(policy, objective, [batch])
    (batch,) = looked_over(policy, objective, [batch])
    out = objective.losses(policy, batch)
    for value in out.sums.values():
        assert value.shape == ()
        assert value.requires_grad
        assert torch.isfinite(value)
    for total, count in out.metrics.values():
        assert isinstance(total, (int, float))
        assert count > 0
