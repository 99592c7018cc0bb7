"""Credits against float64 golden values, and the identities between them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from holdfast.axes.registry import REGISTRY
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.errors import UserError
from holdfast.methods.credits.batch import BatchCredit
from holdfast.methods.credits.best import BestCredit
from holdfast.methods.credits.gae import GAE
from holdfast.methods.credits.group import GroupCredit
from holdfast.methods.credits.leave_one_out import LeaveOneOut
from holdfast.methods.credits.max_rl import MaxRL
from holdfast.testing import check_method
from holdfast.training.rounds import RoundPlan, lower_by_divergence
from holdfast.training.sampler_mismatch import correct_advantages, measure_mismatch

GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())
LENGTHS = (5, 3, 6)
CREDITS = {
    "group": GroupCredit,
    "loo": LeaveOneOut,
    "batch": BatchCredit,
    "gae": GAE,
    "max_rl": MaxRL,
    "best": BestCredit,
}


def close(values):
    return pytest.approx(values, abs=1e-7)


def made(name: str, **knobs):
    return CREDITS[name](**knobs)


@pytest.mark.parametrize(
    "credit",
    [GroupCredit(scale="none"), LeaveOneOut(), BatchCredit(), MaxRL(), GAE()],
    ids=lambda one: type(one).__name__,
)
def test_every_credit_ends_at_the_policy_that_the_reward_and_its_divergence_ask_for(credit):
    """Rounds of a table of six actions, whose rewards lose k1: they end at p_0 exp(R / beta) / Z."""
    rewards, reference = np.array([2.1, 2.9, 2.3, 2.5, 2.2, 2.7]), np.array([0.3, 0.1, 0.2, 0.15, 0.15, 0.1])
    wanted = reference * np.exp(rewards / 0.5)
    rng, scores, value, rounds, n = np.random.default_rng(0), np.zeros(6), 0.0, 200, 24
    total = np.zeros(6)
    for number in range(rounds):
        chances = np.exp(scores) / np.exp(scores).sum()
        drawn = rng.choice(6, n, p=chances)
        earned = [rewards[[action]] for action in drawn]
        lower_by_divergence(earned, np.log(chances[drawn])[:, None], np.log(reference[drawn])[:, None], 0.5)
        rollouts = RolloutRewards(
            earned, [np.array([0])] * n, np.zeros(n, dtype=int), np.zeros(n, dtype=bool), [np.array([value])] * n
        )
        better = np.concatenate(credit.assign_advantages(rollouts))
        value += 0.1 * (np.concatenate(earned).mean() - value)
        scores += 4 / (1 + 0.1 * number) * (np.bincount(drawn, better, minlength=6) / n - better.mean() * chances)
        total += chances * (number >= rounds // 2)
    np.testing.assert_allclose(total / total.sum(), wanted / wanted.sum(), atol=1e-2)


@pytest.mark.parametrize("name", sorted(REGISTRY["credits"]))
def test_every_credit_keeps_its_promises(name: str) -> None:
    assert check_method(CREDITS[name])[1:] == ["check_advantages", "check_hard_cases", "check_order"]


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


def golden_logps(phase: float) -> list[np.ndarray]:
    """The generator of the golden values: log-probabilities of three answers of 5, 3 and 6 tokens."""
    out = []
    for b, n in enumerate(LENGTHS):
        z = np.array(
            [[1.5 * math.sin(0.9 * (b + 1) + 0.37 * (t + 1) * (v + 1) + phase) for v in range(7)] for t in range(n)]
        )
        out.append(log_softmax(z)[np.arange(n), [(3 * b + 2 * t + 1) % 7 for t in range(n)]])
    return out


def golden_rollouts(beta: float) -> RolloutRewards:
    """Three answers to one prompt with rewards 1, 0, 0.5, less a divergence, and what a value head predicts."""
    old = [logps - 0.1 * np.cos(np.arange(len(logps))) for logps in golden_logps(0.0)]
    rewards = [np.zeros(n) for n in LENGTHS]
    lower_by_divergence(rewards, old, golden_logps(0.15), beta)
    for one, reward in zip(rewards, (1.0, 0.0, 0.5), strict=True):
        one[-1] += reward
    values = [0.5 * np.sin(0.7 * (b + 1) + 0.3 * np.arange(n)) for b, n in enumerate(LENGTHS)]
    ends = [np.array([n - 1]) for n in LENGTHS]
    return RolloutRewards(rewards, ends, np.zeros(3, dtype=int), np.zeros(3, dtype=bool), values)


def outcomes(groups: list[list[float]]) -> RolloutRewards:
    """Answers of one token with these rewards."""
    rewards = [np.array([r]) for group in groups for r in group]
    number = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return RolloutRewards(rewards, [np.array([0])] * len(rewards), number, np.zeros(len(rewards), dtype=bool))


def firsts(advantages: list[np.ndarray]) -> list[float]:
    return [float(one[0]) for one in advantages]


def test_groups_are_compared_as_their_papers_say():
    groups = outcomes([[1, 0, 0, 1], [0, 0, 0, 1], [1, 1, 1, 1]])
    for name, knobs, key in (
        ("group", {"scale": "group"}, "groups (1001)(0001)(1111): grpo"),
        ("group", {"scale": "none"}, "groups: dr_grpo"),
        ("group", {"scale": "batch"}, "groups: scale=batch (std of centred, population)"),
        ("max_rl", {}, "groups: maxrl"),
    ):
        wanted = [value for group in GOLDEN[key] for value in group]
        assert firsts(made(name, **knobs).assign_advantages(groups)) == close(wanted), key


def test_each_credit_gives_its_golden_advantages_on_every_label():
    plain, held = golden_rollouts(0.0), golden_rollouts(0.05)
    assert firsts(made("loo").assign_advantages(plain)) == close(GOLDEN["rloo adv"])
    key = "rloo adv, kl beta=.05 in reward (old log-probs)"
    advantages = made("loo").assign_advantages(held)
    assert firsts(advantages) == close(GOLDEN[key])
    assert all((one == one[0]).all() for one in advantages), "an answer has one advantage"
    for one, wanted in zip(
        made("batch").assign_advantages(held), GOLDEN["reinforce++ adv (beta .05, gamma 1)"], strict=True
    ):
        assert one.tolist() == close(wanted)
    assert firsts(made("batch", baseline=True).assign_advantages(plain)) == close(
        GOLDEN["reinforce++ baseline adv (one group)"]
    )
    raw, white = GAE(whiten=False).assign_advantages(held), GAE().assign_advantages(held)
    for one, wanted in zip(raw, GOLDEN["gae g=1 lam=.95 (rewards with kl beta .05)"], strict=True):
        assert one.tolist() == close(wanted)
    for one, wanted in zip(white, GOLDEN["gae whitened"], strict=True):
        assert one.tolist() == close(wanted)


def episode(rewards, values, ends, truncated=False, after=0.0):
    return RolloutRewards(
        [np.array(rewards, dtype=float)], [np.array(ends)], np.zeros(1, dtype=int), np.array([truncated]),
        [np.array(values, dtype=float)], np.array([after]),
    )  # fmt: skip


def test_what_the_environment_says_costs_no_discount():
    """Two turns of two tokens, the reward at the end; between them stand tokens of the environment."""
    for gamma, lam in ((1.0, 0.95), (0.9, 0.95), (1.0, 1.0)):
        credit = GAE(gamma=gamma, lam=lam, whiten=False)
        (one,) = credit.assign_advantages(episode([0, 0, 0, 1], [0.1, 0.2, 0.4, 0.5], [1, 3]))
        assert one.tolist() == close(GOLDEN[f"turns gae g={gamma} lam={lam}"])


def step_through_all(rewards, values, labels, gamma, lam):
    """GAE that goes through the environment's tokens too, each worth nothing: what OpenRLHF 3c3be623 does."""
    advantages, carry, after = [], 0.0, 0.0
    for reward, value, is_label in zip(rewards[::-1], values[::-1], labels[::-1], strict=True):
        carry = reward + gamma * after - value * is_label + gamma * lam * carry
        after = value * is_label
        advantages.append(carry)
    return [one for one, is_label in zip(advantages[::-1], labels, strict=True) if is_label]


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.95), (1.0, 1.0)])
def test_stepping_through_the_environments_tokens_is_another_estimate_but_for_no_discount(gamma, lam):
    theirs = GOLDEN[f"turns gae as OpenRLHF 3c3be623 g={gamma} lam={lam}"]
    values, labels = [0.1, 0.2, 9, 9, 0.4, 0.5], [1, 1, 0, 0, 1, 1]
    assert step_through_all([0, 0, 0, 0, 0, 1], values, labels, gamma, lam) == close(theirs)
    (ours,) = GAE(gamma=gamma, lam=lam, whiten=False).assign_advantages(
        episode([0, 0, 0, 1], [0.1, 0.2, 0.4, 0.5], [1, 3])
    )
    assert (ours.tolist() == close(theirs)) == (gamma == lam == 1)


