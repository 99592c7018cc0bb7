"""What other trainers of this kind get wrong, each as a test of ours; where the defect was seen stands beside it."""

from __future__ import annotations

import gc
import math
import os
import signal
from zlib import crc32

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from holdfast.axes.engine import Sample
from holdfast.axes.environment import Turn
from holdfast.axes.registry import find_method
from holdfast.data.batching.batches import EncodedSequence, collate_sequences
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.errors import UserInterrupt
from holdfast.methods.credits.batch import BatchCredit
from holdfast.methods.credits.gae import GAE
from holdfast.methods.credits.group import GroupCredit
from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient
from holdfast.models.policy import Policy
from training.test_rollouts import OneTurn, SmallLetters, fit, make_source

CLIP = 0.2


def two_turns(rewards, values=None):
    """An episode of two turns of two labels; between them the environment speaks."""
    values = None if values is None else [np.array(values)]
    return RolloutRewards(
        [np.array(rewards, dtype=float)], [np.array([1, 3])], np.zeros(1, dtype=int), np.zeros(1, dtype=bool), values,
        np.zeros(1),
    )  # fmt: skip


def test_gae_does_not_step_through_what_the_environment_says():
    """OpenRLHF 3c3be623 steps through masked tokens, each with the value 0 and a discount: .7213 .6540 there."""
    (ours,) = GAE(whiten=False).assign_advantages(two_turns([0, 0, 0, 1], [0.1, 0.2, 0.4, 0.5]))
    assert ours.tolist() == pytest.approx([0.8089375, 0.74625, 0.575, 0.5], abs=1e-9)


def test_reinforce_pp_pays_the_turns_before_an_answer_of_the_environment():
    """verl b178a3cd5 resets the return at every masked token, so that actions before a tool's result get nothing."""
    assert two_turns([0, 0, 0, 1]).rewards_to_come()[0].tolist() == [1, 1, 1, 1]
    one, other = two_turns([0, 0, 0, 1]), two_turns([0, 0, 0, 0])
    both = RolloutRewards(
        one.rewards + other.rewards, one.turn_ends * 2, np.array([0, 1]), np.zeros(2, dtype=bool)
    )  # fmt: skip
    advantages = BatchCredit().assign_advantages(both)
    assert advantages[0].tolist() == pytest.approx([1.0] * 4, abs=1e-6)


def test_rewards_are_not_clipped_and_a_knob_without_use_is_refused():
    """OpenRLHF clips rewards after the baseline is subtracted, clamps each divergence, and overwrites gamma."""
    rewards = [np.array([250.0]), np.array([-50.0])]
    rollouts = RolloutRewards(rewards, [np.array([0])] * 2, np.zeros(2, dtype=int), np.zeros(2, dtype=bool))
    assert [one.tolist() for one in GroupCredit(scale="none").assign_advantages(rollouts)] == [[150.0], [-150.0]]
    with pytest.raises(ValidationError, match="gamma"):
        find_method("credits", "group")(gamma=0.9)


def test_a_divergence_of_many_nats_is_taken_off_as_it_is(tiny, tmp_path):
    """OpenRLHF clamps it to 10 on either side."""
    model, source = make_source(tiny, tmp_path, environment=OneTurn(), credit="loo", divergence=1.0)
    policy, rewards = Policy(model), list[np.ndarray]()
    policy.reference_logps = lambda batch: policy.token_logps(batch) - 40.0

    class Keep(type(source.credit)):
        def assign_advantages(self, rollouts):
            rewards.extend(rollouts.rewards)
            return super().assign_advantages(rollouts)

    source.credit = Keep()
    source.play_round(0, policy)
    assert all(reward[:-1] == pytest.approx(-40, abs=1e-3) for reward in rewards)
    assert all(-40.01 <= reward[-1] <= -38.99 for reward in rewards), "the reward of a turn stands on its last label"


def sample_from(source, choose_ids):
    """Let answers be what `choose_ids` gives for their keys."""
    tokenizer = source.chat.tokenizer

    def draw(requests, params):
        drawn = {request.key: choose_ids(request.key) for request in requests}
        return {k: [Sample(k, 0, tokenizer.decode(ids[:-1]), "stop", len(ids), ids=ids)] for k, ids in drawn.items()}

    source.build_sampler = lambda policy, name: draw


