"""AdaLomo against Adafactor, Adafactor and Muon against their formulas, and the memory that each of them takes."""

from __future__ import annotations

import pytest
import torch
from transformers import Adafactor as AdafactorOfTransformers

from holdfast.errors import UserError
from holdfast.methods.optimizers.adafactor import Adafactor
from holdfast.methods.optimizers.adalomo import AdaLomo
from holdfast.methods.optimizers.muon import Muon
from holdfast.methods.optimizers.sgd import SGD

TEXT = "Add 12 and 30. The answer is 42."


def walk(model, ids, take_step, clip: float = 0.0, count: int = 6) -> None:
    """Steps of falling rates; `take_step` gets the rate and what computes the gradients."""
    for step in range(count):

        def backward():
            model(input_ids=ids, labels=ids).loss.backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(model.parameters(), clip)

        take_step(0.05 / (step + 1), backward)


def drive_rule(rule):
    def take_step(rate, backward):
        rule.lr = rate
        for index in range(rule.passes):
            rule.begin_pass(index)
            backward()
        rule.step()
        rule.zero_grad()

    return take_step


def drive_torch(optimizer):
    def take_step(rate, backward):
        for group in optimizer.param_groups:
            group["lr"] = rate
        backward()
        optimizer.step()
        optimizer.zero_grad()

    return take_step


def apart(one, two) -> float:
    """The largest difference of two weights, but for biases of keys: only rounding gives these a gradient, and any
    adaptive step makes it large."""
    pairs = zip(one.named_parameters(), two.parameters(), strict=True)
    return max(float((p.detach() - q.detach()).abs().max()) for (name, p), q in pairs if "attn.c_attn.bias" not in name)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # GPT-2 ties its embeddings, and has biases
def test_adalomo_is_adafactor_and_so_is_adafactor(tiny, kind) -> None:
    """Six steps of both forms of ours end where the Adafactor of transformers does; clipped alike too."""
    start, tokenizer = tiny(kind)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    for clip in (0.0, 0.5):
        theirs = tiny(kind)[0]
        optimizer = AdafactorOfTransformers(
            theirs.parameters(), lr=1.0, scale_parameter=True, relative_step=False, warmup_init=False
        )
        walk(theirs, ids, drive_torch(optimizer), clip)
        assert apart(theirs, start) > 0.01
        for method in (AdaLomo, Adafactor):
            ours = tiny(kind)[0]
            rule = method(max_grad_norm=clip).build(ours.named_parameters())
            assert rule.passes == (2 if clip and method is AdaLomo else 1)
            walk(ours, ids, drive_rule(rule))
            assert apart(ours, theirs) < 1e-6, method.__name__
            assert all(p.grad is None for p in ours.parameters())


def test_adalomo_runs_on_a_cpu_with_one_gradient_alive_and_vectors_of_state(tiny) -> None:
    """lomo-optim's AdaLomo asks for CUDA in its constructor; and no gradient outlives its use here."""
    model, tokenizer = tiny("llama")
    parameters, before, after = list(model.parameters()), [], []

    def count_into(counts):
        return lambda _: counts.append(sum(q.grad is not None for q in parameters))

    for p in parameters:
        p.register_post_accumulate_grad_hook(count_into(before))
    rule = AdaLomo().build(model.named_parameters())
    for p in parameters:
        p.register_post_accumulate_grad_hook(count_into(after))
    ids = torch.tensor([tokenizer.encode(TEXT)])
    walk(model, ids, drive_rule(rule), count=1)
    assert before == [1] * len(parameters)
    assert after == [0] * len(parameters)
    numbers = sum(t.numel() for t in rule.state_tensors().values())
    assert numbers == sum(1 + (sum(p.shape) if p.ndim == 2 else p.numel()) for p in parameters)


def test_adalomo_decays_by_its_own_step_and_keeps_what_is_not_finite_away() -> None:
    plain, pulled, poisoned = (torch.nn.Parameter(torch.tensor([[3.0, -4.0], [1.0, 2.0]])) for _ in range(3))
    start = plain.detach().clone()
    for p, decay, factor in ((plain, 0.0, 1.0), (pulled, 0.5, 1.0), (poisoned, 0.5, float("inf"))):
        rule = AdaLomo(weight_decay=decay).build([("p", p)])
        rule.lr = 0.1
        rule.begin_pass(0)
        (p * torch.tensor([[1.0, 2.0], [3.0, 4.0]])).sum().mul(factor).backward()
        norm = rule.step()
    step = 0.1 * (30 / 4) ** 0.5  # the rate times the root mean square of the weight
    assert torch.allclose(pulled - plain, -step * 0.5 * start)
    assert float((plain.detach() - start).square().mean().sqrt()) <= step * 1.0001
    assert norm == float("inf")
    assert torch.allclose(poisoned, start * (1 - step * 0.5)), "only the decay, which asks for no gradient"


