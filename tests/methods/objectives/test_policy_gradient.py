"""The clipped policy gradient: golden values, limits, and what each of its relatives changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from holdfast.methods.objectives.scored.policy_gradient import PolicyGradient

GOLDEN = json.loads((Path(__file__).parents[1] / "credits" / "golden.json").read_text())


class Spoken:
    """A policy that says what it is told."""

    def __init__(self, logps, values=None, reference=None):
        self.logps, self.values, self.reference = logps, values, reference

    def token_logps(self, batch):
        return self.logps

    def predict_values(self, batch):
        return self.values

    def reference_logps(self, batch):
        return self.reference


@pytest.fixture
def golden_step(golden_logps, golden_batch):
    """`golden_step()` -> batch with the golden behaviour, and the log-probabilities now, in float64."""

    def make(advantages):
        now = torch.cat(golden_logps())
        old = torch.cat([logps - 0.1 * torch.cos(torch.arange(len(logps))) for logps in golden_logps()])
        batch = golden_batch()
        batch.weights = batch.weights.double()
        batch.token_values = {"behaviour": old, "advantages": advantages}
        return batch, now

    return make


def loss_of(objective, policy, batch, term="policy"):
    return float(objective.losses(policy, batch).sums[term] / objective.normalizers(batch)[term])


def test_golden_losses(golden_step):
    white = torch.tensor([v for one in GOLDEN["gae whitened"] for v in one], dtype=torch.float64)
    batch, now = golden_step(white)
    assert loss_of(PolicyGradient(), Spoken(now), batch) == pytest.approx(
        GOLDEN["ppo policy loss token-mean eps .2"], abs=1e-7
    )
    clipped, _ = PolicyGradient().losses(Spoken(now), batch).metrics["ratio/clipped"]
    assert clipped == GOLDEN["ppo clip share"]
    raw = torch.tensor(
        [v for one in GOLDEN["gae g=1 lam=.95 (rewards with kl beta .05)"] for v in one], dtype=torch.float64
    )
    values = torch.cat(
        [0.5 * torch.sin(0.7 * (b + 1) + 0.3 * torch.arange(n)) for b, n in enumerate((5, 3, 6))]
    ).double()
    turn = torch.cat([torch.arange(n) for n in (5, 3, 6)]).double()
    batch.token_values |= {"returns": raw + values, "old_values": values}
    objective = PolicyGradient(value_weight=1.0)
    value = loss_of(objective, Spoken(now, values + 0.3 * turn.cos()), batch, "value")
    assert value == pytest.approx(GOLDEN["ppo value loss token-mean eps_v .2"], abs=1e-6)


def test_golden_loss_of_rloo(golden_step):
    key = "rloo adv, kl beta=.05 in reward (old log-probs)"
    batch, now = golden_step(
        torch.repeat_interleave(torch.tensor(GOLDEN[key], dtype=torch.float64), torch.tensor([5, 3, 6]))
    )
    objective = PolicyGradient(level="answer", reduction="sequence")
    firsts = [0, 5, 8]
    ratios = objective._compute_ratios(now - batch.token_values["behaviour"], batch)[firsts]
    np.testing.assert_allclose(ratios, GOLDEN["rloo sequence ratio"], atol=1e-8)
    assert loss_of(objective, Spoken(now), batch) == pytest.approx(GOLDEN["rloo loss eps=.2 (sequence)"], abs=1e-7)


def test_golden_ratios_of_answers_to_a_sampler(golden_step):
    batch, _ = golden_step(torch.zeros(14, dtype=torch.float64))
    turn = torch.cat([b + torch.arange(n) for b, n in enumerate((5, 3, 6))]).double()
    away = -0.25 * turn.sin()
    for level, key in (("sequence", "sequence geometric ratio"), ("answer", "sequence product ratio")):
        ratios = PolicyGradient(level=level)._compute_ratios(away, batch)[[0, 5, 8]]
        np.testing.assert_allclose(ratios, GOLDEN[key], atol=1e-8)


def test_golden_estimate_divergences(golden_step, golden_logps):
    batch, now = golden_step(torch.zeros(14, dtype=torch.float64))
    before = torch.cat(golden_logps(0.15))
    for name in ("k2", "k3"):
        objective = PolicyGradient(beta=1.0, divergence=name)
        total = float(objective.losses(Spoken(now, reference=before), batch).sums["divergence"])
        assert total == pytest.approx(sum(GOLDEN[f"{name} sum"]), abs=1e-7)
    assert PolicyGradient(beta=1.0).needs_reference
    assert not PolicyGradient().needs_reference


def test_the_gradients_of_the_divergences_are_those_of_the_two_kls():
    """Of a table of four actions, over its own samples: k2 and ratio_k3 pull as KL(p || p0), k3 as KL(p0 || p)."""
    scores = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)

    def gradient(loss):
        return torch.autograd.grad(loss, scores, retain_graph=True)[0]

    logps = scores.log_softmax(0)
    chances, d = logps.exp(), logps - reference.log()
    forward, backward = gradient((chances * d).sum()), gradient(-(reference * d).sum())
    for name, wanted in (("k2", forward), ("ratio_k3", forward), ("k3", backward)):
        ratio = (logps - logps.detach()).exp()
        made = gradient(
            (chances.detach() * PolicyGradient(beta=1, divergence=name)._estimate_divergences(d, ratio)).sum()
        )
        torch.testing.assert_close(made, wanted, atol=1e-12, rtol=1e-9)


REWARDS = torch.tensor([1.0, 0.0, 0.5, 0.2], dtype=torch.float64)
TOWARDS = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REVERSE = [0.74855044, 0.07597896, 0.13768816, 0.03778243]  # p_0 exp(R / beta) / Z
FORWARD = [0.70894043, 0.11699454, 0.12785906, 0.04620597]  # beta p_0 / (1.28211115 - R)


@pytest.mark.parametrize(
    ("where", "optimum"), [("reward", REVERSE), ("k2", REVERSE), ("ratio_k3", REVERSE), ("k3", FORWARD)]
)
def test_each_divergence_has_its_optimum(where, optimum):
    """The expected step over a table of four actions, taken until nothing moves; k1 is a part of the reward."""
    objective = PolicyGradient(beta=0.5, divergence="k2" if where == "reward" else where)
    scores = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    for _ in range(90):
        logps = scores.log_softmax(0)
        chances, away = logps.detach().exp(), logps - TOWARDS.log()
        ratio, worth = (logps - logps.detach()).exp(), REWARDS
        if where == "reward":
            worth = REWARDS - 0.5 * away.detach()
        losses = objective._surrogate_losses(ratio, logps, worth - (chances * worth).sum(), 0.2)
        if where != "reward":
            losses = losses + objective.beta * objective._estimate_divergences(away, ratio)
        (slope,) = torch.autograd.grad((chances * losses).sum(), scores)
        with torch.no_grad():
            scores -= 0.7 * slope / chances  # of the natural gradient, so that few steps are enough
    np.testing.assert_allclose(scores.softmax(0).detach(), optimum, atol=1e-6)


def test_as_a_loss_k1_has_no_gradient():
    logps = torch.tensor([0.3, -0.2, 0.9, 0.0], dtype=torch.float64, requires_grad=True)
    away = logps.log_softmax(0) - TOWARDS.log()
    (slope,) = torch.autograd.grad((logps.detach().softmax(0) * away).sum(), logps)
    torch.testing.assert_close(slope, torch.zeros_like(slope), atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="k2"):
        PolicyGradient(beta=0.5, divergence="k1")


@pytest.mark.parametrize(("knob", "other"), [({"divergence": "k3"}, "beta"), ({"value_clip": None}, "value_weight")])
def test_a_knob_without_effect_is_refused(knob, other):
    with pytest.raises(ValueError, match=f"{next(iter(knob))} has no effect without {other}"):
        PolicyGradient(**knob)


def test_on_policy_every_form_is_the_plain_policy_gradient(golden_step):
    advantages = torch.linspace(-1, 1, 14, dtype=torch.float64)
    batch, now = golden_step(advantages)
    logps = now.clone().requires_grad_()
    batch.token_values["behaviour"] = now
    for knobs in ({}, {"surrogate": "cispo"}, {"dual_clip": 3.0}, {"clip_high": 0.28}):
        (made,) = torch.autograd.grad(PolicyGradient(**knobs).losses(Spoken(logps), batch).sums["policy"], logps)
        torch.testing.assert_close(made, -advantages)


def test_the_dual_clip_bounds_what_a_bad_token_costs_and_cispo_learns_beyond_the_clip(golden_step):
    batch, now = golden_step(-torch.ones(14, dtype=torch.float64))
    batch.token_values["behaviour"] = now - 5  # the ratio is e^5
    assert loss_of(PolicyGradient(dual_clip=3.0), Spoken(now), batch) == pytest.approx(3.0)
    assert loss_of(PolicyGradient(), Spoken(now), batch) == pytest.approx(np.exp(5), rel=1e-6)
    batch.token_values["advantages"] = torch.ones(14, dtype=torch.float64)
    logps = now.clone().requires_grad_()
    (stuck,) = torch.autograd.grad(PolicyGradient().losses(Spoken(logps), batch).sums["policy"], logps)
    (moves,) = torch.autograd.grad(PolicyGradient(surrogate="cispo").losses(Spoken(logps), batch).sums["policy"], logps)
    assert (stuck == 0).all()
    torch.testing.assert_close(moves, torch.full_like(moves, -1.2))
    with pytest.raises(ValueError, match="dual_clip has no effect with surrogate cispo"):
        PolicyGradient(surrogate="cispo", dual_clip=3.0)