def test_every_sampled_token_is_trained_on_and_none_is_encoded_again(tiny, tmp_path):
    """The code of 2501.17161 leaves the first two tokens of an answer out of its probability, and trains a newline that
    is never generated; whoever encodes the text again trains other tokens than were sampled.
    """
    model, source = make_source(tiny, tmp_path, environment=OneTurn(), drop_equal=False, updates=2)
    tokenizer, (end, *_) = source.chat.tokenizer, sorted(source.chat.stop_ids)
    pieces = [(i, tokenizer.convert_ids_to_tokens(i)) for i in range(len(tokenizer))]
    whole, piece = next((i, p) for i, p in pieces if len(p) == 2 and p.isascii() and p.isalpha())
    parts = tuple(tokenizer.convert_tokens_to_ids(list(piece)))
    assert tokenizer.encode(tokenizer.decode(parts), add_special_tokens=False) == [whole], "two ways to write it"
    sample_from(source, lambda key: (*parts, end))
    for sequence in source.play_round(0, Policy(model)).sequences:
        assert sequence.ids[sequence.label_mask].tolist() == [*parts, end]
        assert sequence.label_mask[-3:].all()
        assert (sequence.token_values["behaviour"][-3:] < 0).all(), "each has its probability"
        assert (sequence.token_values["behaviour"][:-3] == 0).all()


def test_no_logits_of_a_round_are_kept(tiny, tmp_path):
    """TRL's PPO keeps those of all that was generated, [B, T, V]."""

    def live_logits():
        return [one for one in gc.get_objects() if type(one) is torch.Tensor and one.ndim > 1 and one.shape[-1] == size]

    model, source = make_source(tiny, tmp_path, environment=OneTurn(), drop_equal=False)
    size = model.config.vocab_size
    before = live_logits()
    assert source.play_round(0, Policy(model)).sequences
    assert [one.shape for one in live_logits() if all(one is not other for other in before)] == []


class Talkative(SmallLetters):
    """Says much between two turns."""

    words: int = 0

    def step(self, state, action):
        return Turn(state, [{"role": "user", "content": "on " * self.words + "more"}], float(len(action)))


def test_what_an_environment_says_changes_no_credit_however_long_it_is(tiny, tmp_path):
    """OpenRLHF and verl count its tokens; here they stand in no label, and cost no discount."""
    credits = []
    for words in (0, 1, 30):
        model, source = make_source(
            tiny, tmp_path, objective=PolicyGradient(value_weight=0.5), environment=Talkative(words=words),
            credit=GAE(gamma=0.9, lam=0.8),
        )  # fmt: skip
        end = min(source.chat.stop_ids)
        sample_from(source, lambda key, end=end: (40 + crc32(key.encode()) % 50, 41 + crc32(key.encode()) % 7, end))
        policy = Policy(model)
        policy.predict_values = lambda batch: batch.labels.float() / 100
        policy.predict_values_at = lambda batch, places: torch.full((len(places),), 0.7)
        sequences = source.play_round(0, policy).sequences
        assert any(len(s.ids) > 80 for s in sequences) == (words == 30)
        credits.append([s.token_values[n][s.label_mask] for s in sequences for n in ("advantages", "returns")])
    for other in credits[1:]:
        np.testing.assert_array_equal(np.concatenate(credits[0]), np.concatenate(other))


def test_log_probabilities_are_fp32_where_the_weights_are_bf16(tiny):
    """Cast to bf16 before they are compared, they move in steps of a sixteenth, more than half of a clip of 0.1."""
    logps = Policy(tiny("llama")[0].bfloat16()).token_logps(batch_of((40,), 0.0))
    assert logps.dtype == torch.float32
    assert (logps.bfloat16().float() != logps).any()


def batch_of(lengths, away, advantage=1.0):
    """A padded batch of answers whose tokens all moved by `away` nats since they were written."""
    sequences = []
    for row, n in enumerate(lengths):
        sequence = EncodedSequence(np.zeros(n + 1, dtype=np.int32), np.arange(n + 1) > 0, row)
        sequence.token_values = {"advantages": np.full(n + 1, advantage), "behaviour": np.full(n + 1, -1.0 - away)}
        sequences.append(sequence)
    return collate_sequences(sequences, "padded", 0)


class Constant:
    """Says -1 of every token."""

    def token_logps(self, batch):
        return torch.full((len(batch.labels),), -1.0)


def test_figures_are_of_tokens_and_not_of_padding():
    """TRL's PPO (f2cd577) counts padding in ratios, divergences and entropies."""
    together = PolicyGradient().losses(Constant(), batch_of((2, 50), 0.1)).metrics
    apart = [PolicyGradient().losses(Constant(), batch_of((n,), 0.1)).metrics for n in (2, 50)]
    for name, (total, count) in together.items():
        assert count == 52
        assert total == pytest.approx(sum(one[name][0] for one in apart), rel=1e-5)
    assert together["ratio/mean"][0] / 52 == pytest.approx(math.exp(0.1), rel=1e-5)


