"""RPO: golden values, its limits, and that a step's contrasts do not depend on how the step is cut."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from holdfast.data.batching.batches import EncodedSequence, TokenTable, collate_sequences
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.errors import UserError
from holdfast.methods.objectives.preference.dpo import pair_losses
from holdfast.methods.objectives.preference.rpo import RPO, contrast_losses, contrast_weights
from holdfast.models.embeddings import directions_by_encoder, directions_from_mean, prompt_means
from holdfast.models.loading import load_model
from holdfast.models.policy import Policy
from holdfast.models.stored_values import PrecomputedStore

PROMPTS = torch.tensor([[1.0, 0, 0], [0.8, 0.6, 0], [0, 0.6, 0.8]], dtype=torch.float64)


@pytest.fixture
def gains(golden) -> torch.Tensor:
    """D [3, 2] of the golden chosen and rejected sequences."""
    s = {name: torch.tensor(golden[name], dtype=torch.float64) for name in ("s_w", "s_ref_w", "s_l", "s_ref_l")}
    return torch.stack([s["s_w"] - s["s_ref_w"], s["s_l"] - s["s_ref_l"]], 1)


def test_golden_values(golden, gains):
    weights, meets = contrast_weights(PROMPTS, 0.5)
    np.testing.assert_allclose(weights, golden["rpo weights tau=.5"], atol=1e-8)
    assert meets.all()
    each = contrast_losses(gains[:, 0], gains[:, 1], weights, 0.1)
    np.testing.assert_allclose(each.mean(1), golden["rpo-paired b=.1 tau=.5"], atol=2e-8)


def test_a_single_pair_is_dpo(gains):
    weights, _ = contrast_weights(PROMPTS[:1], 0.5)
    got = contrast_losses(gains[:1, 0], gains[:1, 1], weights, 0.3)
    torch.testing.assert_close(got[0], pair_losses(gains[:1], torch.ones(1, 2), "sigmoid", 0.3))


def test_cold_and_hot_limits(gains):
    unlike = torch.eye(3, dtype=torch.float64)
    weights, _ = contrast_weights(unlike, 1e-3)
    torch.testing.assert_close(weights, unlike)
    got = contrast_losses(gains[:, 0], gains[:, 1], weights, 0.3).mean()
    dpo = pair_losses(gains, torch.ones(3, 2), "sigmoid", 0.3).mean()
    torch.testing.assert_close(got, (dpo + 2 * math.log(2)) / 3)
    torch.testing.assert_close(contrast_weights(PROMPTS, 1e9)[0], torch.full_like(unlike, 1 / 3))


def test_nearer_prompts_weigh_more():
    weights, _ = contrast_weights(PROMPTS, 0.5)
    torch.testing.assert_close(weights.sum(1), torch.ones(3, dtype=torch.float64))
    assert weights[0].argsort(descending=True).tolist() == [0, 1, 2]
    sharp, _ = contrast_weights(PROMPTS, 0.1)
    assert (sharp.diagonal() > weights.diagonal()).all()


def test_unpaired_answers_to_one_prompt_do_not_meet():
    prompts = torch.cat([PROMPTS, PROMPTS[:1]])  # two rows with the same prompt
    weights, meets = contrast_weights(prompts, 0.5, include_same_prompt=False)
    assert not meets.diagonal().any()
    assert not meets[0, 3]
    assert not meets[3, 0]
    assert meets.sum() == 16 - 4 - 2
    torch.testing.assert_close(weights.sum(1), torch.ones(4, dtype=torch.float64))
    assert torch.equal(weights[~meets], torch.zeros(6, dtype=torch.float64))
    weights, meets = contrast_weights(PROMPTS[:1], 0.5, include_same_prompt=False)
    assert not meets.any()
    assert torch.equal(weights, torch.zeros(1, 1, dtype=torch.float64))


def ready(tiny, rows_of, readied, objective, n=6, **same):
    """A policy that has moved since it was prepared, and the rows."""
    policy, rows = Policy(tiny("llama")[0]), rows_of(objective, n, **same)
    readied(policy, objective, [collate_sequences(rows, "padded", 0)])
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return policy, rows


def one_by_one(rows):
    return [collate_sequences(rows[i : i + 2], "packed", 0) for i in range(0, len(rows), 2)]


@pytest.mark.parametrize(
    "objective",
    [RPO(beta=2.0), RPO(beta=2.0, paired=False), RPO(beta=0.5, scaled=True), RPO(paired=False, scaled=True)],
    ids=["paired", "unpaired", "scaled", "unpaired, scaled"],
)
def test_cut_into_single_rows_it_is_the_mean_over_all_contrasts_of_the_step(tiny, rows_of, readied, step_of, objective):
    """The whole step's mean, written out with plain loops, against six micro-batches with a gradient each."""
    policy, rows = ready(tiny, rows_of, readied, objective)
    value, grads = step_of(policy, objective, one_by_one(rows))
    batch = collate_sequences(rows, "padded", 0)
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(6, 2)
    e = policy.store.rows["prompts"].find_values(batch).float().view(6, 2, -1)[:, 0]
    row_weights = torch.tensor([rows[2 * i].weight for i in range(6)])
    total, count = torch.zeros(()), 0
    for i in range(6):
        met = [j for j in range(6) if objective.paired or j != i]
        near = torch.stack([-(1 - e[i] @ e[j]) / objective.temperature for j in met]).softmax(0)
        for w, j in zip(near, met, strict=True):
            w = w * len(met) if objective.scaled else w
            loss = -F.logsigmoid(objective.beta * w * (gains[i, 0] - gains[j, 1]))
            total = total + loss * (row_weights[i] + row_weights[j]) / 2
            count += 1
    (total / count).backward()
    assert math.isclose(value, (total / count).item(), rel_tol=1e-6)
    wanted = {n: p.grad for n, p in policy.model.named_parameters() if p.grad is not None}
    whole = torch.stack([g.norm() for g in wanted.values()]).norm()
    assert whole > 1e-3
    assert torch.stack([torch.dist(grads[n], wanted[n]) for n in wanted]).norm() <= 1e-5 * whole


