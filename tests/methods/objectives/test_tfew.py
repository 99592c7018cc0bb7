"""T-Few: its three terms against plain loops over rows and choices, their known points, and the authors' variant."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import collate_sequences
from holdfast.methods.objectives.likelihood.tfew import (
    TFew,
    choice_losses,
    group_label_counts,
    scatter_by_choice,
    unlikelihood_losses,
)
from holdfast.models.policy import Policy


def test_unlikelihood_at_its_ends():
    p = torch.tensor([1e-12, 0.2, 0.7, 1 - 1e-9], dtype=torch.float64)
    np.testing.assert_allclose(unlikelihood_losses(p.log()), -torch.log1p(-p), rtol=1e-6, atol=1e-12)
    nothing = torch.tensor([-80.0], dtype=torch.float64)
    assert abs(unlikelihood_losses(nothing).item()) < 1e-12
    assert math.isclose(unlikelihood_losses(nothing, 0.01).item(), -math.log(1.01), rel_tol=1e-9)
    certain = torch.tensor([0.0, -1e-9], requires_grad=True)
    for offset in (0.0, 0.01):
        value = unlikelihood_losses(certain, offset)
        assert torch.isfinite(value).all()
        assert torch.isfinite(torch.autograd.grad(value.sum(), certain)[0]).all()
    assert math.isclose(unlikelihood_losses(torch.zeros(1), 0.01).item(), -math.log(0.01), rel_tol=1e-6)


@pytest.mark.parametrize("choices", [1, 2, 4])
def test_the_choice_at_uniform_and_under_a_shift(choices):
    means = torch.full((3, choices), -1.7, dtype=torch.float64)
    np.testing.assert_allclose(choice_losses(means), math.log(choices), atol=1e-12)
    means = torch.randn(3, choices, dtype=torch.float64)
    shift = torch.tensor([[0.3], [-5.0], [2.0]])
    torch.testing.assert_close(choice_losses(means + shift), choice_losses(means))


def by_hand(policy: Policy, rows, objective: TFew) -> dict[str, float]:
    """The terms, divided, by loops over rows, choices and tokens."""
    terms: dict[str, list[float]] = {"likelihood": [], "unlikelihood": [], "choice": []}
    tokens = {"likelihood": 0.0, "unlikelihood": 0.0}
    for number in sorted({row.row for row in rows}):
        mine = [row for row in rows if row.row == number]
        weight = mine[0].weight
        logps = [policy.token_logps(collate_sequences([one], "padded", 0)).detach().double() for one in mine]
        wrong = torch.cat([torch.zeros(0), *logps[1:]])
        pushed = -torch.log(1 - wrong.exp() + objective.offset)
        right, total = -logps[0], objective.reduction == "token"
        terms["likelihood"].append(weight * (right.sum() if total else right.mean()).item())
        terms["unlikelihood"].append(weight * (pushed.sum() if total or not len(wrong) else pushed.mean()).item())
        means = torch.stack([one.mean() for one in logps])
        terms["choice"].append(weight * (means.logsumexp(0) - means[0]).item())
        tokens["likelihood"] += weight * len(logps[0])
        tokens["unlikelihood"] += weight * len(wrong)
    n = len(terms["choice"])
    divisors = {**(tokens if objective.reduction == "token" else dict.fromkeys(tokens, n)), "choice": n}
    factors = {"likelihood": 1, "unlikelihood": objective.unlikelihood, "choice": objective.choice}
    return {name: factors[name] * sum(values) / divisors[name] for name, values in terms.items()}


@pytest.mark.parametrize("layout", ["padded", "packed"])
@pytest.mark.parametrize(
    "objective",
    [TFew(), TFew(offset=0.01, reduction="token"), TFew(unlikelihood=0.3, choice=2.0), TFew(reduction="token")],
)
def test_terms_equal_loops_over_rows_choices_and_tokens(tiny, rows_of, layout, objective):
    policy = Policy(tiny("llama")[0])
    rows = rows_of(objective, 6)
    assert {sum(one.row == row.row for one in rows) for row in rows} == {2, 3, 4}
    batch = collate_sequences(rows, layout, 0)
    counts, sums = objective.normalizers(batch), objective.losses(policy, batch).sums
    wanted = by_hand(policy, rows, objective)
    for term in wanted:
        assert math.isclose(sums[term].item() / counts[term], wanted[term], rel_tol=1e-5), term


@pytest.mark.parametrize("reduction", ["row", "token"])
def test_a_row_with_one_choice_has_only_its_likelihood(tiny, rows_of, reduction):
    policy = Policy(tiny("llama")[0])
    rows = [row for row in rows_of(TFew(), 3) if row.role == 0]
    out = TFew(reduction=reduction).losses(policy, collate_sequences(rows, "padded", 0))
    assert out.sums["unlikelihood"].item() == 0
    assert out.sums["choice"].item() == 0
    assert out.sums["likelihood"].item() > 0
    assert out.metrics["choices/accuracy"] == (3, 3)
    sum(out.sums.values()).backward()
    assert all(torch.isfinite(p.grad).all() for p in policy.model.parameters())


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_choices_stand_in_their_rows(tiny, rows_of, layout):
    rows = rows_of(TFew(), 4)
    batch = collate_sequences(rows, layout, 0)
    table = scatter_by_choice(torch.arange(len(rows)) + 1.0, batch)
    inf = -math.inf
    assert table.tolist() == [[1, 2, inf, inf], [3, 4, 5, inf], [6, 7, 8, 9], [10, 11, inf, inf]]
    lengths = batch.label_counts()
    groups = group_label_counts(batch)[torch.cat([batch.sequence.new_zeros(1), batch.sequence.diff()]).ne(0)]
    assert groups[0] == lengths[1]  # the second sequence of the first row: its only wrong choice
    assert groups[2] == groups[3] == lengths[3] + lengths[4]


def test_accuracy_counts_rows_whose_right_choice_has_the_largest_mean(tiny, rows_of):
    policy = Policy(tiny("llama")[0])
    rows = rows_of(TFew(), 12)
    batch = collate_sequences(rows, "padded", 0)
    means = (batch.sum_per_sequence(policy.token_logps(batch)) / batch.label_counts()).tolist()
    best = [max((m for m, one in zip(means, rows, strict=True) if one.row == n)) for n in range(12)]
    right = sum(m == best[row.row] for m, row in zip(means, rows, strict=True) if row.role == 0)
    assert TFew().losses(policy, batch).metrics["choices/accuracy"] == (right, 12)
    assert 0 < right < 12


@pytest.mark.parametrize("knobs", [{"reduction": "token"}, {"offset": 0.01}, {"unlikelihood": 0, "choice": 0}])
def test_accumulation_changes_nothing_with_other_knobs(tiny, rows_of, step_of, knobs):
    objective = TFew(**knobs)
    policy = Policy(tiny("llama")[0])
    rows = rows_of(objective, 6)
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    parts = [collate_sequences([row for row in rows if row.row % 3 == i], "packed", 0) for i in range(3)]
    other, other_grads = step_of(policy, objective, parts)
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(other_grads[name], grad, rtol=1e-4, atol=1e-5)
