"""GRPO: golden values, what holds on policy and at the clip, its relatives, TRL, and groups from files and pairs."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.data.batching.batches import EncodedSequence, TokenTable, collate_sequences
from holdfast.data.batching.tokenize import build_table
from holdfast.data.reading.formats import open_rows
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.data.row_shapes import Column, build_conversations, check_row, rows_for
from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.credits.group import GroupCredit
from holdfast.methods.objectives.scored.grpo import (
    GRPO,
    clipped_surrogate,
    group_advantages,
    kl_estimates,
    sequence_means,
)
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.methods.objectives.terms.labels import label_weights
from holdfast.models.policy import Policy, precompute_reference

SCORES = torch.tensor([1.0, 0.0, 0.5], dtype=torch.float64)
ONE_GROUP = torch.zeros(3, dtype=torch.long)


@pytest.fixture
def golden_losses(golden_logps, golden_batch):
    """`golden_losses(beta=0, level="token")` -> the batch and each token's loss [N]."""
    now, before = torch.cat(golden_logps()), torch.cat(golden_logps(0.15))
    old = torch.cat([logps - 0.1 * torch.cos(torch.arange(len(logps))) for logps in golden_logps()])
    batch = golden_batch()

    def make(beta: float = 0.0, level: str = "token"):
        moved = now - old if level == "token" else sequence_means(now - old, batch)
        better = group_advantages(SCORES, ONE_GROUP)[batch.sequence]
        return batch, clipped_surrogate(moved.exp(), better, 0.2, 0.2) + beta * kl_estimates(now - before), moved.exp()

    return make


def test_golden_advantages(golden):
    np.testing.assert_allclose(group_advantages(SCORES, ONE_GROUP), golden["grpo adv"], atol=1e-8)


@pytest.mark.parametrize(
    ("name", "objective"),
    [
        ("grpo loss beta=.04", GRPO(beta=0.04)),
        ("bnpo/dapo(1 microbatch)", GRPO(beta=0.04, reduction="token")),
        ("dr_grpo maxlen=6", GRPO(beta=0.04, reduction="constant", longest=6)),
    ],
)
def test_golden_losses(golden, golden_losses, name, objective):
    batch, losses, _ = golden_losses(objective.beta)
    weights = label_weights(batch, "sequence" if objective.reduction == "sequence" else "token")
    count = objective.normalizers(batch)["policy"]
    np.testing.assert_allclose((losses * weights).sum() / count, golden[name], atol=1e-7)


def test_golden_ratios_of_sequences(golden, golden_losses):
    batch, _, ratios = golden_losses(level="sequence")
    firsts = [int((batch.sequence == i).nonzero()[0]) for i in range(3)]
    np.testing.assert_allclose(ratios[firsts], golden["gspo seq ratio"], atol=1e-8)


# ---- identities ---------------------------------------------------------------------------------------------------


def group(scores, lengths, vocab: int = 320, seed: int = 0) -> list[EncodedSequence]:
    """The answers of one prompt as sequences."""
    rng = np.random.default_rng(seed)
    prompt, out = rng.integers(3, vocab, size=4), []
    for role, (score, length) in enumerate(zip(scores, lengths, strict=True)):
        ids = np.concatenate([prompt, rng.integers(3, vocab, size=length)]).astype(np.int32)
        out.append(EncodedSequence(ids, np.arange(len(ids)) >= 4, 0, role, values={"scores": score}))
    return out


def moved_policy(tiny, batch, by: float = 0.02) -> Policy:
    """A policy that knows its reference and has gone on from it."""
    policy = Policy(tiny("llama")[0])
    precompute_reference(policy, [batch])
    torch.manual_seed(0)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.add_(by * torch.randn_like(p))
    return policy


def test_on_policy_the_loss_is_nothing_and_its_gradient_is_that_of_reinforce(tiny):
    scores = (1.0, 0.2, 0.4, 0.0)
    batch = collate_sequences(group(scores, [5, 5, 5, 5]), "padded", 0)
    policy = Policy(tiny("llama")[0])
    precompute_reference(policy, [batch])
    objective = GRPO()
    sums = objective.losses(policy, batch).sums
    assert sums["divergence"].item() == pytest.approx(0, abs=1e-6)
    assert sums["policy"].item() == pytest.approx(0, abs=1e-6)
    ours = torch.autograd.grad(sums["policy"] / objective.normalizers(batch)["policy"], list(policy.model.parameters()))
    better = group_advantages(torch.tensor(scores), torch.zeros(4, dtype=torch.long))
    plain = -(policy.token_logps(batch) * better[batch.sequence]).sum() / 20
    wanted = torch.autograd.grad(plain, list(policy.model.parameters()))
    assert torch.stack([w.norm() for w in wanted]).norm() > 1e-3
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-6, rtol=1e-4)


