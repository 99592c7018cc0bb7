"""Any optimizer of PyTorch behind the trainer's protocol: the same steps, and a state that outlives a kill."""

from __future__ import annotations

import os
import signal

import material
import pytest
import torch

from holdfast.errors import UserError, UserInterrupt
from holdfast.methods.optimizers.adamw import AdamW
from holdfast.methods.optimizers.torch_rule import TorchRule
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer
from textbook_sgd import SGD


def net(dtype: torch.dtype = torch.float32) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Tanh(), torch.nn.Linear(6, 1)).to(dtype)


def walk(model, rule, count: int, start: int = 0) -> None:
    for step in range(start, start + count):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        rule.lr = 0.02 / (step + 1)
        model(x.to(next(model.parameters()).dtype)).square().mean().backward()
        rule.step()
        rule.zero_grad()


def same(one, two) -> bool:
    return all(torch.equal(p, q) for p, q in zip(one.parameters(), two.parameters(), strict=True))


BUILT = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, nesterov=True),
    "adafactor": lambda p: torch.optim.Adafactor(p, lr=0.1),
    "nadam": lambda p: torch.optim.NAdam(p, lr=0.1),
    "rprop": lambda p: torch.optim.Rprop(p, lr=0.1),
    "fused adamw": lambda p: torch.optim.AdamW(p, lr=0.1, fused=True),
}


@pytest.mark.parametrize("name", BUILT)
def test_it_steps_as_torch_does_and_goes_on_from_its_state_bit_for_bit(name):
    one, two, plain = net(), net(), net()
    rules = []
    for model in (one, two):
        params = dict(model.named_parameters())
        rules.append(TorchRule(AdamW(max_grad_norm=0), params, BUILT[name](params.values())))
    optimizer = BUILT[name](plain.parameters())
    walk(one, rules[0], 4)
    for step in range(4):
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        optimizer.param_groups[0]["lr"] = 0.02 / (step + 1)
        plain(x).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert same(one, plain)
    two.load_state_dict(one.state_dict())
    state = {key: tensor.clone() for key, tensor in rules[0].state_tensors().items()}
    rules[1].load(state)
    assert {k: (v.dtype, v.tolist()) for k, v in rules[1].state_tensors().items()} == {
        k: (v.dtype, v.tolist()) for k, v in state.items()
    }
    walk(one, rules[0], 4, start=4)
    walk(two, rules[1], 4, start=4)
    assert same(one, two)


def test_states_keep_their_type_where_weights_are_of_another():
    """What is kept in fp32 of weights in bf16 is not rounded on its way through a checkpoint."""
    first, second = net(torch.bfloat16), net(torch.bfloat16)
    rules = [
        TorchRule(AdamW(), params := dict(m.named_parameters()), torch.optim.Adafactor(params.values(), lr=0.1))
        for m in (first, second)
    ]
    walk(first, rules[0], 2)
    state = {key: tensor.clone() for key, tensor in rules[0].state_tensors().items()}
    rules[1].load(state)
    assert {key: tensor.dtype for key, tensor in rules[1].state_tensors().items()} == {
        k: t.dtype for k, t in state.items()
    }


def test_what_a_checkpoint_cannot_hold_is_refused():
    class Counting(torch.optim.SGD):
        def step(self, closure=None):
            for p in self.param_groups[0]["params"]:
                self.state[p]["steps"] = self.state[p].get("steps", kind()) + kind(1)
            return super().step(closure)

    for kind in (int, float):  # numbers are held, and come back as what they were
        model = net()
        params = dict(model.named_parameters())
        rules = [TorchRule(AdamW(), params, Counting(params.values(), lr=0.1)) for _ in range(2)]
        walk(model, rules[0], 3)
        walk(model, rules[1], 1)
        rules[1].load(rules[0].state_tensors())
        counts = [rules[1].optimizers[0].state[p]["steps"] for p in params.values()]
        assert counts == [kind(3)] * len(counts)
        assert all(type(count) is kind for count in counts)
    kind = str
    rule = TorchRule(AdamW(), params, Counting(params.values(), lr=0.1))
    walk(model, rule, 1)
    with pytest.raises(UserError, match="optimizer Counting keeps steps as str"):
        rule.state_tensors()


@pytest.mark.parametrize("tuner", ["full", "lora"])
def test_a_run_with_a_state_that_comes_with_the_first_step_survives_a_kill(tmp_path, tuner):
    recipe = material.recipe({"max_steps": 8, "save_every": 0.25}, optimizer=SGD(learning_rate=0.01), tuner=tuner)

    def fit(out, on_step=lambda log: None):
        hooks = Hooks(on_step=on_step)
        return Trainer(recipe, material.model(), material.table(), tmp_path / out, pad_id=0, hooks=hooks).fit().model

    calm = fit("calm")
    with pytest.raises(UserInterrupt):
        fit("stormy", lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 3 else None)
    assert same(calm, fit("stormy"))