def test_nothing_flows_from_an_episode_into_one_that_was_cut_before_it():
    """The code of 2501.17161 lets the next episode's reward and value into an episode that a limit cut."""
    leaked = GOLDEN["leak: truncated r=-1 V=.5, next episode r=5 V=2 (as the code)"]
    credit = GAE(gamma=0.9, lam=0.95, whiten=False)
    for after, key in ((0.8, "no leak, bootstrapped with V(s')=.8"), (0.0, "no leak, truncation as an end")):
        two = RolloutRewards(
            [np.array([-1.0]), np.array([5.0])], [np.array([0])] * 2, np.zeros(2, dtype=int), np.array([True, False]),
            [np.array([0.5]), np.array([2.0])], np.array([after, 0.0]),
        )  # fmt: skip
        advantages = firsts(credit.assign_advantages(two))
        assert advantages == close(GOLDEN[key])
        assert advantages[0] != close(leaked[0])


def test_turns_as_actions_and_what_a_limit_cut():
    credit = GAE(gamma=0.9, lam=0.95, unit="turn", whiten=False)
    turns = episode([0, -1, -1, 0, 5], [0.5, 9, 1, 2, 9], [1, 2, 4])  # predictions inside of a turn do not count
    (one,) = credit.assign_advantages(turns)
    wanted = GOLDEN["turn gae r=(-1,-1,5) V=(.5,1,2) g=.9 lam=.95"]
    assert one.tolist() == close([wanted[0], wanted[0], wanted[1], wanted[2], wanted[2]])
    cut = credit.assign_advantages(episode([-1], [0.5], [0], truncated=True, after=0.8))
    assert firsts(cut)[0] == close(GOLDEN["no leak, bootstrapped with V(s')=.8"][0])
    ended = credit.assign_advantages(episode([-1], [0.5], [0]))
    assert firsts(ended)[0] == close(GOLDEN["no leak, truncation as an end"][0])


