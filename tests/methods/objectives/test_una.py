"""UNA and UFT: golden values, DPO as the form for pairs, the start, and a table where the optimum is known exactly."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from holdfast.data.batching.batches import collate_sequences
from holdfast.data.row_shapes import build_conversations, rows_for
from holdfast.data.rows import Row
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.methods.objectives.scored.uft import UFT
from holdfast.methods.objectives.scored.una import UNA, score_losses
from holdfast.models.policy import Policy, precompute_reference


@pytest.fixture
def gains(golden_logps) -> torch.Tensor:
    """D [3, 2] of the golden chosen and rejected answers."""
    kinds = (((0.0, 0.15), (3, 2, 1), (5, 3, 6)), ((0.4, 0.52), (5, 1, 2), (4, 6, 2)))
    columns = []
    for (policy, reference), labels, lengths in kinds:
        pairs = zip(golden_logps(policy, labels, lengths), golden_logps(reference, labels, lengths), strict=True)
        columns.append(torch.stack([p.sum() - r.sum() for p, r in pairs]))
    return torch.stack(columns, 1)


def test_golden_values(golden, gains):
    scores = torch.tensor([[0.9, 0.3], [0.6, 0.4], [0.8, 0.1]], dtype=torch.float64)
    both = score_losses(gains, scores, 0.03).sum(1)  # the authors sum the two answers of a prompt
    np.testing.assert_allclose(both, golden["una score MSE b=.03 r=(.9,.6,.8)/(.3,.4,.1)"], atol=1e-7)
    demonstrations = score_losses(gains[:, 0], torch.ones(3), 0.01)
    np.testing.assert_allclose(demonstrations, golden["uft-sft b=.01 r=1"], atol=1e-7)


def test_labels_by_cross_entropy_are_bco_without_its_shift(gains):
    labels = torch.tensor([1.0, 0.0]).expand(3, 2)
    got = score_losses(gains, labels, 0.4, "bce").sum(1)
    wanted = -F.logsigmoid(0.4 * gains[:, 0]) - F.logsigmoid(-0.4 * gains[:, 1])
    torch.testing.assert_close(got, wanted)


@pytest.mark.parametrize("beta", [0.01, 0.4])
def test_the_start_is_a_quarter_of_beta_for_a_demonstration(beta):
    gains = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    scores = torch.tensor([1.0, 0.5, 0.0])
    values = score_losses(gains, scores, beta)
    np.testing.assert_allclose(values.detach(), [0.25, 0, 0.25])
    (grad,) = torch.autograd.grad(values.sum(), gains)
    np.testing.assert_allclose(grad, [-beta / 4, 0, beta / 4], rtol=1e-9)
    (grad,) = torch.autograd.grad(score_losses(gains, scores, beta, "bce").sum(), gains)
    np.testing.assert_allclose(grad, [-beta / 2, 0, beta / 2], atol=1e-12)


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("shifted", [True, False])
def test_the_optimum_over_a_table_of_actions(loss, shifted):
    """Scores shifted by c = -beta log Z lead to reference * exp(reward / beta); others cannot all be met."""
    torch.manual_seed(0)
    n, beta = 6, 0.7
    rewards = torch.randn(n, dtype=torch.float64) + 1.5
    reference = torch.randn(n, dtype=torch.float64).log_softmax(0)
    best = (reference + rewards / beta).log_softmax(0)
    offset = -beta * (reference + rewards / beta).logsumexp(0) if shifted else 0.0
    scores = torch.sigmoid(rewards + offset)
    theta = torch.zeros(n, dtype=torch.float64, requires_grad=True)
    exact = {"tolerance_grad": 1e-15, "tolerance_change": 1e-18, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([theta], max_iter=2000, history_size=50, **exact)

    def closure():
        optimizer.zero_grad()
        value = score_losses(theta.log_softmax(0) - reference, scores, beta, loss).sum()
        value.backward()
        return value

    optimizer.step(closure)
    final = theta.detach().log_softmax(0)
    implicit = torch.sigmoid(beta * (final - reference))
    if shifted:
        torch.testing.assert_close(final, best, atol=1e-6, rtol=0)
        torch.testing.assert_close(implicit, scores, atol=1e-6, rtol=0)
    else:
        assert torch.dist(final.exp(), best.exp()) > 0.01
        assert (implicit - scores).abs().max() > 0.05


def moved(tiny, rows) -> Policy:
    model, _ = tiny("llama")
    policy = Policy(model)
    precompute_reference(policy, [collate_sequences(rows, "padded", 0)])
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return policy


def test_pairs_are_dpo(tiny, rows_of, step_of):
    objective = UNA(form="pair", beta=0.3)
    rows = rows_of(objective, 4)
    policy = moved(tiny, rows)
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    wanted, others = step_of(policy, DPO(beta=0.3), [collate_sequences(rows, "padded", 0)])
    assert math.isclose(loss, wanted, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, others[name], rtol=1e-4, atol=1e-6)
    assert objective.row_shape().name == "pair"
    assert objective.value_columns() == ()


@pytest.mark.parametrize("loss", ["mse", "bce"])
@pytest.mark.parametrize("form", ["score", "binary"])
@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_single_answers_on_a_model(tiny, rows_of, form, loss, layout):
    objective = UNA(form=form, loss=loss, beta=0.2)
    rows = rows_of(objective, 4)
    policy = moved(tiny, rows)
    batch = collate_sequences(rows, layout, 0)
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).detach()
    name = "score" if form == "score" else "label"
    weights = torch.tensor([row.weight for row in rows])
    out = objective.losses(policy, batch)
    wanted = (score_losses(gains, batch.values[name], 0.2, loss) * weights).sum()
    torch.testing.assert_close(out.sums["reward"].detach(), wanted)
    assert objective.normalizers(batch) == {"reward": 4}
    implicit = torch.sigmoid(0.2 * gains)
    assert math.isclose(out.metrics["score/implicit"][0], implicit.sum(), rel_tol=1e-5)
    assert math.isclose(out.metrics["score/error"][0], (implicit - batch.values[name]).abs().sum(), rel_tol=1e-5)


@pytest.mark.parametrize("knobs", [{"form": "binary", "loss": "bce"}, {"form": "pair"}])
def test_accumulation_changes_nothing_in_other_forms(tiny, rows_of, step_of, knobs):
    objective = UNA(**knobs)
    rows = rows_of(objective, 4)
    policy = moved(tiny, rows)
    half = len(rows) // 2
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    other, others = step_of(
        policy, objective, [collate_sequences(rows[:half], "packed", 0), collate_sequences(rows[half:], "packed", 0)]
    )
    assert math.isclose(loss, other, rel_tol=1e-6)
    for name, grad in grads.items():
        torch.testing.assert_close(others[name], grad, rtol=1e-4, atol=1e-6)


def test_uft_is_una_where_rows_without_a_score_have_the_highest(tiny, rows_of):
    row = Row(messages=[{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}])
    (column,) = UFT().value_columns()
    assert column.value_of(row, "it") == 1.0
    row.score = 0.25
    assert column.value_of(row, "it") == 0.25
    rows = rows_of(UFT(), 4)
    policy = moved(tiny, rows)
    batch = collate_sequences(rows, "padded", 0)
    one, two = UFT(beta=0.03).losses(policy, batch), UNA(beta=0.03).losses(policy, batch)
    assert torch.equal(one.sums["reward"], two.sums["reward"])
    assert UFT().row_shape().name == "single"
    assert UFT().normalizers(batch) == UNA().normalizers(batch)


def test_pairs_are_taken_apart_with_their_scores():
    meta = {"score_chosen": 0.9, "score_rejected": 0.2}
    pair = Row(messages=[{"role": "user", "content": "q"}], chosen="good", rejected="bad", meta=meta)
    for objective, wanted in ((UNA(), [0.9, 0.2]), (UFT(), [0.9, 0.2]), (UNA(form="binary"), [1, 0])):
        rows = rows_for(objective.row_shape(), objective.value_columns(), [pair])
        (column,) = objective.value_columns()
        assert [column.value_of(row, "it") for row in rows] == wanted
        said = [one[0][-1]["content"] for one in build_conversations(rows, 0, objective.row_shape())]
        assert said == ["good", "bad"]


def test_a_knob_that_would_do_nothing_is_refused():
    with pytest.raises(ValidationError, match="loss has no effect on pairs"):
        UNA(form="pair", loss="bce")
