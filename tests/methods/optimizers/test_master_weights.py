"""Weights in bf16 lose no small step: with what rounding takes kept, they move as an fp32 run's do, bit for bit."""

from __future__ import annotations

import torch

from holdfast.axes.registry import find_method
from holdfast.methods.optimizers import master_weights
from holdfast.methods.optimizers.master_weights import join_halves, split_master

SHAPES = {"matrix": (5, 7), "vector": (3,), "number": ()}


def random_bf16(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(shape, generator=generator).bfloat16() for name, shape in SHAPES.items()}


def test_a_master_is_the_nearest_weight_and_a_remainder_bit_for_bit() -> None:
    generator = torch.Generator().manual_seed(0)
    bits = torch.randint(-(2**31), 2**31 - 1, (200_000,), generator=generator).to(torch.int32)
    edges = torch.tensor(
        [0x3F808000, 0x3F818000, -0x407F8000, 0, 1, -(2**31), 0x7F7FFFFF, 0x7F800000, 0x7FFFFFFF, -1, -0x00800000],
        dtype=torch.int64,
    ).to(torch.int32)
    masters = torch.cat([bits, edges]).view(torch.float32)
    weight, remainder = split_master(masters)
    real = masters.isfinite()
    assert torch.equal(join_halves(weight, remainder)[real].view(torch.int32), masters[real].view(torch.int32))
    ties = (masters.view(torch.int32) & 0xFFFF) == 0x8000
    assert torch.equal(weight[real & ~ties], masters.bfloat16()[real & ~ties])
    apart = (weight.double() - masters.double()).abs()[real & weight.isfinite()]
    assert bool((apart <= (masters.bfloat16().double() - masters.double()).abs()[real & weight.isfinite()]).all())
    assert not weight[~real].isfinite().any()
    assert weight[real & (masters.abs() < 3.38e38)].isfinite().all()


def move(dtype: torch.dtype, steps: int, **knobs: object) -> tuple[dict[str, torch.Tensor], object]:
    """Weights after steps of AdamW with the same gradients, which bf16 holds exactly, and the rule."""
    optimizer = find_method("optimizers", "adamw")(**{"learning_rate": 1e-5, **knobs})
    params = {name: torch.nn.Parameter(value.to(dtype)) for name, value in random_bf16(0).items()}
    rule = optimizer.build(params.items())
    for step in range(steps):
        rule.lr = optimizer.learning_rate * (step + 1) / steps
        for name, gradient in random_bf16(100 + step % 3).items():
            if name != "vector" or step % 2:  # some parameter has none in some step
                params[name].grad = gradient.to(dtype)
        rule.begin_pass(0)
        rule.step()
        rule.zero_grad()
        assert all(p.grad is None for p in params.values())
    return params, rule


def test_plain_bf16_loses_small_steps_and_masters_follow_fp32_bit_for_bit(monkeypatch) -> None:
    start = random_bf16(0)
    plain = {name: torch.nn.Parameter(value.clone()) for name, value in start.items()}
    naive = torch.optim.AdamW(plain.values(), lr=1e-5, weight_decay=0.0)
    for step in range(40):
        for name, gradient in random_bf16(100 + step % 3).items():
            plain[name].grad = gradient
        naive.step()
    for knobs in ({}, {"max_grad_norm": 0.5}, {"clip": "running"}, {"weight_decay": 0.1}):
        monkeypatch.setattr(master_weights, "BUCKET", 8 if knobs else 1 << 26)  # several parameters at a time, or one
        wide, _ = move(torch.float32, 40, **knobs)
        short, rule = move(torch.bfloat16, 40, **knobs)
        for name, remainder in rule.masters.remainders.items():
            master = join_halves(short[name].detach(), remainder)
            assert torch.equal(master, wide[name].detach()), (name, knobs)
            assert short[name].dtype == torch.bfloat16
    moved = {name: (wide[name].detach() - start[name].float()).abs().max() for name in start}
    assert torch.equal(plain["matrix"].detach(), start["matrix"])
    assert moved["matrix"] > 1e-4


def test_the_state_is_two_bytes_a_weight_more_and_goes_on_where_it_was() -> None:
    whole, _ = move(torch.bfloat16, 6)
    _, rule = move(torch.bfloat16, 3)
    state = {name: tensor.clone() for name, tensor in rule.state_tensors().items()}
    assert {t.dtype for name, t in state.items() if name.endswith(".remainder")} == {torch.int16}
    for name, shape in SHAPES.items():
        kept = {key: t for key, t in state.items() if key.startswith(f"{name}.")}
        assert sorted(kept) == [f"{name}.{key}" for key in ("exp_avg", "exp_avg_sq", "remainder", "step")]
        assert all(t.shape == shape for key, t in kept.items() if not key.endswith(".step"))
    optimizer = find_method("optimizers", "adamw")(learning_rate=1e-5)
    params = {name: torch.nn.Parameter(p.detach().clone()) for name, p in move(torch.bfloat16, 3)[0].items()}
    again = optimizer.build(params.items())
    again.load(state)
    assert all(torch.equal(tensor, state[name]) for name, tensor in again.state_tensors().items())
    assert all(t.untyped_storage().nbytes() <= 8 for t in again.masters.stand_ins.values())
    assert whole.keys() == params.keys()