def test_the_first_round_of_online_learning_is_this_on_the_same_samples(tiny):
    """Of the untouched model's answers it is both the policy that wrote them and the reference."""
    scores, lengths = (1.0, 0.2, 0.4, 0.0), [5, 2, 9, 4]
    batch = collate_sequences(group(scores, lengths), "padded", 0)
    policy = moved_policy(tiny, batch)
    rewards = [np.append(np.zeros(n - 1), score) for n, score in zip(lengths, scores, strict=True)]
    ends, same = [np.array([n - 1]) for n in lengths], np.zeros(4, dtype=int)
    advantages = GroupCredit().assign_advantages(RolloutRewards(rewards, ends, same, same > 0))
    batch.token_values = {
        "advantages": torch.from_numpy(np.concatenate(advantages)).float(), "behaviour": policy.reference_logps(batch)
    }  # fmt: skip
    online = PolicyGradient(reduction="sequence", beta=0.04, divergence="k3")
    losses = [one.losses(policy, batch).sums for one in (GRPO(), online)]
    for term in ("policy", "divergence"):
        torch.testing.assert_close(losses[0][term], losses[1][term], atol=1e-6, rtol=1e-5)
    assert GRPO().normalizers(batch) == online.normalizers(batch)


def test_equal_scores_teach_nothing(tiny, step_of):
    batch = collate_sequences(group([0.7, 0.7, 0.7], [3, 8, 5]), "packed", 0)
    loss, grads = step_of(moved_policy(tiny, batch), GRPO(beta=0), [batch])
    assert loss == 0
    assert all(float(g.abs().max()) == 0 for g in grads.values())
    assert step_of(moved_policy(tiny, batch), GRPO(beta=1), [batch])[0] > 0, "the divergence is still held"


def test_equal_lengths_make_the_reductions_one(tiny, step_of):
    batch = collate_sequences(group([1, 0, 0.5], [6, 6, 6]), "padded", 0)
    policy = moved_policy(tiny, batch)
    ways = [GRPO(), GRPO(reduction="token"), GRPO(reduction="constant", longest=6)]
    losses = [step_of(policy, way, [batch])[0] for way in ways]
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-5)
    assert abs(losses[0]) > 1e-3


def test_a_constant_instead_of_the_number_of_tokens(tiny, step_of):
    batch = collate_sequences(group([1, 0, 0.5], [2, 9, 4]), "padded", 0)
    policy = moved_policy(tiny, batch)
    by_token = step_of(policy, GRPO(reduction="token"), [batch])[0]
    by_constant = step_of(policy, GRPO(reduction="constant", longest=20), [batch])[0]
    assert by_constant == pytest.approx(by_token * 15 / (3 * 20), rel=1e-5)
    assert by_token != pytest.approx(step_of(policy, GRPO(), [batch])[0], rel=1e-2)


def test_answers_of_one_token_have_the_ratio_of_their_token(tiny, step_of):
    batch = collate_sequences(group([1, 0, 0.5], [1, 1, 1]), "padded", 0)
    policy = moved_policy(tiny, batch)
    assert step_of(policy, GRPO(level="sequence"), [batch])[0] == step_of(policy, GRPO(), [batch])[0]
    longer = collate_sequences(group([1, 0, 0.5], [4, 2, 6]), "padded", 0)
    policy = moved_policy(tiny, longer)
    assert step_of(policy, GRPO(level="sequence"), [longer])[0] != step_of(policy, GRPO(), [longer])[0]


@pytest.mark.parametrize(("better", "ratio", "pulled"), [
    (1.0, 1.3, False), (1.0, 1.1, True), (1.0, 0.5, True), (-1.0, 0.7, False), (-1.0, 0.9, True), (-1.0, 1.5, True),
])  # fmt: skip
def test_the_clip_lets_go_of_what_has_gone_the_right_way(better, ratio, pulled):
    at = torch.tensor(ratio, requires_grad=True)
    clipped_surrogate(at, torch.tensor(better), 0.2, 0.2).backward()
    assert at.grad == (-better if pulled else 0)


def test_a_higher_clip_above_follows_what_is_raised_further():
    for better, pulled in ((1.0, True), (-1.0, False)):
        at = torch.tensor(1.0 + better / 4, requires_grad=True)  # 1.25 and 0.75
        clipped_surrogate(at, torch.tensor(better), 0.2, 0.28).backward()
        assert at.grad == (-better if pulled else 0)


