"""TIS-DPO: the weights by their formulas, DPO where all are 1, and the estimates from two models."""

from __future__ import annotations

import json
import math
import re
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional as F
from typer.testing import CliRunner

from holdfast.axes.registry import REGISTRY
from holdfast.cli.app import app
from holdfast.data.batching.batches import EncodedSequence, TokenTable, collate_sequences
from holdfast.data.batching.shared_prefix import SharedPrefixTable
from holdfast.data.batching.tokenize import build_table
from holdfast.data.chat.encoder import Chat
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.objectives.preference.dpo import DPO, pair_losses
from holdfast.methods.objectives.preference.tis_dpo import TISDPO, compute_logps_and_divergences, token_gains
from holdfast.methods.objectives.terms.contrast import rank_weights, token_weights
from holdfast.models.loading import eval_mode, load_model
from holdfast.models.policy import Policy
from holdfast.models.stored_values import PrecomputedStore
from holdfast.recipe.schema import Recipe
from holdfast.training.trainer import Trainer


def moved(policy):
    """The policy after a random step away from what it was."""
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(0.05 * torch.randn_like(p))
    return policy


def gradient(loss, policy):
    loss.backward()
    out = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return out


def assert_same(one, other, tolerance=1e-5):
    assert one.keys() == other.keys()
    whole = torch.stack([g.norm() for g in other.values()]).norm()
    assert whole > 0
    assert torch.stack([torch.dist(one[n], other[n]) for n in other]).norm() <= tolerance * whole


def test_the_printed_weights():
    ratios = torch.tensor([0.0, 0.3, -0.3, 9.0, -9.0], dtype=torch.float64)
    chosen, rejected = (token_weights(ratios, torch.tensor(mu), -0.5, 1.5) for mu in (1, -1))
    np.testing.assert_allclose(chosen, np.exp([0, 0.3, -0.3, 1.5, -0.5]), rtol=1e-12)
    np.testing.assert_allclose(rejected, np.exp([0, -0.3, 0.3, -1.5, 0.5]), rtol=1e-12)


def test_ranks_go_from_seven_tenths_to_thirteen_and_average_to_one():
    values = torch.tensor([3.0, -1.0, 2.0, 0.5, 7.0, 7.0, 7.0, 1.0, 5.0, 5.0])
    got = rank_weights(values, [4, 3, 1, 2])
    torch.testing.assert_close(got[:4], torch.tensor([1.3, 0.7, 1.1, 0.9]))
    torch.testing.assert_close(got[4:], torch.ones(6))  # equal ones share their rank, a single one has the middle
    for part in rank_weights(torch.randn(30), [7, 13, 10]).split([7, 13, 10]):
        assert math.isclose(part.mean(), 1, rel_tol=1e-6)
        assert math.isclose(part.min(), 0.7, rel_tol=1e-6)
        assert math.isclose(part.max(), 1.3, rel_tol=1e-6)
    torch.testing.assert_close(
        rank_weights(-values, [4, 3, 1, 2]), 2 - got
    )  # what counts most in one counts least in other


def test_golden_values_of_dpo_with_weights_of_one(golden):
    s = {name: torch.tensor(golden[name], dtype=torch.float64) for name in ("s_w", "s_ref_w", "s_l", "s_ref_l")}
    gains = torch.stack([s["s_w"] - s["s_ref_w"], s["s_l"] - s["s_ref_l"]], 1)
    ones = token_weights(torch.zeros(3, dtype=torch.float64), torch.tensor(1), -0.5, 1.5)
    got = pair_losses(ones[:, None] * gains, torch.ones(3, 2), "sigmoid", 0.1)
    np.testing.assert_allclose(got, golden["dpo b=.1"], atol=2e-8)


PHASES, LABELS, LENGTHS = ((0.0, 0.15), (0.4, 0.52)), ((3, 2, 1), (5, 1, 2)), ((5, 3, 6), (4, 6, 2))


