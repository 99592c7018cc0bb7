"""UAL: golden values, its limits, and where smoothing comes from."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.likelihood.ual import MOST, UAL, label_and_mean, smoothed_losses
from holdfast.models.policy import Policy


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    """Logits [12, 9] and labels [12]."""
    random = torch.Generator().manual_seed(0)
    return torch.randn(12, 9, dtype=torch.float64, generator=random), torch.randint(9, (12,), generator=random)


def test_golden_values(golden, golden_logits):
    logits, lengths = golden_logits(), (5, 3, 6)
    labels = (3 * torch.arange(3)[:, None] + 2 * torch.arange(6) + 1) % 7
    for i, (n, v) in enumerate(zip(lengths, (0.0, 0.1, 0.2), strict=True)):
        logps, uniform = label_and_mean(logits[i, :n], labels[i, :n]).unbind(-1)
        got = smoothed_losses(logps, uniform, torch.full((n,), v, dtype=torch.float64)).mean()
        np.testing.assert_allclose(got, golden["ual v=(0,.1,.2) seqmean"][i], atol=1e-7)


@pytest.mark.parametrize("v", [0.0, 0.1, 0.7, 1.0])
def test_a_constant_is_torchs_label_smoothing(drawn, v):
    logits, labels = drawn
    got = smoothed_losses(*label_and_mean(logits, labels).unbind(-1), torch.tensor(v))
    torch.testing.assert_close(got, F.cross_entropy(logits, labels, label_smoothing=v, reduction="none"))


def test_all_smoothing_pulls_towards_the_uniform_distribution(drawn):
    logits, labels = drawn
    logits.requires_grad_()
    loss = smoothed_losses(*label_and_mean(logits, labels).unbind(-1), torch.tensor(1.0))
    (grad,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(grad, logits.detach().softmax(-1) - 1 / 9)


def test_the_optimum_on_one_repeated_token():
    v, logits = 0.3, torch.zeros(1, 9, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-16)

    def closure():
        optimizer.zero_grad()
        loss = smoothed_losses(*label_and_mean(logits, torch.tensor([4])).unbind(-1), torch.tensor(v)).sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert math.isclose(logits.softmax(-1)[0, 4].item(), 1 - v + v / 9, abs_tol=1e-6)


def test_mappings():
    found, overall = torch.tensor([0.0, 1.0, 2.0, 5.0]), torch.tensor([2.0, 0.0, 5.0])
    mean = UAL(mean_smoothing=0.2).compute_smoothing(found, overall)
    torch.testing.assert_close(mean, torch.tensor([0.0, 0.1, 0.2, 0.5]))
    assert math.isclose(mean.mean().item(), 0.2, rel_tol=1e-6)
    spread = UAL(mapping="range", v_min=0.1, v_max=0.6).compute_smoothing(found, overall)
    torch.testing.assert_close(spread, torch.tensor([0.1, 0.2, 0.3, 0.6]))
    extreme = UAL(mean_smoothing=0.5).compute_smoothing(torch.tensor([100.0]), torch.tensor([1.0, 0.0, 100.0]))
    torch.testing.assert_close(extreme, torch.tensor([MOST]))
    certain, same = torch.zeros(3), torch.full((3,), 4.0)
    assert torch.equal(UAL().compute_smoothing(certain, torch.zeros(3)), certain)
    torch.testing.assert_close(UAL(mapping="range", v_min=0.1).compute_smoothing(same, same), torch.full((3,), 0.1))
    with pytest.raises(ValidationError, match=r"v_min 0\.5 is above v_max 0\.2"):
        UAL(mapping="range", v_min=0.5)


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_without_smoothing_it_is_sft_by_answers(tiny, make_rows, readied, layout):
    model, _ = tiny("llama")
    policy, batch = Policy(model), collate_sequences(make_rows(), layout, 0)
    objective = UAL(mean_smoothing=0)
    readied(policy, objective, [batch])
    value, wanted = objective.losses(policy, batch).sums["nll"], SFT(reduction="sequence").losses(policy, batch)
    torch.testing.assert_close(value, wanted.sums["nll"], rtol=1e-6, atol=0)
    assert objective.normalizers(batch) == SFT(reduction="sequence").normalizers(batch)
    ours = torch.autograd.grad(value, list(model.parameters()))
    theirs = torch.autograd.grad(wanted.sums["nll"], list(model.parameters()))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_uncertainty_is_the_untouched_models_and_stays(tiny, make_rows, readied):
    model, _ = tiny("qwen2")
    policy, rows = Policy(model), make_rows()
    batches = [collate_sequences(rows[:2], "padded", 0), collate_sequences(rows[2:], "packed", 0)]
    with torch.no_grad():
        nll = torch.cat([-b.sum_per_sequence(policy.token_logps(b)) / b.label_counts() for b in batches])
    readied(policy, UAL(), batches)
    kept = policy.store.tensors["uncertainty"]
    torch.testing.assert_close(kept, torch.stack([nll.mean(), nll.min(), nll.max()]))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    whole = collate_sequences(rows, "padded", 0)
    v = 0.1 * nll / nll.mean()
    metrics = UAL().losses(policy, whole).metrics
    assert math.isclose(metrics["smoothing"][0], v.sum().item(), rel_tol=1e-5)
    assert metrics["smoothing"][1] == len(rows)
    logits = policy.logits_at(whole, whole.label_positions)
    each = F.cross_entropy(logits, whole.labels, reduction="none")
    even = -logits.log_softmax(-1).mean(-1)
    v = v[whole.sequence]
    wanted = (whole.sum_per_sequence((1 - v) * each + v * even) / whole.label_counts()).sum()
    torch.testing.assert_close(UAL().losses(policy, whole).sums["nll"], wanted, rtol=1e-5, atol=0)


def test_uncertainty_from_a_column(tiny, rows_of, readied):
    policy, objective = Policy(tiny("llama")[0]), UAL(source="column", mapping="range", v_max=0.5)
    rows = rows_of(objective, 3)
    for row, value in zip(rows, (0.0, 50.0, 100.0), strict=True):
        row.values["uncertainty"] = value
    batch = collate_sequences(rows, "padded", 0)
    readied(policy, objective, [batch])
    assert math.isclose(objective.losses(policy, batch).metrics["smoothing"][0], 0.75, rel_tol=1e-6)
    (column,) = objective.value_columns()
    row = Row([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}], meta={"uncertainty": -1})
    with pytest.raises(UserError, match="uncertainty -1 is not between 0 and inf"):
        column.value_of(row, "row 1")
    with pytest.raises(UserError, match="row 1 has no uncertainty"):
        column.value_of(Row(row.messages), "row 1")
    assert UAL().value_columns() == ()