def test_a_long_answer_that_moved_little_stays_within_the_clip():
    """TRL weighs sequences by the sum of differences: .012 nats a token over 100 tokens are masked out (#5814)."""
    by_mean = PolicyGradient(level="sequence", clip=CLIP).losses(Constant(), batch_of((100,), 0.012))
    by_sum = PolicyGradient(level="answer", clip=CLIP).losses(Constant(), batch_of((100,), 0.012))
    assert by_mean.metrics["ratio/clipped"][0] == 0
    assert by_sum.metrics["ratio/clipped"][0] == 100


@pytest.mark.parametrize("level", ["token", "sequence", "answer"])
def test_a_bad_token_is_pushed_down_however_likely_it_has_become(level):
    """The code of 2501.17161 takes the clipped term alone above a ratio of 10, which has no gradient."""
    logps = torch.full((1,), -1.0, requires_grad=True)
    policy = Constant()
    policy.token_logps = lambda batch: logps
    PolicyGradient(level=level).losses(policy, batch_of((1,), 3.0, advantage=-1.0)).sums["policy"].backward()
    assert float(logps.grad) == pytest.approx(math.exp(3), rel=1e-5)


def test_rloo_keeps_learning_from_long_answers():
    """TRL's RLOO clips the product over the whole answer: 200 tokens leave the range at .1 % each."""
    by_token = PolicyGradient(clip=CLIP).losses(Constant(), batch_of((200,), 0.001))
    as_theirs = PolicyGradient(level="answer", clip=CLIP).losses(Constant(), batch_of((200,), 0.001))
    assert by_token.metrics["ratio/clipped"][0] == 0
    assert as_theirs.metrics["ratio/clipped"][0] == 200


def test_ppo_clips_gradients_and_goes_on_within_a_round(tiny, tmp_path):
    """TRL's PPO reads no max_grad_norm and cannot resume; its GRPO draws again when it resumes inside a round."""
    ppo, knobs = PolicyGradient(value_weight=0.5), {"credit": "gae", "updates": 2, "minibatches": 2, "rate": 0.005}
    norms, cuts = list[float](), list[bool]()

    def watch(log):
        norms.append(log.grad_norm)
        cuts.append(log.clipped)

    for name in ("calm", "cut"):
        (tmp_path / name).mkdir()
    calm, _, drawn = fit(tiny, tmp_path / "calm", 8, watch, ppo, **knobs)
    assert min(norms) > 0
    assert any(cuts), "what is above the limit is cut"
    with pytest.raises(UserInterrupt):
        fit(
            tiny, tmp_path / "cut", 8, lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 6 else None, ppo,
            **knobs,
        )  # fmt: skip
    again, _, drawn_again = fit(tiny, tmp_path / "cut", 8, objective=ppo, **knobs)
    assert (again.resumed_from, drawn_again) == (6, drawn)
    for one, two in zip(calm.model.parameters(), again.model.parameters(), strict=True):
        assert torch.equal(one, two)
    assert torch.equal(calm.value_head.weight, again.value_head.weight)


class Fragile(SmallLetters):
    """Cannot score answers that begin with a character of an odd number."""

    turns: int = 1

    def step(self, state, action):
        if action and ord(action[0]) % 2:
            raise ValueError("cannot be scored")
        return Turn(state, [], float(len(action)), done=True)


def test_an_answer_that_cannot_be_scored_leaves_its_group(tiny, tmp_path):
    """Counted as 0 it would lower the mean of its group, and look bad without being so."""
    model, source = make_source(tiny, tmp_path, environment=Fragile(), credit="loo", n=8)
    played = source.play_round(0, Policy(model))
    failed, of = played.figures["rollouts/failed"]
    assert 0 < failed < of
    assert 0 < len(played.sequences) <= of - failed
    total = sum(s.token_values["advantages"][-1] for s in played.sequences)
    assert total == pytest.approx(0, abs=1e-6), "each group is compared with itself alone"
    alone = make_source(tiny, tmp_path, environment=OneTurn(), n=1)[1]
    assert alone.play_round(0, Policy(model)).sequences == [], "one that is alone in its group teaches nothing"
    alone = make_source(tiny, tmp_path, environment=OneTurn(), n=1, credit="batch")[1]
    assert len(alone.play_round(0, Policy(model)).sequences) == 3, "but for a credit of the whole round (REINFORCE++)"