def test_the_gradient_would_be_wrong_without_the_other_micro_batches(tiny, rows_of, readied, step_of):
    objective = RPO(beta=2.0)
    policy, rows = ready(tiny, rows_of, readied, objective)
    _, together = step_of(policy, objective, one_by_one(rows))
    apart = [step_of(policy, objective, [batch])[1] for batch in one_by_one(rows)]
    name = "model.layers.0.mlp.up_proj.weight"
    mean = sum(g[name] for g in apart) / len(apart)
    assert torch.dist(mean, together[name]) > 0.01 * together[name].norm()


def test_at_the_reference_it_is_log_two_whatever_the_weights(tiny, rows_of, readied, step_of):
    for objective in (RPO(), RPO(temperature=0.05), RPO(paired=False), RPO(scaled=True)):
        policy, rows = Policy(tiny("llama")[0]), rows_of(objective, 4, with_weights=False)
        readied(policy, objective, [collate_sequences(rows, "padded", 0)])
        assert math.isclose(step_of(policy, objective, one_by_one(rows))[0], math.log(2), rel_tol=1e-6)


def test_one_row_is_dpo_and_unpaired_nothing(tiny, rows_of, readied, step_of):
    policy, rows = ready(tiny, rows_of, readied, RPO(), n=1)
    batch = collate_sequences(rows, "padded", 0)
    gains = batch.sum_per_sequence(policy.token_logps(batch) - policy.reference_logps(batch)).view(1, 2).detach()
    value, grads = step_of(policy, RPO(), [batch])
    wanted = pair_losses(gains, torch.ones(1, 2), "sigmoid", 0.1).item() * rows[0].weight
    assert math.isclose(value, wanted, rel_tol=1e-6)
    assert any(g.any() for g in grads.values())
    value, grads = step_of(policy, RPO(paired=False), [batch])
    assert value == 0
    assert not any(g.any() for g in grads.values())