def test_the_share_that_the_clip_holds_is_logged(tiny):
    batch = collate_sequences(group([1, 0], [90, 90]), "padded", 0)
    policy = moved_policy(tiny, batch, 0.02)
    ways = [GRPO(clip=0.01), GRPO(clip=0.1), GRPO(clip=0.1, clip_high=9), GRPO(clip=0.99, clip_high=9)]
    held = [way.losses(policy, batch).metrics["ratio/clipped"] for way in ways]
    shares = [total / count for total, count in held]
    assert 0.6 > shares[0] > shares[1] > shares[2] > shares[3] == 0, shares


def test_advantages_of_groups_of_any_size():
    scores = torch.tensor([2.0, 0, 1, 5, 5, 0, 10], dtype=torch.float64)
    of = torch.tensor([0, 0, 0, 1, 1, 2, 2])
    plain = group_advantages(scores, of, scale=False)
    np.testing.assert_allclose(plain, [1, -1, 0, 0, 0, -5, 5])
    scaled = group_advantages(scores, of)
    np.testing.assert_allclose(scaled, [1 / 1.0001, -1 / 1.0001, 0, 0, 0, *([-5, 5] / (np.sqrt(50) + 1e-4))])
    np.testing.assert_allclose(group_advantages(3 * scores + 7, of), scaled, atol=2e-4)


def test_a_correction_of_nothing_is_refused():
    with pytest.raises(ValidationError, match="correct has no effect without beta"):
        GRPO(correct=True, beta=0)


def test_the_best_answer_of_a_table_wins():
    """Rounds of samples from a policy over six actions, a few clipped steps on each, end at the best action."""
    torch.manual_seed(0)
    rewards = torch.tensor([0.1, 0.9, 0.3, 0.5, 0.2, 0.7])
    theta = torch.zeros(6, requires_grad=True)
    optimizer = torch.optim.Adam([theta], lr=0.1)
    for _ in range(60):
        drawn = torch.multinomial(theta.detach().softmax(0), 16, replacement=True)
        old = theta.detach().log_softmax(0)[drawn]
        better = group_advantages(rewards[drawn], torch.zeros(16, dtype=torch.long))
        for _ in range(3):
            ratio = (theta.log_softmax(0)[drawn] - old).exp()
            optimizer.zero_grad()
            clipped_surrogate(ratio, better, 0.2, 0.2).mean().backward()
            optimizer.step()
    assert theta.softmax(0)[1] > 0.9


# ---- against TRL --------------------------------------------------------------------------------------------------


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("objective", "knobs"), [
    (GRPO(), {"beta": 0.04, "use_bias_correction_kl": False}),
    (GRPO(beta=0.3, correct=True), {"beta": 0.3}),
    (GRPO(level="sequence", beta=0.3, correct=True), {"beta": 0.3, "importance_sampling_level": "sequence"}),
    (GRPO(beta=0, clip=0.05, clip_high=0.1), {"epsilon": 0.05, "epsilon_high": 0.1}),
    (GRPO(reduction="token", beta=0.1), {"loss_type": "bnpo", "beta": 0.1, "use_bias_correction_kl": False}),
    (GRPO(reduction="constant", longest=24, beta=0), {"loss_type": "dr_grpo", "max_completion_length": 24}),
    (GRPO(level="sequence", beta=0, clip=0.01), {"importance_sampling_level": "sequence", "epsilon": 0.01}),
])  # fmt: skip
def test_trl(tiny, tmp_path, objective, knobs):
    trl = pytest.importorskip("trl", reason="trl is a development dependency")
    datasets = pytest.importorskip("datasets")
    rows = group([1, 0, 0.5, 0.2], [7, 3, 12, 5])
    batch = collate_sequences(rows, "padded", 0)
    policy = moved_policy(tiny, batch)
    policy.model.save_pretrained(tmp_path)
    model = type(policy.model).from_pretrained(tmp_path)  # from where TRL loads its reference, which is not used here
    config = trl.GRPOConfig(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, num_generations=4, **{"loss_type": "grpo", **knobs},
    )  # fmt: skip
    trainer = trl.GRPOTrainer(
        model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 4}), processing_class=tiny("llama")[1],
    )  # fmt: skip
    model.eval()
    model.zero_grad()
    theirs = trainer.compute_loss(model, as_trl_has_it(rows, batch, policy))
    theirs.backward()
    sums, counts = objective.losses(policy, batch).sums, objective.normalizers(batch)
    ours = sum(sums[term] / counts[term] for term in sums)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    pairs = list(zip(policy.model.parameters(), model.parameters(), strict=True))
    whole = torch.stack([q.grad.norm() for _, q in pairs]).norm()
    apart = torch.stack([torch.dist(p.grad, q.grad) for p, q in pairs]).norm()
    assert whole > 0
    assert apart <= 1e-5 * whole