def golden_tokens(golden_logits, pair: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log p/p0 and KL(p || p0) of the golden chosen, then rejected tokens of a pair; signs 1 and -1, [N] each."""
    found = []
    t = torch.arange(6)[:, None]
    for phases, labels, lengths, sign in zip(PHASES, LABELS, LENGTHS, (1.0, -1.0), strict=True):
        now, before = (golden_logits(phase)[pair].log_softmax(-1) for phase in phases)  # [T, V]
        ids = (labels[0] * pair + labels[1] * t + labels[2]) % 7
        gains, away = (now - before).gather(1, ids)[:, 0], (now.exp() * (now - before)).sum(1)
        found.append(torch.stack([gains, away, torch.full((6,), sign, dtype=torch.float64)])[:, : lengths[pair]])
    return tuple(torch.cat(found, 1))  # type: ignore[return-value]


@pytest.mark.parametrize("pair", range(3))
@pytest.mark.parametrize(("name", "eta"), [("tis-dpo b=.1 no-eta", 0.0), ("tis-dpo b=.1 eta alpha=.5", 0.5)])
def test_golden_values_by_the_weights_that_both_leave_open(golden, golden_logits, pair, name, eta):
    """The golden weights are written nowhere: of those that agree with both values, the nearest to 1 are taken."""
    gains, away, signs = golden_tokens(golden_logits, pair)
    margins = [-math.log(math.expm1(golden[key][pair])) / 0.1 for key in golden if key.startswith("tis-dpo")]
    wanted = torch.tensor([margins[0], (margins[0] - margins[1]) / 0.5], dtype=torch.float64)
    both = signs * torch.stack([gains, away])  # [2, N]
    weights = 1 + torch.linalg.pinv(both) @ (wanted - both.sum(1))
    tokens = token_gains(weights, gains, away, eta)
    rewards = torch.stack([tokens[signs > 0].sum(), tokens[signs < 0].sum()])[None]
    got = pair_losses(rewards, torch.ones(1, 2), "sigmoid", 0.1)
    np.testing.assert_allclose(got, golden[name][pair], atol=1e-7)
    assert (weights - 1).abs().max() < 2, weights


@pytest.fixture
def work(tiny, rows_of, readied):
    """A policy that has moved, and a batch of 4 weighted rows; `kept.rows["weights"]` can be filled by the test."""
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(TISDPO(), 4), "padded", 0)
    readied(policy, TISDPO(), [batch])
    return moved(policy), batch


def test_weights_of_one_are_dpo(work):
    policy, batch = work
    one, other = (o.losses(policy, batch).sums["preference"] for o in (TISDPO(beta=0.4, eta=0), DPO(beta=0.4)))
    torch.testing.assert_close(one, other)
    assert_same(gradient(one, policy), gradient(other, policy))


def test_without_the_end_of_turn_it_is_dpo_up_to_it(work):
    policy, batch = work
    got = TISDPO(beta=0.4, eta=0, end_of_turn=False).losses(policy, batch).sums["preference"]
    apart = policy.token_logps(batch) - policy.reference_logps(batch)
    gains = torch.stack([part[:-1].sum() for part in apart.split(batch.label_counts().long().tolist())]).view(4, 2)
    weights = batch.sequence_weights()[::2]
    torch.testing.assert_close(got, (pair_losses(gains, gains, "sigmoid", 0.4) * weights).sum())


def fake(positive="p", negative="n", **knobs):
    """An objective whose weights the test puts into `policy.store` itself."""
    return TISDPO(estimate="models", positive=positive, negative=negative, **{"eta": 0, **knobs})


def test_the_loss_written_out(work):
    policy, batch = work
    weights = torch.rand(len(batch.labels)) + 0.5
    policy.store.rows["weights"].set_values(batch, weights)
    out = fake(beta=0.4).losses(policy, batch)
    logps, reference = policy.token_logps(batch).tolist(), policy.reference_logps(batch).tolist()
    sums = [0.0] * batch.n_sequences
    for label, sequence in enumerate(batch.sequence.tolist()):
        sums[sequence] += weights[label].item() * (logps[label] - reference[label])
    wanted = 0.0
    for row, weight in enumerate(batch.sequence_weights()[::2].tolist()):
        wanted -= weight * F.logsigmoid(torch.tensor(0.4 * (sums[2 * row] - sums[2 * row + 1]))).item()
    assert math.isclose(out.sums["preference"].item(), wanted, rel_tol=1e-5)
    assert math.isclose(out.metrics["weights/mean"][0], weights.sum(), rel_tol=1e-5)


def test_all_weights_times_a_number_are_beta_times_it(work):
    policy, batch = work
    weights = torch.rand(len(batch.labels)) + 0.5
    policy.store.rows["weights"].set_values(batch, 3 * weights)
    one = gradient(fake(beta=0.2).losses(policy, batch).sums["preference"], policy)
    policy.store.rows["weights"].set_values(batch, weights)
    assert_same(one, gradient(fake(beta=0.6).losses(policy, batch).sums["preference"], policy))


@pytest.mark.parametrize("transform", ["exp", "rank"])
def test_equal_models_give_equal_weights(tiny, tiny_dir, rows_of, readied, transform):
    place = str(tiny_dir("llama", 1))
    objective = fake(place, place, transform=transform)
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(objective, 3), "padded", 0)
    readied(policy, objective, [batch])
    assert torch.equal(policy.store.rows["weights"].find_values(batch), torch.ones(len(batch.labels)))


@pytest.mark.parametrize("layout", ["padded", "packed", "shared"])
def test_weights_are_estimated_from_the_two_models(tiny, tiny_dir, rows_of, readied, layout, tmp_path):
    objective = fake(str(tiny_dir("llama", 1)), str(tiny_dir("llama", 2)))
    rows = rows_of(objective, 4)
    plain = collate_sequences(rows, "padded", 0)
    batch = plain
    if layout == "shared":
        batch = SharedPrefixTable(TokenTable.from_sequences(rows)).collate_rows(range(4), "padded", 0)
    elif layout == "packed":
        batch = collate_sequences(rows, "packed", 0)
    policy = Policy(tiny("llama")[0])
    policy.store = PrecomputedStore(tmp_path, "x")
    readied(policy, objective, [batch])
    with torch.no_grad():
        good, bad = (Policy(tiny("llama", seed)[0]).token_logps(plain) for seed in (1, 2))
    signs = torch.tensor([1.0, -1.0])[plain.roles[plain.sequence]]
    wanted = torch.exp(signs * (good - bad).clamp(-0.5, 1.5))
    torch.testing.assert_close(policy.store.rows["weights"].find_values(plain), wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.1
    policy.store.save()
    again = PrecomputedStore(tmp_path, "x").rows["weights"].find_values(plain)
    assert torch.equal(again, policy.store.rows["weights"].find_values(plain))


def test_weights_are_estimated_again_once_a_model_has_changed(tiny, tiny_dir, rows_of, tmp_path):
    good, bad, other = (tiny_dir("llama", seed) for seed in (1, 2, 3))
    knobs = {"name": "tis_dpo", "estimate": "models", "positive": str(good), "negative": str(bad)}
    recipe = Recipe(
        model="tiny", data={"train": "rows.jsonl"}, objective=knobs, train={"max_steps": 1, "precision": "fp32"}
    )
    rows = TokenTable.from_sequences(rows_of(recipe.objective, 4), fingerprint="rows")
    for run, kept in (("a", 1), ("b", 1), ("c", 2)):
        if run == "c":
            shutil.copytree(other, good, dirs_exist_ok=True)
        shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
        Trainer(recipe, tiny("llama")[0], rows, tmp_path, pad_id=0).fit()
        assert len(list((tmp_path / "cache").glob("prepared-*"))) == kept


def test_weights_are_estimated_from_two_prompts():
    loaded = load_model("lab-small")
    chat, policy = Chat(loaded.tokenizer), Policy(loaded.model)
    prompts = {"good": "Answer rightly.", "bad": "Answer wrongly."}
    objective = TISDPO(estimate="prompts", positive=prompts["good"], negative=prompts["bad"], eta=0.5)
    rows = [
        Row([{"role": "user", "content": f"What is {i} + 1?"}], chosen=f"{i + 1}.", rejected=f"{i}?") for i in (2, 6)
    ]
    rows[1].messages.insert(0, {"role": "system", "content": "Add."})
    table, _ = build_table(rows, chat, max_length=99, kind="pair", prompts=objective.extra_prompts())
    whole, batch = (
        table.collate_rows([0, 1], "packed", 0),
        table.keep_first_sequences(objective.sequences_per_step()).collate_rows([0, 1], "packed", 0),
    )
    with torch.no_grad(), eval_mode(policy.model):
        objective.precompute(policy, lambda: [whole], policy.store)

    def logps(prompt, row, answer):
        system = {"role": "system", "content": f"{prompt}\nAdd." if row is rows[1] else prompt}
        ids, trained = chat.encode([system, row.messages[-1], {"role": "assistant", "content": answer}])
        return policy.token_logps(collate_sequences([EncodedSequence(ids, trained, 0)], "padded", 0)).detach()

    answers = [(row, text, sign) for row in rows for text, sign in ((row.chosen, 1), (row.rejected, -1))]
    wanted = torch.cat([
        (sign * (logps(prompts["good"], row, text) - logps(prompts["bad"], row, text)).clamp(-0.5, 1.5)).exp()
        for row, text, sign in answers
    ])  # fmt: skip
    got = policy.store.rows["weights"].find_values(batch)
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert wanted.std() > 0.01
    assert policy.store.rows["reference"].find_values(batch) is not None


def test_ranks_follow_the_models_the_other_way_round_in_rejected_answers(tiny, tiny_dir, rows_of, readied):
    objective = fake(str(tiny_dir("llama", 1)), str(tiny_dir("llama", 2)), transform="rank")
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(objective, 3), "padded", 0)
    readied(policy, objective, [batch])
    lengths = batch.label_counts().long().tolist()
    with torch.no_grad():
        good, bad = (Policy(tiny("llama", seed)[0]).token_logps(batch) for seed in (1, 2))
    weights = policy.store.rows["weights"].find_values(batch)
    for role, w, r in zip(batch.roles.tolist(), weights.split(lengths), (good - bad).split(lengths), strict=True):
        assert w.argsort().tolist() == (r if role == 0 else -r).argsort().tolist()
        assert math.isclose(w.mean(), 1, rel_tol=1e-6)


def test_a_model_that_answers_by_more_than_weights_is_refused(tiny, tiny_dir, rows_of, readied, tmp_path, monkeypatch):
    """By `check`, and by the objective where there is no `check`."""
    monkeypatch.setitem(REGISTRY["inference"], "ensemble", "methods.inference.ensemble:Ensemble")
    monkeypatch.chdir(tmp_path)
    folder = tiny_dir("llama")
    setup = {"inference": {"name": "ensemble", "weight": 0.5}, "changes": ["logits"]}
    (folder / "inference.json").write_text(json.dumps(setup))
    says = f"{folder / 'inference.json'}: answers are made by ensemble (weight 0.5), which changes logits"
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(TISDPO(), 2), "padded", 0)
    with pytest.raises(UserError, match=re.escape(says)):
        readied(policy, fake(str(folder), str(folder)), [batch])
    (tmp_path / "pairs.jsonl").write_text('{"prompt": "p", "chosen": "a", "rejected": "b"}\n' * 3)
    (tmp_path / "run.yaml").write_text(
        "model: lab-small\ndata: {train: pairs.jsonl}\noutput: out\nevaluate: {target: none}\n"
        f"objective: {{name: tis_dpo, estimate: models, positive: {folder}, negative: {folder}}}\n"
    )
    done = CliRunner().invoke(app, ["check", "run.yaml"])
    assert done.exit_code == 2
    assert f"objective tis_dpo: {says}" in done.output


def test_another_vocabulary_is_refused_in_one_line(tiny, tiny_dir, rows_of, readied):
    other = str(tiny_dir("llama", 1, vocab_size=400))
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(TISDPO(), 2), "padded", 0)
    with pytest.raises(UserError, match="a vocabulary of 400 tokens") as error:
        readied(policy, fake(other, other), [batch])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("knobs", [{"estimate": "models"}, {"positive": "a"}, {"estimate": "models", "negative": "b"}])
def test_models_come_together_or_not_at_all(knobs):
    with pytest.raises(ValidationError, match="give all three or none"):
        TISDPO(**knobs)


def divergences(policy, batch):
    """KL(model || reference) [N] by whole distributions; the reference is a fresh copy."""
    return lambda reference: (
        (p := policy.logits_at(batch, batch.label_positions).log_softmax(-1)).exp()
        * (p - reference.logits_at(batch, batch.label_positions).detach().log_softmax(-1))
    ).sum(-1)


def test_the_divergence_term_written_out(tiny, rows_of, readied):
    objective = TISDPO(beta=0.4, eta=0.5, top=0)
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(objective, 4), "padded", 0)
    readied(policy, objective, [batch])
    moved(policy)
    got = objective.losses(policy, batch).sums["preference"]
    away = divergences(policy, batch)(Policy(tiny("llama")[0]))
    tokens = policy.token_logps(batch) - policy.reference_logps(batch) - 0.5 * away
    gains = batch.sum_per_sequence(tokens).view(4, 2)
    wanted = (pair_losses(gains, gains, "sigmoid", 0.4) * batch.sequence_weights()[::2]).sum()
    torch.testing.assert_close(got, wanted, rtol=1e-5, atol=1e-6)
    assert_same(gradient(got, policy), gradient(wanted, policy), 1e-4)
    plain = TISDPO(beta=0.4, eta=0).losses(policy, batch).sums["preference"]
    assert abs(plain.item() - got.item()) > 1e-3


def test_a_bucket_for_the_unlikely_never_makes_the_divergence_larger(tiny, rows_of, readied):
    policy, batch = Policy(tiny("llama")[0]), collate_sequences(rows_of(TISDPO(), 4), "padded", 0)
    readied(policy, TISDPO(eta=1.0, top=128), [batch])
    found = compute_logps_and_divergences(policy, batch, 128)[1]
    torch.testing.assert_close(found, torch.zeros_like(found), atol=1e-5, rtol=0)  # at the reference
    moved(policy)
    with torch.no_grad():
        logps, away = compute_logps_and_divergences(policy, batch, 128)
        whole = divergences(policy, batch)(Policy(tiny("llama")[0]))
    torch.testing.assert_close(logps, policy.token_logps(batch), rtol=1e-5, atol=1e-5)
    assert (away <= whole + 1e-5).all()
    assert away.sum() > 0.5 * whole.sum()


@pytest.mark.parametrize("layout", ["padded", "packed"])
def test_weights_and_divergences_do_not_depend_on_the_cut(tiny, rows_of, readied, step_of, layout):
    objective = fake(beta=0.4, eta=0.5)
    policy, rows = Policy(tiny("llama")[0]), rows_of(objective, 4)
    whole = collate_sequences(rows, "padded", 0)
    readied(policy, TISDPO(eta=0.5), [whole])
    policy.store.rows["weights"].set_values(whole, torch.rand(len(whole.labels)) + 0.5)
    moved(policy)
    value, grads = step_of(policy, objective, [whole])
    apart, other = step_of(policy, objective, [collate_sequences(rows[i : i + 2], layout, 0) for i in range(0, 8, 2)])
    assert math.isclose(value, apart, rel_tol=1e-6)
    assert_same(other, grads)