def test_the_divergence_that_is_taken_off_rewards_is_k1():
    rewards = [np.zeros(n) for n in LENGTHS]
    lower_by_divergence(rewards, golden_logps(0.0), golden_logps(0.15), 1.0)
    assert [-one.sum() for one in rewards] == close(GOLDEN["k1 sum"])


def golden_sampler():
    """What a sampler says of the golden answers that computes something else than the trainer, and what that says."""
    trainer = [logps - 0.1 * np.cos(np.arange(len(logps))) for logps in golden_logps(0.0)]
    return [t + 0.25 * np.sin(np.arange(len(t)) + b) for b, t in enumerate(trainer)], trainer


def test_how_far_sampler_and_trainer_are_apart():
    figures = measure_mismatch(*golden_sampler())
    assert all(count == 14 for name, (_, count) in figures.items() if name != "sampler/largest difference")
    kinds = [figures[name][0] / 14 for name in ("sampler/kl by k1", "sampler/kl")]
    assert kinds == close(GOLDEN["mismatch k1 k3 mean (rollout||trainer)"])
    assert figures["sampler/effective share"][0] / 14 == close(GOLDEN["ess / n (token weights)"])
    assert measure_mismatch([[0.0, -300.0]], [np.array([-300.0, 0.0])])["sampler/effective share"] == (1.0, 2.0)


