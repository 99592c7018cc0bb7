"""FPO: golden values, DPO without the constraint, and the autoencoder that the constraint is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import TokenTable, collate_sequences
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.methods.objectives.preference.fpo import FPO, average_features, feature_errors, pair_losses
from holdfast.methods.objectives.terms import autoencoder
from holdfast.models.policy import Policy
from holdfast.models.stored_values import PrecomputedStore


def moved(policy, by=0.05):
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(by * torch.randn_like(p))
    return policy


def gradient(loss, policy):
    loss.backward()
    out = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return out


def apart(one, other):
    whole = torch.stack([g.norm() for g in other.values()]).norm()
    return (torch.stack([torch.dist(one[n], other[n]) for n in other]).norm() / whole).item()


@pytest.fixture
def golden_gains(golden) -> torch.Tensor:
    """a - a_ref [3, 2] of the golden chosen and rejected sequences."""
    columns = []
    for role in ("w", "l"):
        s, ref, n = (torch.tensor(golden[f"{name}_{role}"], dtype=torch.float64) for name in ("s", "s_ref", "n"))
        columns.append((s - ref) / n)
    return torch.stack(columns, 1)


def test_golden_values(golden, golden_gains):
    errors = torch.tensor([[0.02, 0.3], [0.5, 0.05], [0.1, 0.4]], dtype=torch.float64)
    got = pair_losses(golden_gains, errors, 0.1, 0.5)
    np.testing.assert_allclose(got, golden["fpo b=.1 a=.5 mse=(.02,.5,.1)/(.3,.05,.4)"], atol=1e-8)


def test_chosen_answers_are_the_measure_and_not_moved(golden_gains):
    errors = torch.rand(3, 2, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(pair_losses(golden_gains, errors, 0.1, 0.5).sum(), errors)
    assert torch.equal(grad[:, 0], torch.zeros(3, dtype=torch.float64))
    assert (grad[:, 1] > 0).all()


def test_features_are_averaged_over_the_answer():
    strengths = torch.tensor([[2.0, 1.0], [4.0, 3.0], [5.0, 0.5]])
    places = torch.tensor([[0, 2], [2, 1], [3, 0]])
    got = average_features(strengths, places, torch.tensor([0, 0, 1]), torch.tensor([2.0, 1.0]), 4)
    torch.testing.assert_close(got, torch.tensor([[1.0, 1.5, 2.5, 0.0], [0.5, 0.0, 0.0, 5.0]]))


def test_errors_are_those_of_the_models_strongest_features_in_any_order():
    ours, reference = torch.rand(4, 30, dtype=torch.float64), torch.rand(4, 30, dtype=torch.float64)
    got = feature_errors(ours, reference, 5)
    for row in range(4):
        best = ours[row].argsort(descending=True)[:5]
        torch.testing.assert_close(got[row], (ours[row] - reference[row])[best].square().mean())
    order = torch.randperm(30)
    torch.testing.assert_close(feature_errors(ours[:, order], reference[:, order], 5), got)
    torch.testing.assert_close(feature_errors(ours, reference, 99), (ours - reference).square().mean(1))
    assert torch.equal(feature_errors(ours, ours, 5), torch.zeros(4, dtype=torch.float64))


def test_the_gradient_reaches_the_states_through_the_encoder():
    coder = {"encoder": torch.randn(6, 24, dtype=torch.float64), "bias": torch.randn(24, dtype=torch.float64)}
    sequence, lengths = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([3.0, 2.0], dtype=torch.float64)
    reference = torch.rand(2, 24, dtype=torch.float64)

    def errors(states):
        ours = average_features(*autoencoder.encode_states(states, coder, 4), sequence, lengths, 24)
        return feature_errors(ours, reference, 5)

    states = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(errors, states)
    (grad,) = torch.autograd.grad(errors(states).sum(), states)
    assert (grad.norm(dim=1) > 0).all()


@pytest.fixture
def work(tiny, rows_of, readied):
    """`work(objective)` -> a policy that has moved since it was prepared, rows, a batch of all of them."""

    def make(objective, move=0.05, directory=None):
        policy, rows = Policy(tiny("llama")[0]), rows_of(objective, 4)
        policy.store = PrecomputedStore(directory, "x")
        batch = collate_sequences(rows, "padded", 0)
        readied(policy, objective, [batch])
        return moved(policy, move), rows, batch

    return make


def test_without_the_constraint_it_is_dpo_on_averages(work):
    policy, _, batch = work(FPO(steps=5))
    one = FPO(beta=0.7, alpha=0, steps=5).losses(policy, batch).sums["preference"]
    other = DPO(beta=0.7, loss="sigmoid_norm").losses(policy, batch).sums["preference"]
    torch.testing.assert_close(one, other)
    other = gradient(other, policy)
    assert apart(gradient(one, policy), other) < 1e-5
    strong = FPO(beta=0.7, alpha=5, steps=5).losses(policy, batch).sums["preference"]
    assert apart(gradient(strong, policy), other) > 0.01


def test_at_the_reference_it_is_log_two_and_no_feature_has_changed(work):
    policy, _, batch = work(FPO(steps=5), move=0)
    out = FPO(alpha=5, steps=5).losses(policy, batch)
    assert math.isclose(out.sums["preference"].item(), math.log(2) * batch.sequence_weights()[::2].sum(), rel_tol=1e-5)
    assert out.metrics["features/chosen"][0] < 1e-8
    assert out.metrics["features/rejected"][0] < 1e-8


def test_the_loss_written_out(work):
    objective = FPO(beta=0.7, alpha=2, top=7, active=5, steps=5)
    policy, _, batch = work(objective)
    out = objective.losses(policy, batch)
    with torch.no_grad():
        states, coder = policy.hidden_states_at(batch, batch.label_positions), policy.store.tensors
        every = (states @ coder["encoder"] + coder["bias"]).relu()
        every = every * (every >= every.topk(5).values[:, -1:])
        lengths = batch.label_counts().long().tolist()
        ours = torch.stack([part.mean(0) for part in every.split(lengths)])
        strengths, places = (policy.store.rows[n].find_values(batch).view(8, -1) for n in ("strengths", "features"))
        before = torch.zeros_like(ours).scatter(1, places.long(), strengths)
        errors = feature_errors(ours, before, 7).view(4, 2)
        away = policy.token_logps(batch) - policy.reference_logps(batch)
        gains = torch.stack([part.mean() for part in away.split(lengths)]).view(4, 2)
        wanted = (pair_losses(gains, errors, 0.7, 2) * batch.sequence_weights()[::2]).sum()
    torch.testing.assert_close(out.sums["preference"].detach(), wanted)
    assert math.isclose(out.metrics["features/rejected"][0], errors[:, 1].sum(), rel_tol=1e-4)
    assert errors.min() > 1e-4


def test_neighbours_and_padding_do_not_matter(work):
    objective = FPO(alpha=5, steps=5)
    policy, rows, batch = work(objective)
    whole = objective.losses(policy, batch).metrics["features/rejected"][0]
    shared = SharedPrefixTable(TokenTable.from_sequences(rows)).collate_rows(range(4), "padded", 0)
    alone = [collate_sequences(rows[i : i + 2], "padded", 0) for i in range(0, 8, 2)]
    for batches in ([collate_sequences(rows, "packed", 0)], [shared], alone):
        found = sum(objective.losses(policy, b).metrics["features/rejected"][0] for b in batches)
        assert math.isclose(found, whole, rel_tol=1e-4)


def test_what_is_kept_is_found_again(work, tmp_path):
    objective = FPO(alpha=5, steps=5)
    policy, _, batch = work(objective, directory=tmp_path)
    policy.store.save()
    one = objective.losses(policy, batch).sums["preference"]
    policy.store = PrecomputedStore(tmp_path, "x")
    assert policy.store.is_loaded
    assert torch.equal(objective.losses(policy, batch).sums["preference"], one)


def test_only_the_strongest_features_are_kept(work, monkeypatch):
    monkeypatch.setattr("holdfast.methods.objectives.preference.fpo.MOST", 10)
    policy, _, batch = work(FPO(steps=5))
    strengths, places = (policy.store.rows[name].find_values(batch).view(8, 10) for name in ("strengths", "features"))
    assert (strengths.diff(dim=1) <= 0).all()
    assert places.dtype == torch.int32
    assert all(len(set(row)) == 10 for row in places.tolist())


@pytest.fixture(scope="module")
def states() -> torch.Tensor:
    """4000 sums of 3 of 24 directions in 12 dimensions, off centre."""
    generator = torch.Generator().manual_seed(3)
    directions = torch.randn(24, 12, generator=generator)
    which = torch.rand(4000, 24, generator=generator).topk(3).indices
    amounts = torch.rand(4000, 3, generator=generator) + 0.5
    return (amounts[..., None] * directions[which]).sum(1) * 7 + 30


def fitted(states, seed=0, steps=300):
    return autoencoder.train_autoencoder(
        states, wider=4, active=6, steps=steps, generator=torch.Generator().manual_seed(seed)
    )


def test_the_autoencoder_learns(states):
    before, after = fitted(states, steps=1), fitted(states)
    assert after["explained"] > max(0.75, before["explained"] + 0.2)
    strengths, places = autoencoder.encode_states(states, after, 6)
    assert strengths.shape == places.shape == (4000, 6)
    assert (strengths >= 0).all()
    assert len(places[strengths > 0].unique()) > 24  # most features live
    assert not any(tensor.requires_grad for tensor in after.values())


def test_the_autoencoder_does_not_depend_on_where_the_states_lie_or_how_large_they_are(states):
    one, other = fitted(states, steps=20), fitted(states * 10 - 50, steps=20)
    a, b = (autoencoder.encode_states(s, c, 6)[0] for s, c in ((states, one), (states * 10 - 50, other)))
    torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)


def test_the_autoencoder_is_seeded_and_leaves_the_global_generator_alone(states):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    one, two, other = fitted(states, steps=5), fitted(states, steps=5), fitted(states, seed=1, steps=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one["encoder"], two["encoder"])
    assert not torch.equal(one["encoder"], other["encoder"])


def test_states_are_drawn_from_all_answers(tiny, rows_of, monkeypatch):
    policy, rows = Policy(tiny("llama")[0]), rows_of(FPO(), 8)
    batches = [collate_sequences(rows[i : i + 4], "packed", 0) for i in range(0, 16, 4)]
    with torch.no_grad():
        every = torch.cat([policy.hidden_states_at(b, b.label_positions) for b in batches])
        found = autoencoder.sample_states(policy, lambda: batches, torch.Generator().manual_seed(0))
        torch.testing.assert_close(found, every)
        monkeypatch.setattr(autoencoder, "SAMPLES", len(every) // 2)
        half = autoencoder.sample_states(policy, lambda: batches, torch.Generator().manual_seed(0))
    assert 0.3 * len(every) < len(half) < 0.7 * len(every)
    nearest = torch.cdist(half, every).min(1)
    assert nearest.values.max() < 0.01
    assert nearest.indices.max() > 0.75 * len(every)
