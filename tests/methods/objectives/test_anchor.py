"""Anchor: nothing at the start, the right pull after it, and Fisher information checked against the exact one."""

from __future__ import annotations

import math
from dataclasses import replace

import material
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F

from holdfast.data.batching.batches import TokenTable, collate_sequences
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.objectives.likelihood.anchor import SHARDED, Anchor, estimate_fisher_diagonal
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.terms.regularisers import trainable_weights
from holdfast.models.policy import Policy
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

PENALTIES = ("kl", "l2sp", "ewc")


def shaken(model, size: float = 0.02) -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.add_(size * torch.randn_like(p))


def gradient(model, value) -> torch.Tensor:
    """All gradients, flat."""
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(model.parameters()))])


@pytest.mark.parametrize("penalty", PENALTIES)
def test_at_the_start_it_is_sft(tiny, make_rows, readied, penalty):
    model, _ = tiny("llama")
    policy, batch, objective = (
        Policy(model),
        collate_sequences(make_rows(), "padded", 0),
        Anchor(penalty=penalty, strength=5.0),
    )
    readied(policy, objective, [batch])
    sums = objective.losses(policy, batch).sums
    assert abs(sums["anchor"].item()) < 1e-3
    nll = SFT().losses(policy, batch).sums["nll"]
    torch.testing.assert_close(sums["nll"], nll, rtol=1e-6, atol=0)
    wanted = gradient(model, nll)
    assert torch.dist(gradient(model, sums["nll"] + sums["anchor"]), wanted) <= 1e-4 * wanted.norm()


@pytest.mark.parametrize("penalty", PENALTIES)
def test_without_strength_it_is_sft_for_ever(tiny, make_rows, readied, penalty):
    model, _ = tiny("llama")
    policy, batch, objective = (
        Policy(model),
        collate_sequences(make_rows(), "packed", 0),
        Anchor(penalty=penalty, strength=0),
    )
    readied(policy, objective, [batch])
    shaken(model)
    sums = objective.losses(policy, batch).sums
    assert sums["anchor"].item() == 0
    wanted = gradient(model, SFT().losses(policy, batch).sums["nll"])
    assert torch.dist(gradient(model, sums["nll"] + sums["anchor"]), wanted) <= 1e-5 * wanted.norm()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_kl_is_from_the_base_to_the_model(tiny, make_rows, readied, layout):
    model, _ = tiny("gemma2")
    rows = make_rows()
    for i, row in enumerate(rows):
        row.weight = 0.5 + i
    policy, batch = Policy(model), collate_sequences(rows, layout, 0)
    objective = Anchor(top=0, strength=0.7)
    readied(policy, objective, [batch])
    with torch.no_grad():
        base = policy.logits_at(batch, batch.label_positions).log_softmax(-1)
    shaken(model)
    now = policy.logits_at(batch, batch.label_positions).log_softmax(-1)
    each = F.kl_div(now, base, reduction="none", log_target=True).sum(-1)
    out = objective.losses(policy, batch)
    torch.testing.assert_close(out.sums["anchor"], 0.7 * (each * batch.weights).sum(), rtol=1e-4, atol=0)
    assert objective.normalizers(batch) == {"nll": batch.weight, "anchor": pytest.approx(batch.weight)}
    total, count = out.metrics["anchor/kl"]
    assert math.isclose(total / count, out.sums["anchor"].item() / 0.7 / batch.weight, rel_tol=1e-5)


def test_kl_on_the_top_tokens_is_a_lower_bound(tiny, make_rows, readied):
    values = []
    for top in (1, 10, 100, 0):
        model, _ = tiny("llama")
        policy, batch = Policy(model), collate_sequences(make_rows(), "padded", 0)
        readied(policy, Anchor(top=top), [batch])
        shaken(model)
        values.append(Anchor(top=top).losses(policy, batch).sums["anchor"].item())
    assert values == sorted(values)
    assert values[0] < 0.9 * values[-1]