def test_what_the_sampler_drew_is_weighed_by_what_the_trainer_says_of_it():
    sampler, trainer = golden_sampler()

    def weigh(form, level, bound):
        advantages = [np.full(n, -2.0) for n in LENGTHS]
        plan = RoundPlan(correction=form, correction_level=level, correction_bound=bound)
        figures = correct_advantages(advantages, sampler, trainer, plan)
        return [(one / -2).tolist() for one in advantages], figures["sampler/cut"]

    assert weigh("truncate", "token", 2.0) == ([close(one) for one in GOLDEN["tis token cap 2"]], (0.0, 14.0))
    kept, cut = weigh("mask", "token", 2.0)
    assert sum(value > 0 for one in kept for value in one) / 14 == GOLDEN["mis token [.5,2] kept share"]
    every = [value for one in GOLDEN["tis token cap 2"] for value in one]
    kept, cut = weigh("mask", "token", 1.2)
    assert [value for one in kept for value in one] == close([v if 1 / 1.2 <= v <= 1.2 else 0.0 for v in every])
    assert cut == (float(sum(not 1 / 1.2 <= v <= 1.2 for v in every)), 14.0)
    assert weigh("truncate", "token", 1.2)[0][0] == close([min(v, 1.2) for v in every[:5]])
    answers, _ = weigh("truncate", "sequence", 2.0)
    assert [one[0] for one in answers] == close(GOLDEN["sequence geometric ratio"])
    assert all(len(set(one)) == 1 for one in answers)
    unknown = [np.ones(2)]
    assert (
        correct_advantages(unknown, [()], [np.array([-1.0, -2.0])], RoundPlan(correction="mask"))["sampler/cut"][0] == 0
    )
    assert correct_advantages(unknown, sampler, trainer, RoundPlan()) == {}
    assert unknown[0].tolist() == [1, 1], "a sampler that gives no numbers is not corrected"


def test_a_long_answer_that_differs_little_is_not_masked():
    """TRL weighs sequences by the sum of differences (#5814): .012 nats a token over 100 tokens leave a bound of 3."""
    advantages = [np.ones(100)]
    plan = RoundPlan(correction="mask", correction_level="sequence", correction_bound=3.0)
    figures = correct_advantages(advantages, [[-1.0] * 100], [np.full(100, -0.988)], plan)
    assert figures["sampler/cut"] == (0, 100)
    assert advantages[0] == close(np.exp(0.012))
    assert math.exp(0.012 * 100) > 3


def test_limits_of_each_other():
    rollouts = golden_rollouts(0.05)
    returns = [np.cumsum(r[::-1])[::-1] for r in rollouts.rewards]
    far = GAE(lam=1, whiten=False).assign_advantages(rollouts)
    near = GAE(lam=0, gamma=0.9, whiten=False).assign_advantages(rollouts)
    for i, values in enumerate(rollouts.values):
        assert far[i] == close(returns[i] - values)
        assert near[i] == close(rollouts.rewards[i] + 0.9 * np.append(values[1:], 0) - values)
    some = outcomes([[0.3, 0.9, 0.1], [1, 0.5, 0.2]])
    alone, centred = made("loo").assign_advantages(some), made("group", scale="none").assign_advantages(some)
    assert firsts(alone) == close([1.5 * value for value in firsts(centred)])
    one_group = outcomes([[0.3, 0.9, 0.1, 1.0]])
    white = made("batch", baseline=True).assign_advantages(one_group)
    assert firsts(white) == close(firsts(made("group", scale="batch").assign_advantages(one_group)))
    equal = outcomes([[1, 1], [0, 0]])
    for name in ("group", "loo", "max_rl"):
        assert firsts(made(name).assign_advantages(equal)) == [0, 0, 0, 0], name
    assert firsts(made("loo").assign_advantages(outcomes([[1], [0]]))) == [0, 0], "nothing to compare with"


def test_what_a_credit_cannot_use_is_said():
    with pytest.raises(UserError, match="needs rewards of 0 and above; one is -1"):
        made("max_rl").assign_advantages(outcomes([[1, -1]]))
    with pytest.raises(UserError, match="credit gae needs a value head"):
        made("gae").assign_advantages(outcomes([[1, 0]]))


def test_the_best_share_counts_of_a_prompt_or_of_the_round() -> None:
    returns, groups = [0.2, 0.9, 0.1, 0.9, 0.5, 1.0, 0.0, 0.3, 0.6, 0.4], np.repeat([0, 1], 5)
    rollouts = RolloutRewards(
        [np.array([0.0, reward]) for reward in returns], [np.array([1])] * 10, groups, np.zeros(10, dtype=bool)
    )
    for knobs, kept in (
        ({}, [1, 5]), ({"share": 0.4}, [1, 3, 5, 8]), ({"among": "round"}, [1, 5]),
        ({"among": "round", "share": 0.3}, [1, 3, 5]), ({"share": 0.01}, [1, 5]),
    ):  # fmt: skip
        advantages = BestCredit(**knobs).assign_advantages(rollouts)
        assert [i for i, one in enumerate(advantages) if one.tolist() == [1, 1]] == kept
        assert sum(one.sum() for one in advantages) == 2 * len(kept)
