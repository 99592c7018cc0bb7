"""The clipped policy gradient and its credits against TRL's GRPO and RLOO on the same rollouts (a development tool)."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.methods.credits.group import GroupCredit
from holdfast.methods.credits.leave_one_out import LeaveOneOut
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.models.policy import Policy, precompute_reference

trl = pytest.importorskip("trl", reason="trl is a development dependency")
datasets = pytest.importorskip("datasets")
pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

REWARDS, LENGTHS, PROMPT = (1.0, 0.0, 0.5, 0.2), (7, 3, 12, 5), 4


def credit_rewards(credit) -> list[np.ndarray]:
    """The advantages of four answers to one prompt, one for each label."""
    rewards = [np.append(np.zeros(n - 1), reward) for n, reward in zip(LENGTHS, REWARDS, strict=True)]
    ends = [np.array([n - 1]) for n in LENGTHS]
    return credit.assign_advantages(RolloutRewards(rewards, ends, np.zeros(4, dtype=int), np.zeros(4, dtype=bool)))


def rollouts_of(model, credit) -> list[EncodedSequence]:
    """Four answers, written by a policy that is a little away from the model."""
    rng, sequences = np.random.default_rng(0), []
    prompt = rng.integers(5, 90, PROMPT)
    for row, (length, advantages) in enumerate(zip(LENGTHS, credit_rewards(credit), strict=True)):
        ids = np.append(prompt, rng.integers(5, 90, length)).astype(np.int32)
        sequences.append(EncodedSequence(ids, np.arange(len(ids)) >= PROMPT, row))
        with torch.no_grad():
            logps = Policy(model).token_logps(collate_sequences(sequences[-1:], "padded", 0)).double().numpy()
        own = {"advantages": advantages, "behaviour": logps + rng.normal(scale=0.2, size=length)}
        for name, values in own.items():
            sequences[-1].token_values[name] = np.append(np.zeros(PROMPT), values)
    return sequences


def as_trl_has_it(batch, reference, advantages) -> dict[str, torch.Tensor]:
    """The batch as TRL's trainers hand it to their losses."""
    place = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]  # [S, T]
    answers, old, base = torch.zeros(place.shape, dtype=torch.long), torch.zeros(place.shape), torch.zeros(place.shape)
    answers[place], old[place], base[place] = batch.labels, batch.token_values["behaviour"], reference
    prompts = batch.input_ids[:, :PROMPT]
    return {
        "prompt_ids": prompts, "prompt_mask": torch.ones_like(prompts), "completion_ids": answers,
        "completion_mask": place.long(), "old_per_token_logps": old, "old_logps": old.sum(1),
        "ref_per_token_logps": base, "advantages": advantages, "num_items_in_batch": place.sum(),
    }  # fmt: skip


def compare(tiny, tmp_path, trainer_class, config_class, objective, credit, advantages, knobs) -> None:
    model, tokenizer = tiny("llama", seed=1)
    theirs_model = tiny("llama", seed=1)[0]
    theirs_model.save_pretrained(tmp_path)  # from where TRL loads its reference, which is not used here
    theirs_model = type(theirs_model).from_pretrained(tmp_path)
    config = config_class(
        output_dir=str(tmp_path), report_to=[], use_cpu=True, bf16=False, gradient_checkpointing=False,
        per_device_train_batch_size=4, num_generations=4, **knobs,
    )  # fmt: skip
    trainer = trainer_class(
        theirs_model, reward_funcs=lambda completions, **_: [0.0] * len(completions), args=config,
        train_dataset=datasets.Dataset.from_dict({"prompt": ["a"] * 4}), processing_class=tokenizer,
    )  # fmt: skip
    batch = collate_sequences(rollouts_of(model, credit), "padded", 0)
    other = Policy(tiny("llama", seed=2)[0])
    precompute_reference(other, [batch])
    reference = other.reference_logps(batch)
    theirs_model.train()
    theirs_model.zero_grad()
    trainer.current_gradient_accumulation_steps = 1
    theirs = trainer.compute_loss(theirs_model, as_trl_has_it(batch, reference, advantages))
    theirs.backward()
    policy = Policy(model.train(), reference=other.reference)
    sums, counts = objective.losses(policy, batch).sums, objective.normalizers(batch)
    ours = sum(sums[term] / counts[term] for term in sums)
    ours.backward()
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)
    pairs = list(zip(model.parameters(), theirs_model.parameters(), strict=True))
    whole = torch.stack([q.grad.norm() for _, q in pairs]).norm()
    apart = torch.stack([torch.dist(p.grad, q.grad) for p, q in pairs]).norm()
    assert whole > 0
    assert apart <= 1e-5 * whole


@pytest.mark.parametrize(("objective", "knobs"), [
    (PolicyGradient(reduction="sequence"), {"loss_type": "grpo"}),
    (PolicyGradient(), {"loss_type": "bnpo"}),
    (PolicyGradient(clip_high=0.28), {"loss_type": "dapo", "epsilon_high": 0.28}),
    (PolicyGradient(reduction="constant", longest=24), {"loss_type": "dr_grpo", "max_completion_length": 24}),
    (PolicyGradient(level="sequence", reduction="sequence", clip=0.01),
     {"loss_type": "grpo", "importance_sampling_level": "sequence", "epsilon": 0.01}),
    (PolicyGradient(surrogate="cispo", clip_high=0.1), {"loss_type": "cispo", "epsilon_high": 1.1}),
    (PolicyGradient(dual_clip=1.3), {"loss_type": "bnpo", "delta": 1.3}),
    (PolicyGradient(beta=0.3, divergence="k3"),
     {"loss_type": "bnpo", "beta": 0.3, "use_bias_correction_kl": False}),
    (PolicyGradient(beta=0.3, divergence="ratio_k3"), {"loss_type": "bnpo", "beta": 0.3}),
])  # fmt: skip
def test_grpo(tiny, tmp_path, objective, knobs):
    rewards = torch.tensor(REWARDS)
    advantages = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
    compare(tiny, tmp_path, trl.GRPOTrainer, trl.GRPOConfig, objective, GroupCredit(), advantages, knobs)


def test_rloo(tiny, tmp_path):
    rewards = torch.tensor(REWARDS)
    advantages = rewards - (rewards.sum() - rewards) / 3
    objective = PolicyGradient(level="answer", reduction="sequence")
    compare(tiny, tmp_path, trl.RLOOTrainer, trl.RLOOConfig, objective, LeaveOneOut(), advantages, {"beta": 0.0})
