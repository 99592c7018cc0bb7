"""What every optimizer must do: lower the loss, obey the rate, survive saving, never step into nan."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import torch
from torch import Tensor, nn

from holdfast.axes.method import Method
from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.models.placement import choose_device
from holdfast.testing.examples import rounding_room
from holdfast.testing.failure import expect_that
from holdfast.training.memory_estimate import sketch_optimizer_states, sum_bytes

X = torch.randn(16, 6, generator=torch.Generator().manual_seed(1))
Y = X[:, :1] - X[:, 1:2]


def small_net(seed: int = 0) -> nn.Module:
    """A regression problem's seeded network, on the device that every verb would choose."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 1))
    return net.to(choose_device())


def compute_error(net: nn.Module) -> Tensor:
    """The mean squared error of a network on all points."""
    device = next(net.parameters()).device
    return (net(X.to(device)) - Y.to(device)).square().mean()


def run_steps(net: nn.Module, rule: UpdateRule, steps: int, rate: float, poison: bool = False) -> list[float]:
    """Losses of the passes, and after those of each step the norm that it returned."""
    out = []
    for _ in range(steps):
        rule.lr = rate
        for index in range(rule.passes):
            rule.begin_pass(index)
            loss = compute_error(net)
            out.append(float(loss.detach()))
            (loss * (float("nan") if poison else 1.0)).backward()
        out.append(rule.step())
        rule.zero_grad()
    return out


def flat_weights(net: nn.Module) -> Tensor:
    """A copy of all weights in one row."""
    return torch.cat([p.detach().flatten() for p in net.parameters()]).clone()


def check_loss_falls(method: Method, folder: Path) -> None:
    """60 steps halve the loss."""
    net = small_net()
    losses = run_steps(net, _build_rule(method, net), 60, 0.05)
    expect_that(losses[-2] < 0.5 * losses[0], f"60 steps took the loss from {losses[0]:.4g} to {losses[-2]:.4g} only")


def check_rate(method: Method, folder: Path) -> None:
    """The first move is in proportion to the rate; a rate of 0 is no move."""
    moves = []
    for rate in (0.0, 1e-3, 2e-3):
        net = small_net()
        before = flat_weights(net)
        run_steps(net, _build_rule(method, net), 1, rate)
        moves.append(float((flat_weights(net) - before).norm()))
    expect_that(moves[0] == 0, f"at rate 0 the weights moved by {moves[0]:.3g}")
    expect_that(moves[1] > 0, "at rate 1e-3 no weight moved")
    ratio = moves[2] / moves[1]
    expect_that(math.isclose(ratio, 2, rel_tol=1e-3), f"twice the rate moves the weights {ratio:.4g} times as far")


def check_state(method: Method, folder: Path) -> None:
    """Saved and loaded it goes on bit for bit."""
    net = small_net()
    rule = _build_rule(method, net)
    run_steps(net, rule, 5, 0.01)
    state = {key: t.clone() for key, t in rule.state_tensors().items()}
    parameter_names = tuple(name for name, _ in net.named_parameters())
    expect_that(
        all(key.startswith(parameter_names) for key in state), "the state's names must begin with those of parameters"
    )
    copy = small_net(seed=9)
    copy.load_state_dict(net.state_dict())
    again = _build_rule(method, copy)
    again.load(state)
    run_steps(net, rule, 5, 0.02)
    run_steps(copy, again, 5, 0.02)
    expect_that(torch.equal(flat_weights(net), flat_weights(copy)), "after loading its state it makes other steps")
    loaded_state = again.state_tensors()
    expect_that(
        all(torch.equal(t, loaded_state[key]) for key, t in rule.state_tensors().items()),
        "its state differs after loading",
    )


def check_not_finite(method: Method, folder: Path) -> None:
    """A gradient that is not finite changes nothing, and the norm says so."""
    net = small_net()
    before = flat_weights(net)
    norm = run_steps(net, _build_rule(method, net), 1, 0.1, poison=True)[-1]
    expect_that(not math.isfinite(norm), f"the norm of a gradient that is not finite is said to be {norm}")
    expect_that(torch.equal(flat_weights(net), before), "a gradient that is not finite moved the weights")


def check_clipping(method: Method, folder: Path) -> None:
    """`step` returns the norm before clipping; without a memory the clipped move is the rate times the limit."""
    norms, moves = [], []
    for limit in (1e9, 1e-3):
        net = small_net()
        before = flat_weights(net)
        clipped_method = type(method).model_validate({**method.model_dump(exclude_unset=True), "max_grad_norm": limit})
        norms.append(run_steps(net, _build_rule(clipped_method, net), 1, 0.1)[-1])
        moves.append(float((flat_weights(net) - before).norm()))
    net = small_net()
    compute_error(net).backward()
    expected_norm = float(torch.nn.utils.get_total_norm([p.grad for p in net.parameters() if p.grad is not None]))
    for norm in norms:
        expect_that(
            math.isclose(norm, expected_norm, rel_tol=1e-6 * rounding_room(choose_device())),
            f"step returns {norm}; the norm before clipping is {expected_norm}",
        )
    if not _build_rule(method, small_net()).state_tensors():
        expect_that(
            math.isclose(moves[1], 1e-4, rel_tol=1e-3), f"clipped to 1e-3, rate 0.1 moves the weights {moves[1]:.3g}"
        )


def check_schedule(method: Method, folder: Path) -> None:
    """The rate rises to its peak and falls."""
    knobs = {"learning_rate": 0.5, "warmup": 0.1, "min_ratio": 0.1}
    optimizer = type(method).model_validate({**method.model_dump(exclude_unset=True), **knobs})
    assert isinstance(optimizer, Optimizer)
    rates = [optimizer.learning_rate_at(step, 100) for step in range(100)]
    expect_that(math.isclose(rates[0], 0.5 / 11) and math.isclose(max(rates), 0.5), f"the warm-up is {rates[:11]}")
    expect_that(
        rates.index(max(rates)) == 10, f"the peak is at step {rates.index(max(rates))}, the warm-up has 10 steps"
    )
    expect_that(abs(rates[-1] - 0.05) <= 0.01, f"the last rate is {rates[-1]}, a tenth of the peak is 0.05")
    expect_that(all(a >= b for a, b in itertools.pairwise(rates[10:])), "the rate rises again after its peak")


def check_sketch(method: Method, folder: Path) -> None:
    """Built over weights without memory it keeps what it keeps of real ones: `holdfast check` counts it so."""
    assert isinstance(method, Optimizer)
    net = small_net()
    shapes = {name: nn.Parameter(torch.empty_like(p, device="meta")) for name, p in net.named_parameters()}
    sketch_bytes = sum_bytes(sketch_optimizer_states(method, shapes))
    real_bytes = sum_bytes(_build_rule(method, net).state_tensors().values())
    text = f"over weights without memory it keeps {sketch_bytes} bytes, over real ones {real_bytes}"
    expect_that(sketch_bytes == real_bytes, text)


def _build_rule(method: Method, net: nn.Module) -> UpdateRule:
    assert isinstance(method, Optimizer)
    return method.build(net.named_parameters())


CHECKS = (check_loss_falls, check_rate, check_state, check_not_finite, check_clipping, check_schedule, check_sketch)
