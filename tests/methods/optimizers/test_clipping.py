"""How often and how far gradients are cut: fixed, relative to the norms before, or not at all."""

from __future__ import annotations

import math

import pytest
import torch

from holdfast.axes.optimizer import Optimizer
from holdfast.axes.registry import REGISTRY, find_method
from holdfast.methods.optimizers.clipping import MEMORY, Clipping

NAMES = list(REGISTRY["optimizers"])


def knobs(**given: object) -> Optimizer:
    return find_method("optimizers", "adamw").model_validate(given)  # type: ignore[return-value]


def counted(norms: list[float], **given: object) -> list[bool]:
    """Whether each of a run's norms is clipped."""
    clipping, out = Clipping(knobs(**given)), []
    for norm in norms:
        clipping.record_norm(norm)
        out.append(clipping.was_clipped)
    return out


def test_a_fixed_norm_depends_on_the_scale_of_the_loss_and_a_running_one_does_not() -> None:
    norms = [2.0, 1.5, 0.9, 4.0, 0.8, 0.7]
    assert counted(norms) == [True, True, False, True, False, False]
    assert counted([100 * norm for norm in norms]) == [True] * 6
    running = {"clip": "running", "max_grad_norm": 2}
    assert counted(norms, **running) == [False, False, False, True, False, False]
    assert counted([100 * norm for norm in norms], **running) == counted(norms, **running)
    assert counted(norms, max_grad_norm=0) == counted(norms, clip="running", max_grad_norm=0) == [False] * 6


def test_the_running_mean_is_that_of_the_norms_as_they_were_left() -> None:
    clipping = Clipping(knobs(clip="running", max_grad_norm=1.5))
    assert clipping.norm_limit() == math.inf, "nothing is known before the first step"
    left, weights = [], []
    for norm in (4.0, 2.0, 100.0):
        left.append(min(norm, clipping.norm_limit()))
        weights = [MEMORY * w for w in weights] + [1.0]
        clipping.record_norm(norm)
        mean = sum(w * n for w, n in zip(weights, left, strict=True)) / sum(weights)
        assert clipping.norm_limit() == pytest.approx(1.5 * mean, rel=1e-12)
    assert left[-1] < 5, "an outlier counts as what was left of it"
    clipping.record_norm(math.nan)
    assert clipping.norm_limit() == pytest.approx(1.5 * mean, rel=1e-12), "what is no number is not taken into account"


@pytest.mark.parametrize("name", NAMES)
def test_rules_clip_to_the_running_limit_say_so_and_keep_it(name: str) -> None:
    """Of one weight with gradients 1, 1, 10: the last is cut to twice the mean, in every optimizer, resumed or not."""
    method = find_method("optimizers", name).model_validate({"clip": "running", "max_grad_norm": 2})

    def rule_of(p: torch.nn.Parameter):  # type: ignore[no-untyped-def]
        rule = method.build([("p", p)])  # type: ignore[attr-defined]
        rule.lr = 0.1
        return rule

    def step(rule, p: torch.nn.Parameter, gradient: float) -> tuple[float, bool]:  # type: ignore[no-untyped-def]
        for index in range(rule.passes):
            rule.begin_pass(index)
            (gradient * p).sum().backward()
        norm = rule.step()
        rule.zero_grad()
        return norm, rule.was_clipped

    p = torch.nn.Parameter(torch.zeros(1, 1))  # a matrix: there are optimizers of matrices
    rule = rule_of(p)
    assert [step(rule, p, 1.0)[1] for _ in range(2)] == [False, False]
    again, copy = torch.nn.Parameter(p.detach().clone()), {key: t.clone() for key, t in rule.state_tensors().items()}
    resumed = rule_of(again)
    resumed.load(copy)
    before = p.item()
    assert step(rule, p, 10.0) == (pytest.approx(10.0), True)
    assert step(resumed, again, 10.0) == (pytest.approx(10.0), True)
    assert p.item() == again.item()
    if name == "lomo":
        assert before - p.item() == pytest.approx(0.1 * 2.0, rel=1e-5), "gradient 10 counts as 2"


def test_a_short_run_warms_up_too_and_the_peak_comes_once() -> None:
    rule = knobs(learning_rate=1.0)
    assert [round(rule.learning_rate_at(step, 10), 3) for step in range(3)] == [0.5, 1.0, 0.97]
    rates = [knobs(learning_rate=1.0, warmup=0.1).learning_rate_at(step, 100) for step in range(100)]
    assert rates.count(1.0) == 1
    assert rates[10] == 1.0
    assert knobs(learning_rate=1.0).learning_rate_at(0, 1) == 1.0, "a run of one step has the whole rate"
    # LIMA [2305.11206]: no warm-up, linearly from 1e-5 to a tenth of it.
    lima = knobs(learning_rate=1e-5, schedule="linear", warmup=0, min_ratio=0.1)
    assert lima.learning_rate_at(0, 200) == 1e-5
    assert lima.learning_rate_at(100, 200) == pytest.approx(0.55e-5)
    assert lima.learning_rate_at(200, 200) == pytest.approx(1e-6)
