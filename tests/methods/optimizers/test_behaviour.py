"""What every registered optimizer must do: lower the loss, obey the rate, survive saving, never step into nan."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from holdfast.axes.registry import REGISTRY, find

NAMES = [*sorted(REGISTRY["optimizers"]), "textbook_sgd:SGD"]
"""The registered ones, and one as a user would add it."""


def problem(seed: int = 0) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Tanh(), torch.nn.Linear(8, 1))


X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = X[:, :1] - X[:, 1:2]


def run(net, rule, steps: int, lr: float, poison: bool = False) -> list[float]:
    losses = []
    for _ in range(steps):
        rule.lr = lr
        for index in range(rule.passes):
            rule.begin(index)
            loss = (net(X) - Y).square().mean()
            losses.append(float(loss.detach()))
            (loss * (float("nan") if poison else 1.0)).backward()
        losses.append(rule.step())
        rule.zero_grad()
    return losses


def weights(net) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls(name):
    net = problem()
    losses = run(net, find("optimizers", name)().build(net.named_parameters()), 60, 0.05)
    assert losses[-2] < 0.5 * losses[0]


@pytest.mark.parametrize("name", NAMES)
def test_the_rate_scales_the_first_move_and_zero_is_no_move(name):
    moves = []
    for lr in (0.0, 1e-3, 2e-3):
        net = problem()
        before = weights(net)
        run(net, find("optimizers", name)().build(net.named_parameters()), 1, lr)
        moves.append((weights(net) - before).norm())
    assert moves[0] == 0
    assert moves[1] > 0
    assert torch.isclose(moves[2], 2 * moves[1], rtol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_saved_and_loaded_it_goes_on_bit_for_bit(name):
    net = problem()
    rule = find("optimizers", name)().build(net.named_parameters())
    run(net, rule, 5, 0.01)
    state = {key: t.clone() for key, t in rule.state().items()}
    assert all(key.startswith(tuple(n for n, _ in net.named_parameters())) for key in state)
    copy = problem(seed=9)
    copy.load_state_dict(net.state_dict())
    again = find("optimizers", name)().build(copy.named_parameters())
    again.load(state)
    run(net, rule, 5, 0.02)
    run(copy, again, 5, 0.02)
    assert torch.equal(weights(net), weights(copy))
    assert all(torch.equal(t, again.state()[key]) for key, t in rule.state().items())


@pytest.mark.parametrize("name", NAMES)
def test_a_gradient_that_is_not_finite_changes_nothing(name):
    net = problem()
    before = weights(net)
    norm = run(net, find("optimizers", name)().build(net.named_parameters()), 1, 0.1, poison=True)[-1]
    assert not math.isfinite(norm)
    assert torch.equal(weights(net), before)


@pytest.mark.parametrize("name", NAMES)
def test_the_norm_before_clipping_is_returned_and_clipping_limits_the_gradient(name):
    method = find("optimizers", name)
    norms, moves = [], []
    for limit in (1e9, 1e-3):
        net = problem()
        before = weights(net)
        norms.append(run(net, method(max_grad_norm=limit).build(net.named_parameters()), 1, 0.1)[-1])
        moves.append(float((weights(net) - before).norm()))
    net = problem()
    (net(X) - Y).square().mean().backward()
    expected = torch.nn.utils.get_total_norm([p.grad for p in net.parameters()])
    assert norms == [pytest.approx(float(expected)), pytest.approx(float(expected))]
    if not list(method().build(problem().named_parameters()).state()):  # without memory the move is the gradient
        assert moves[1] == pytest.approx(0.1 * 1e-3, rel=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_schedule_rises_to_the_rate_and_falls(name):
    method = find("optimizers", name)(learning_rate=0.5, warmup=0.1, min_ratio=0.1)
    rates = [method.rate(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.5 / 11)
    assert max(rates) == pytest.approx(0.5)
    assert rates.index(max(rates)) == 10
    assert rates[-1] == pytest.approx(0.05, abs=0.01)
    assert all(a >= b for a, b in itertools.pairwise(rates[10:]))