def test_prompts_are_embedded_alike_in_every_layout(tiny, rows_of):
    policy, rows = Policy(tiny("llama")[0]), rows_of(RPO(), 4)
    table = TokenTable.from_sequences(rows)
    layouts = [
        collate_sequences(rows, "padded", 0),
        collate_sequences(rows, "packed", 0),
        SharedPrefixTable(table).collate_rows(range(4), "padded", 0),
    ]
    with torch.no_grad():
        found = [prompt_means(policy, batch) for batch in layouts]
        for row, mean in enumerate(found[0]):
            e = rows[2 * row]
            alone = EncodedSequence(e.ids[~e.label_mask], np.ones((~e.label_mask).sum(), bool), 0)
            states = policy.hidden_states(collate_sequences([alone], "padded", 0))
            torch.testing.assert_close(mean, states.mean(0), rtol=1e-4, atol=1e-5)
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-4, atol=1e-5)


def test_kept_embeddings_are_directions_from_the_mean(tiny, rows_of, readied, tmp_path):
    policy, rows = Policy(tiny("llama")[0]), rows_of(RPO(), 5)
    batch = collate_sequences(rows, "padded", 0)
    policy.store = PrecomputedStore(tmp_path, "x")
    readied(policy, RPO(), [collate_sequences(rows[:6], "padded", 0), collate_sequences(rows[6:], "packed", 0)])
    with torch.no_grad():
        means = prompt_means(policy, batch)
    wanted = F.normalize(means - means.mean(0), dim=1)
    kept = policy.store.rows["prompts"].find_values(batch).float().view(5, 2, -1)
    torch.testing.assert_close(kept[:, 0], wanted, atol=1e-3, rtol=0)
    assert torch.equal(kept[:, 0], kept[:, 1])
    policy.store.save()
    again = PrecomputedStore(tmp_path, "x").rows["prompts"].find_values(batch)
    assert torch.equal(again, policy.store.rows["prompts"].find_values(batch))


def test_an_embedding_like_all_others_has_no_direction():
    everywhere = torch.randn(8)
    assert directions_from_mean(everywhere, everywhere).norm() == 0
    assert directions_from_mean(everywhere * (1 + 1e-6), everywhere).norm() < 0.01
    assert math.isclose(directions_from_mean(everywhere + torch.randn(8), everywhere).float().norm(), 1, rel_tol=1e-3)


@pytest.fixture
def encoder(tiny_dir, tmp_path) -> str:
    """The directory of a sentence encoder with random weights."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    words = Transformer(str(tiny_dir("llama", 5)))
    SentenceTransformer(modules=[words, Pooling(words.get_embedding_dimension())], device="cpu").save(str(tmp_path))
    return str(tmp_path)


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_a_sentence_encoder_reads_the_prompts_as_text(layout, tiny_dir, rows_of, readied, encoder):
    from sentence_transformers import SentenceTransformer

    loaded = load_model(tiny_dir("llama"))
    rows, objective = rows_of(RPO(), 4), RPO(embedder=encoder)
    table = (
        SharedPrefixTable(TokenTable.from_sequences(rows)) if layout == "shared" else TokenTable.from_sequences(rows)
    )
    batch = table.collate_rows(range(4), "padded" if layout == "shared" else layout, 0)
    policy = Policy(loaded.model)
    readied(policy, objective, [batch])
    prompts = [row.ids[: row.label_mask.argmax()] for row in rows[::2]]
    texts = [loaded.tokenizer.decode(ids, skip_special_tokens=True) for ids in prompts]
    assert len(set(texts)) == 4
    wanted = SentenceTransformer(encoder, device="cpu").encode(texts, normalize_embeddings=True)
    got = policy.store.rows["prompts"].find_values(batch).view(8, -1)[batch.roles == 0]
    torch.testing.assert_close(got.float(), torch.from_numpy(wanted), atol=1e-3, rtol=0)
    assert objective.step_statistics(policy, batch)["prompts"].shape == got.shape


def test_no_sentence_encoder_is_told_in_one_line(tiny_dir, rows_of, tmp_path):
    batch = collate_sequences(rows_of(RPO(), 2), "padded", 0)
    with pytest.raises(UserError, match="cannot be loaded as a sentence-transformers model"):
        list(directions_by_encoder(str(tmp_path), Policy(load_model(tiny_dir("llama")).model), lambda: [batch]))