def test_replayed_and_new_rows_make_up_all(tiny, rows_of, readied):
    model, _ = tiny("llama")
    rows = rows_of(Anchor(on="replay"))  # every other row is replayed
    policy, batch = Policy(model), collate_sequences(rows, "padded", 0)
    readied(policy, Anchor(), [batch])
    shaken(model)
    costs = {on: Anchor(on=on).losses(policy, batch).sums["anchor"].item() for on in ("all", "replay", "train")}
    counts = {on: Anchor(on=on).normalizers(batch)["anchor"] for on in costs}
    assert math.isclose(costs["all"], costs["replay"] + costs["train"], rel_tol=1e-5)
    assert math.isclose(counts["all"], counts["replay"] + counts["train"], rel_tol=1e-6)
    assert min(costs.values()) > 0
    only = collate_sequences([r for r in rows if r.values["is_replayed"] == 0], "padded", 0)
    assert Anchor(on="replay").normalizers(only)["anchor"] == 0
    assert Anchor(on="replay").losses(policy, only).sums["anchor"].item() == 0
    assert Anchor(on="train").normalizers(only)["anchor"] == pytest.approx(counts["train"])


def test_which_rows_are_replayed_is_known_by_their_origin(tokenizer):
    row = Row([{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}])
    rows = [row, replace(row, origin="replay"), replace(row, origin="model")]
    table, _ = build_table(rows, Chat(tokenizer), max_length=50, columns=Anchor(on="replay").value_columns())
    batch = table.collate_rows([0, 1, 2], "padded", 0)
    assert [Anchor(on=on).divergence_weights(batch).sum() for on in ("all", "replay", "train")] == [6, 2, 4]
    assert Anchor().value_columns() == ()
    with pytest.raises(ValidationError, match="on: replay has no effect on ewc"):
        Anchor(penalty="ewc", on="replay")


def test_l2sp_pulls_back_in_proportion(tiny, make_rows, readied):
    model, _ = tiny("gpt2")
    policy, batch = Policy(model), collate_sequences(make_rows(), "padded", 0)
    objective = Anchor(penalty="l2sp", strength=0.3)
    readied(policy, objective, [batch])
    began = torch.cat([p.detach().flatten().clone() for p in model.parameters()])
    shaken(model)
    moved = torch.cat([p.detach().flatten() for p in model.parameters()]) - began
    out = objective.losses(policy, batch)
    torch.testing.assert_close(out.sums["anchor"], 0.15 * moved.square().sum())
    torch.testing.assert_close(gradient(model, out.sums["anchor"]), 0.3 * moved)
    assert math.isclose(out.metrics["anchor/l2sp"][0], moved.square().sum().item() / 2, rel_tol=1e-5)


def test_only_what_trains_is_held(tiny, make_rows, readied):
    model, _ = tiny("llama")
    model.requires_grad_(False)
    model.model.norm.requires_grad_(True)
    policy, batch = Policy(model), collate_sequences(make_rows(), "padded", 0)
    readied(policy, Anchor(penalty="ewc"), [batch])
    assert set(policy.store.tensors) == {"start.model.norm.weight", "fisher.model.norm.weight"}


@pytest.mark.parametrize("penalty", ["l2sp", "ewc"])
def test_a_penalty_on_weights_counts_once_however_a_step_is_cut(tiny, make_rows, readied, step_of, penalty):
    model, _ = tiny("llama")
    rows, policy, objective = make_rows(), Policy(model), Anchor(penalty=penalty, strength=3.0)
    readied(policy, objective, [collate_sequences(rows, "padded", 0)])
    shaken(model)
    loss, grads = step_of(policy, objective, [collate_sequences(rows, "padded", 0)])
    other, other_grads = step_of(policy, objective, [collate_sequences([row], "packed", 0) for row in rows])
    assert math.isclose(loss, other, rel_tol=1e-6)
    whole = torch.stack([g.norm() for g in grads.values()]).norm()
    assert torch.stack([torch.dist(grads[n], other_grads[n]) for n in grads]).norm() <= 1e-5 * whole


