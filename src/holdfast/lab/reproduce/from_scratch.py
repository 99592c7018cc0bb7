"""AdaLomo, LOMO and Muon beside AdamW on a random Llama: what is learned in equal steps, and which gradients are alive.

A model of a quarter of a million weights reads the laboratory's text for 100 steps from a random start, at a few rates
each; what counts is its loss on rows of later steps at the best of them. Gradients are watched in the first step:
before each weight's gradient is used, all that are alive are counted.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from holdfast.axes.optimizer import Optimizer, UpdateRule
from holdfast.axes.registry import find_method
from holdfast.lab.reproduce.base import Study
from holdfast.lab.reproduce.rule import quantity_below

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import LlamaForCausalLM

    from holdfast.lab.pretrain import Stream

STEPS, HELD_OUT = 100, 5
RATES = {"adamw": (1e-3, 3e-3), "muon": (1e-3, 3e-3), "adalomo": (1e-2, 3e-2), "lomo": (0.1, 0.3)}
"""The paper's kind of rate for each from a random start, twice."""


def build_random_model(seed: int) -> tuple[LlamaForCausalLM, Stream]:
    """A random Llama of about a quarter of a million weights, and the rows of every step."""
    from holdfast.lab.pretrain import PLANS, Cycle, Stream, new_model
    from holdfast.models.loading import load_tokenizer

    tokenizer = load_tokenizer("lab-small")
    cycles = (Cycle(STEPS + HELD_OUT, STEPS + HELD_OUT, 1, 1e-3, warmup=1),)
    plan = replace(PLANS["lab-small"], hidden=64, layers=2, heads=2, inner=176, rows=8, cycles=cycles, seed=seed)
    return new_model(plan, tokenizer), Stream(plan, tokenizer)


def compute_loss(model: LlamaForCausalLM, stream: Stream, step: int) -> Tensor:
    """The mean loss per trained token of the rows of a step."""
    from holdfast.lab.pretrain import compute_label_loss

    (batch,) = stream.build_batches(step, parts=1)
    return compute_label_loss(model, batch, "mean")


def run_step(model: LlamaForCausalLM, stream: Stream, rule: UpdateRule, step: int) -> None:
    """One step of an update rule."""
    for index in range(rule.passes):
        rule.begin_pass(index)
        compute_loss(model, stream, step).backward()
    rule.step()
    rule.zero_grad()


def train_from_random(name: str, rate: float, seed: int) -> float:
    """The loss on later rows after `STEPS` steps of an optimizer at a peak rate, by its own schedule."""
    import torch

    model, stream = build_random_model(seed)
    optimizer = find_method("optimizers", name).model_validate({"learning_rate": rate, "warmup": 0.1})
    assert isinstance(optimizer, Optimizer)
    rule = optimizer.build(model.named_parameters())
    for step in range(STEPS):
        rule.lr = optimizer.learning_rate_at(step, STEPS)
        run_step(model, stream, rule, step)
    with torch.no_grad():
        later = [float(compute_loss(model, stream, STEPS + i)) for i in range(HELD_OUT)]
    return sum(later) / HELD_OUT


def measure_live_gradients(name: str, seed: int = 0) -> tuple[float, float]:
    """Most bytes of gradients alive at once in a step: as a share of all weights, and of the largest of them."""
    model, stream = build_random_model(seed)
    parameters = list(model.parameters())
    most = 0

    def count_gradients(_: Tensor) -> None:
        nonlocal most
        most = max(most, sum(p.grad.numel() for p in parameters if p.grad is not None))

    for p in parameters:  # before the hooks of a rule, which take the gradient away
        p.register_post_accumulate_grad_hook(count_gradients)
    rule = find_method("optimizers", name)().build(model.named_parameters())  # type: ignore[attr-defined]
    run_step(model, stream, rule, 0)
    sizes = [p.numel() for p in parameters]
    return most / sum(sizes), most / max(sizes)


def measure_optimizers(names: tuple[str, ...], seed: int) -> dict[str, float]:
    """`NAME loss` at the best rate, `NAME live` gradients over all weights and `NAME largest` over the largest."""
    values: dict[str, float] = {}
    for name in names:
        values[f"{name} loss"] = min(train_from_random(name, rate, seed) for rate in RATES[name])
        values[f"{name} live"], values[f"{name} largest"] = measure_live_gradients(name, seed)
    return values


def _build_study(claim: str, paper: str, name: str, figures: list[tuple[str, str, str]], expects: list[Any]) -> Study:
    measure = partial(measure_optimizers, ("adamw", name))
    return Study(claim, paper, measure, figures, expects, seeds=3)


ADALOMO = _build_study(
    "AdaLomo reaches AdamW's loss in as many steps, with one gradient alive at a time.",
    "Lv et al. 2023, arXiv 2310.10195",
    "adalomo",
    [
        ("loss, AdamW", "on par (further pre-training of Llama)", "adamw loss"),
        ("loss, AdaLomo", "on par", "adalomo loss"),
        ("live gradients over weights, AdamW", "1", "adamw live"),
        ("live gradients over weights, AdaLomo", "0.02 (LOMO, 7 B)", "adalomo live"),
    ],
    [
        quantity_below("adalomo loss", "adamw loss", "AdaLomo's loss is not 0.1 above AdamW's", by=-0.1),
        quantity_below("adalomo largest", 1.001, "no more is alive than the gradient of the largest weight"),
    ],
)

LOMO = _build_study(
    "LOMO holds one gradient at a time and no state; its loss is that of gradient descent.",
    "Lv et al. 2023, arXiv 2306.09782",
    "lomo",
    [
        ("loss, AdamW", "as LOMO's (large models)", "adamw loss"),
        ("loss, LOMO", "as AdamW's (large models; worse on small ones)", "lomo loss"),
        ("live gradients over weights, LOMO", "0.02 (7 B)", "lomo live"),
    ],
    [quantity_below("lomo largest", 1.001, "no more is alive than the gradient of the largest weight")],
)

MUON = _build_study(
    "Muon has a lower loss than AdamW after as many steps of pre-training.",
    "Jordan et al. 2024, Muon; Liu et al. 2025, arXiv 2502.16982",
    "muon",
    [
        ("loss, AdamW", "3.28 in 1.35 times the tokens (NanoGPT)", "adamw loss"),
        ("loss, Muon", "3.28", "muon loss"),
    ],
    [quantity_below("muon loss", "adamw loss", "Muon's loss is lower")],
)