def as_trl_has_it(rows, batch, policy) -> dict[str, torch.Tensor]:
    """The batch as TRL's trainer hands it to its loss: answers padded on the right behind prompts of one length."""
    lengths = [int(row.label_mask.sum()) for row in rows]
    place = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]  # [S, T]
    answers, old = torch.zeros(place.shape, dtype=torch.long), torch.zeros(place.shape)
    answers[place] = batch.labels
    old[place] = policy.reference_logps(batch)
    prompts = torch.tensor(np.stack([row.ids[:4] for row in rows]).astype(np.int64))
    scores = batch.values["scores"]
    return {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": answers,
        "completion_mask": place.long(), "old_per_token_logps": old, "ref_per_token_logps": old,
        "advantages": (scores - scores.mean()) / (scores.std() + 1e-4),
    }  # fmt: skip


# ---- rows ---------------------------------------------------------------------------------------------------------


def asked(**more) -> Row:
    return Row([{"role": "user", "content": "Q"}], **more)


def test_groups_of_a_file(tmp_path, tiny):
    path = tmp_path / "groups.jsonl"
    records = [
        {"prompt": "2 + 3?", "answers": ["5", "6", "about 5"], "scores": [1, 0, 0.5]},
        {"prompt": "1 + 1?", "answers": [{"text": "3", "score": 0}, {"text": "2", "score": 1}]},
        {"prompt": "4 + 4?", "answers": ["8", "eight"], "scores": [1, 1]},
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    objective = GRPO()
    rows = open_rows(path, kind="group", columns=objective.value_columns())
    assert len(rows) == 2, "answers that are equally good teach nothing and are left out"
    from holdfast.data.chat.encoder import Chat

    table, _ = build_table(
        rows_for("group", objective.value_columns(), rows), Chat(tiny("llama")[1]), max_length=99, kind="group",
        columns=objective.value_columns(),
    )  # fmt: skip
    batch = table.collate_rows([1, 0], "packed", 0)
    assert batch.values["scores"].tolist() == [0, 1, 1, 0, 0.5]
    assert [e.values["scores"] for e in table.row_sequences(0)] == [1, 0, 0.5]
    again = collate_sequences([e for i in (1, 0) for e in table.row_sequences(i)], "packed", 0)
    assert torch.equal(again.input_ids, batch.input_ids)
    assert torch.equal(again.values["scores"], batch.values["scores"])
    assert table.keep_first_sequences(2).values[:, 0].tolist() == [1, 0, 0, 1]
    assert (
        TokenTable.from_sequences([e for i in (0, 1) for e in table.row_sequences(i)]).values.tolist()
        == table.values.tolist()
    )


def test_a_pair_is_a_group_of_two():
    known = ({"score_chosen": 0.8, "score_rejected": 0.3}, {"score_chosen": 0.8}, {"answers": {"text": ["SQuAD"]}}, {})
    rows = rows_for("group", (), [asked(chosen="good", rejected="bad", meta=meta) for meta in known])
    said = [[messages[-1]["content"] for messages in two] for two in build_conversations(rows, 0, "group")]
    assert said == [["good", "bad"]] * 4
    column = Column("scores", each=True)
    assert [column.values_of(row, "it", 2) for row in rows] == [[0.8, 0.3], *[[1.0, 0.0]] * 3]
    several = asked(chosen="a", rejected="c", meta={"answers": ["a", "b", "c"], "scores": [3, 2, 1]})
    (row,) = rows_for("group", (), [several])
    assert row == several


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        (asked(), "it has no answers to compare, but the objective does that; add columns answers and scores, or"),
        (asked(meta={"answers": ["a"], "scores": [1]}), "it has no answers to compare"),
        (asked(meta={"answers": ["a", 7], "scores": [1, 0]}), "it has no answers to compare"),
        (asked(meta={"answers": ["a", "b"]}), "it has no scores for its 2 answers; give a list of as many"),
        (asked(meta={"answers": ["a", "b"], "scores": [1]}), "it has no scores for its 2 answers"),
        (asked(meta={"answers": ["a", "b"], "scores": [1, "x"]}), "it: scores[1] is 'x', not a number; mend it"),
        (asked(meta={"answers": ["a", "b"], "scores": [True, 0]}), "it: scores[0] is True, not a number; mend it"),
    ],
)
def test_rows_that_are_no_groups(row, wrong):
    with pytest.raises(UserError) as error:
        check_row(row, "it", "group", GRPO().value_columns())
    assert str(error.value).startswith(wrong)