@pytest.fixture
def headed(tiny, make_rows):
    """A policy of 40 tokens of which only the head trains, and 40 rows in micro-batches of 4."""
    model, _ = tiny("llama", tie_word_embeddings=False, vocab_size=40)
    model.requires_grad_(False)
    model.lm_head.requires_grad_(True)
    rows = make_rows(40, vocab=40)
    return Policy(model), [collate_sequences(rows[i : i + 4], "padded", 0) for i in range(0, 40, 4)]


def test_fisher_information_is_the_exact_one_on_average(headed):
    """Of a head it is known: F[v, d] = mean over tokens of p_v (1 - p_v) h_d^2."""
    policy, batches = headed
    with torch.no_grad():
        exact, count = torch.zeros_like(policy.model.lm_head.weight), 0
        for batch in batches:
            p = policy.logits_at(batch, batch.label_positions).softmax(-1)
            h = policy.hidden_states_at(batch, batch.label_positions)
            exact += (p * (1 - p)).T @ h.square()
            count += len(batch.labels)
        exact /= count
        found = estimate_fisher_diagonal(policy, lambda: batches * 8)["lm_head.weight"]
    assert math.isclose(found.sum(), exact.sum(), rel_tol=0.05)
    by_input, by_token = (torch.corrcoef(torch.stack([found.sum(i), exact.sum(i)]))[0, 1] for i in (0, 1))
    assert by_input > 0.9
    assert by_token > 0.9
    assert list(trainable_weights(policy, SHARDED)) == ["lm_head.weight"]


def test_ewc_is_kl_to_second_order(headed, readied):
    """Averaged over directions of random sign, where what is off the diagonal cancels."""
    policy, batches = headed
    head = policy.model.lm_head.weight
    began, costs = head.detach().clone(), {"kl": 0.0, "ewc": 0.0}
    objectives = {"kl": Anchor(top=0), "ewc": Anchor(penalty="ewc")}
    for objective in objectives.values():
        readied(policy, objective, batches)
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(8):
            head.copy_(began + 0.01 * (torch.randint(0, 2, head.shape, generator=random) * 2 - 1))
            for name, objective in objectives.items():
                cuts = batches if name == "kl" else batches[:1]
                total = sum(objective.losses(policy, b).sums["anchor"].item() for b in cuts)
                costs[name] += total / sum(objective.normalizers(b)["anchor"] for b in cuts)
    assert math.isclose(costs["kl"], costs["ewc"], rel_tol=0.15)


@pytest.mark.parametrize("tuner", ["full", "lora"])
@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_stronger_the_nearer(tmp_path, rows_of, penalty, tuner):
    """Through the real loop."""
    table = TokenTable.from_sequences(rows_of(Anchor(), vocab=material.VOCABULARY), fingerprint="anchor")
    left = []
    for strength in (0.0, 100.0):
        knobs = {"name": "anchor", "penalty": penalty, "strength": strength}
        axes = {"objective": knobs, "tuner": tuner, "optimizer": {"name": "adamw", "learning_rate": 0.003}}
        recipe = material.recipe({"epochs": 10, "batch_tokens": 4000, "micro_tokens": 100}, **axes)
        out, logs = tmp_path / f"{strength}", []
        Trainer(recipe, material.model(), table, out, pad_id=0, hooks=Hooks(on_step=logs.append)).fit()
        assert len(list((out / "cache").glob("prepared-*.safetensors"))) == 1
        assert abs(logs[0].metrics[f"anchor/{penalty}"]) < 1e-6
        left.append(logs[-1].metrics[f"anchor/{penalty}"])
    assert 0 < left[1] < 0.8 * left[0]


def test_weights_in_shards_are_refused(tiny, make_rows):
    policy = Policy(tiny("llama")[0])
    policy.model.model.norm.weight.full_tensor = lambda: None  # what a DTensor has
    with pytest.raises(UserError, match="need whole weights, these are sharded; use kl"):
        Anchor(penalty="l2sp").precompute(policy, list, policy.store)
