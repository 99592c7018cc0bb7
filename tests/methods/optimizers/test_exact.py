"""AdamW against its formula, LOMO against gradient descent, bit for bit where it can be."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.optimizers.lomo import LOMO
from holdfast.methods.optimizers.torch_groups import share_rates


def test_adamw_is_its_formula():
    p = torch.nn.Parameter(torch.tensor([[1.0, -2.0]]))
    rule = AdamW(betas=(0.8, 0.9), eps=1e-6, weight_decay=0.1, max_grad_norm=0).build([("p", p)])
    w, m, v = p.detach().double().clone(), torch.zeros(1, 2).double(), torch.zeros(1, 2).double()
    for t, g in enumerate([[0.3, -0.5], [-1.0, 0.2], [0.1, 0.1]], start=1):
        g = torch.tensor([g])
        p.grad, rule.lr = g.clone(), 0.01 * t
        rule.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        w = w * (1 - 0.01 * t * 0.1) - 0.01 * t * (m / (1 - 0.8**t)) / ((v / (1 - 0.9**t)).sqrt() + 1e-6)
    assert torch.allclose(p.detach().double(), w, atol=1e-6)


def test_the_rate_falls_from_end_to_end_as_lima_trains():
    adamw = AdamW(learning_rate=1e-5, schedule="linear", warmup=0, min_ratio=0.1)
    rates = [adamw.learning_rate_at(step, 90) for step in range(91)]
    assert (rates[0], rates[90]) == pytest.approx((1e-5, 1e-6))
    assert np.diff(rates) == pytest.approx([-1e-7] * 90)


def test_adamw_decays_matrices_only():
    params = {"weight": torch.nn.Parameter(torch.ones(2, 2)), "bias": torch.nn.Parameter(torch.ones(2))}
    rule = AdamW(weight_decay=0.5).build(params.items())
    rule.lr = 0.1
    for p in params.values():
        p.grad = torch.zeros_like(p)
    rule.step()
    assert torch.allclose(params["weight"], torch.full((2, 2), 0.95))
    assert torch.equal(params["bias"], torch.ones(2))


def test_adamw_allocates_its_state_at_once():
    p = torch.nn.Parameter(torch.ones(3, 2))
    state = AdamW().build([("p", p)]).state_tensors()
    assert {k: tuple(t.shape) for k, t in state.items()} == {"p.step": (), "p.exp_avg": (3, 2), "p.exp_avg_sq": (3, 2)}


def steps(model, ids, rule=None, optimizer=None, clip=0.0, count=6):
    for step in range(count):
        lr = 0.05 / (step + 1)
        if rule is not None:
            rule.lr = lr
            for index in range(rule.passes):
                rule.begin_pass(index)
                model(input_ids=ids, labels=ids).loss.backward()
            rule.step()
        else:
            optimizer.param_groups[0]["lr"] = lr
            model(input_ids=ids, labels=ids).loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
            optimizer.step()
            optimizer.zero_grad()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # GPT-2 ties its embeddings
@pytest.mark.parametrize("clip", [0.0, 0.5])
def test_lomo_is_gradient_descent_bit_for_bit(tiny, kind, clip):
    one, tokenizer = tiny(kind)
    two, _ = tiny(kind)
    ids = torch.tensor([tokenizer.encode("Add 12 and 30. The answer is 42.")])
    rule = LOMO(max_grad_norm=clip).build(one.named_parameters())
    assert rule.passes == (2 if clip else 1)
    steps(one, ids, rule=rule)
    steps(two, ids, optimizer=torch.optim.SGD(two.parameters(), lr=1.0), clip=clip)
    for (name, p), q in zip(one.named_parameters(), two.parameters(), strict=True):
        assert torch.equal(p, q), name
        assert p.grad is None
    assert not torch.equal(next(one.parameters()), next(tiny(kind)[0].parameters()))


def test_lomo_holds_one_gradient_at_a_time(tiny):
    model, tokenizer = tiny("llama")
    before, after = [], []

    def count_into(alive):
        for p in model.parameters():
            p.register_post_accumulate_grad_hook(
                lambda _: alive.append(sum(q.grad.numel() for q in model.parameters() if q.grad is not None))
            )

    count_into(before)
    LOMO().build(model.named_parameters())
    count_into(after)
    ids = torch.tensor([tokenizer.encode("the result is 14")])
    model(input_ids=ids, labels=ids).loss.backward()
    assert len(before) == len(list(model.parameters()))
    assert max(before) == max(p.numel() for p in model.parameters()), "the largest weight's, and no other's"
    assert max(after) == 0


def test_lomo_only_looks_until_it_is_told_to_begin(tiny):
    model, tokenizer = tiny("llama")
    before = [p.detach().clone() for p in model.parameters()]
    rule = LOMO().build(model.named_parameters())
    ids = torch.tensor([tokenizer.encode("the result is 14")])
    model(input_ids=ids, labels=ids).loss.backward()  # a probe
    rule.begin_pass(0)
    model(input_ids=ids, labels=ids).loss.backward()  # the measuring pass
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_lomo_decay_and_value_clipping():
    p = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    rule = LOMO(weight_decay=0.1, clip_value=0.5, max_grad_norm=0).build([("p", p)])
    rule.lr = 0.1
    rule.begin_pass(0)
    (p * torch.tensor([3.0, 0.2])).sum().backward()
    assert torch.allclose(p.detach(), torch.tensor([1.0 * 0.99 - 0.05, 2.0 * 0.99 - 0.02]))


def test_lomo_rounds_once_in_bf16():
    p = torch.nn.Parameter(torch.tensor([1.0, -3.0], dtype=torch.bfloat16))
    rule = LOMO(max_grad_norm=0).build([("p", p)])
    rule.lr = 0.3
    rule.begin_pass(0)
    (p.float() * torch.tensor([0.7, 0.11])).sum().backward()
    g = torch.tensor([0.7, 0.11]).bfloat16().float()
    assert torch.equal(p.detach(), (torch.tensor([1.0, -3.0]) - 0.3 * g).bfloat16())


def test_layer_decay_gives_each_layer_its_share_of_the_rate():
    names = ["model.embed_tokens.weight", "model.layers.0.mlp.weight", "model.layers.1.mlp.weight", "lm_head.weight"]
    assert list(share_rates(names, 0.5).values()) == [0.25, 0.5, 1.0, 1.0]
    assert set(share_rates(names, 1.0).values()) == {1.0}
    params = {name: torch.nn.Parameter(torch.zeros(2, 2)) for name in names}
    rule = AdamW(layer_decay=0.5, max_grad_norm=0).build(params.items())
    rule.lr = 0.1
    for p in params.values():
        p.grad = torch.ones_like(p)
    rule.step()  # Adam's first step is as long as the rate
    assert [-float(p[0, 0].detach()) for p in params.values()] == pytest.approx([0.025, 0.05, 0.1, 0.1], rel=1e-5)
    assert rule.lr == 0.1