def newton_schulz(x: torch.Tensor, steps: int) -> torch.Tensor:
    """The iteration as its author wrote it down, in double precision."""
    x = x.double() / x.double().norm()
    for _ in range(steps):
        xx = x @ x.T
        x = 3.4445 * x + (-4.775 * xx + 2.0315 * xx @ xx) @ x
    return x


@pytest.mark.parametrize("scale", ["match_rms_adamw", "original"])
def test_muon_is_its_formula(scale) -> None:
    """Three steps of a wide and a tall matrix; bf16 inside leaves about a hundredth."""
    for shape in ((4, 10), (10, 4)):
        generator = torch.Generator().manual_seed(0)
        p = torch.nn.Parameter(torch.randn(shape, generator=generator))
        rule = Muon(scale=scale, weight_decay=0.1, max_grad_norm=0).build([("layer.weight", p)])
        w, momentum = p.detach().double().clone(), torch.zeros(shape).double()
        for rate in (0.1, 0.05, 0.02):
            g = torch.randn(shape, generator=generator)
            p.grad, rule.lr = g.clone(), rate
            rule.step()
            momentum = 0.95 * momentum + 0.05 * g
            direction = 0.95 * momentum + 0.05 * g
            wide = direction if shape[0] <= shape[1] else direction.T
            step = newton_schulz(wide, 5) if wide is direction else newton_schulz(wide, 5).T
            factor = 0.2 * 10**0.5 if scale == "match_rms_adamw" else max(1, shape[0] / shape[1]) ** 0.5
            w = w * (1 - rate * 0.1) - rate * factor * step
            singular = torch.linalg.svdvals(step)
            assert 0.5 < singular.min() <= singular.max() < 1.3
        assert (p - w).norm() < 0.02 * (0.17 * factor)


def test_muon_moves_matrices_inside_the_layers_and_adamw_the_rest(tiny) -> None:
    model, tokenizer = tiny("llama")
    rule = Muon().build(model.named_parameters())
    walk(model, torch.tensor([tokenizer.encode(TEXT)]), drive_rule(rule), count=1)
    by_muon = {key.removesuffix(".momentum_buffer") for key in rule.state_tensors() if key.endswith("momentum_buffer")}
    by_adamw = {key.removesuffix(".exp_avg") for key in rule.state_tensors() if key.endswith(".exp_avg")}
    names = {name for name, _ in model.named_parameters()}
    assert by_muon | by_adamw == names
    assert not by_muon & by_adamw
    assert by_muon == {name for name in names if ".layers." in name and "norm" not in name}
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= by_adamw | ({"lm_head.weight"} - names)


def test_muon_without_a_matrix_says_so() -> None:
    with pytest.raises(UserError, match="muon moves matrices, and none of the 1 trained parameters is one"):
        Muon().build([("embed_tokens.weight", torch.nn.Parameter(torch.ones(2, 2)))])
    with pytest.raises(ValueError, match="is not a regular expression"):
        Muon(adamw_for="(")


def test_sgd_is_gradient_descent_and_decays_matrices_only() -> None:
    params = {"weight": torch.nn.Parameter(torch.ones(2, 2)), "bias": torch.nn.Parameter(torch.ones(2))}
    rule = SGD(momentum=0.5, nesterov=True, weight_decay=0.1, max_grad_norm=0).build(params.items())
    moved, momentum = {"weight": 1.0, "bias": 1.0}, {"weight": 0.0, "bias": 0.0}
    for gradient in (1.0, -2.0):
        rule.lr = 0.1
        for name, p in params.items():
            p.grad = torch.full_like(p, gradient)
            g = gradient + (0.1 * moved[name] if name == "weight" else 0.0)
            momentum[name] = 0.5 * momentum[name] + g
            moved[name] -= 0.1 * (g + 0.5 * momentum[name])
        rule.step()
    for name, p in params.items():
        assert torch.allclose(p, torch.full_like(p, moved[name])), name
    assert not SGD().build(params.items()).state_tensors(), "without momentum nothing is kept"
    with pytest.raises(ValueError, match="momentum is 0"):
        SGD(nesterov=True)
