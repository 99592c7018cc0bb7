"""What every objective must do."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from holdfast.axes.method import Method
from holdfast.axes.objective import Objective, attach_step_statistics
from holdfast.data.batching.batches import Batch, EncodedSequence, collate_sequences
from holdfast.errors import UserInterrupt
from holdfast.models.loading import eval_mode
from holdfast.models.policy import Policy, precompute_reference
from holdfast.models.value_head import make_value_head
from holdfast.testing.examples import example_recipe, example_rows, example_table, rounding_room, tiny_model
from holdfast.testing.failure import expect_that, require_kind
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

CUTS: dict[str, tuple[int, Any]] = {
    "one by one": (1, "padded"),
    "two by two, packed": (2, "packed"),
    "all packed": (6, "packed"),
}
"""How the rows of a step are cut into micro-batches: their number in each, and the layout."""


def cut_rows(
    rows: Sequence[EncodedSequence], size: int, layout: Any, device: torch.device | str = "cpu"
) -> list[Batch]:
    """The rows as micro-batches of `size` rows."""
    groups = [[e for e in rows if start <= e.row < start + size] for start in range(0, rows[-1].row + 1, size)]
    batches = [collate_sequences(group, layout, 0) for group in groups]
    return [batch.to(device) for batch in batches if batch is not None]


def prepare_policy(policy: Policy, objective: Objective, batches: list[Batch]) -> None:
    """What the trainer does once, before the weights move."""
    if objective.needs_values:
        width, device = policy.config.get_text_config().hidden_size, policy.causal.device
        policy.value_head = make_value_head(width, device, scale=objective.value_scale)
    if objective.needs_reference:
        precompute_reference(policy, batches)
    if objective.has_precompute:
        with eval_mode(policy.model), torch.no_grad():
            objective.precompute(policy, lambda: batches, policy.store)


def survey_step(policy: Policy, objective: Objective, batches: list[Batch]) -> list[Batch]:
    """The batches of a step with what the objective surveys of all."""
    if not objective.has_step_statistics:
        return batches
    with torch.no_grad():
        return attach_step_statistics([[objective.step_statistics(policy, batch) for batch in batches]], 0, batches)


def take_step(policy: Policy, objective: Objective, batches: list[Batch]) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients of one step, divided as the trainer divides."""
    counts: dict[str, float] = {}
    for batch in batches:
        for term, count in objective.normalizers(batch).items():
            counts[term] = counts.get(term, 0.0) + count
    total = 0.0
    for batch in survey_step(policy, objective, batches):
        sums = objective.losses(policy, batch).sums
        expect_that(
            sums.keys() == counts.keys(), f"losses gives the terms {sorted(sums)}, normalizers counts {sorted(counts)}"
        )
        loss = torch.stack([value / (counts[term] or 1.0) for term, value in sums.items()]).sum()
        loss.backward()
        total += loss.item()
    gradients = {n: p.grad.clone() for n, p in policy.model.named_parameters() if p.grad is not None}
    policy.model.zero_grad()
    return total, gradients


def check_sums(method: Method, folder: Path) -> None:
    """Losses are finite sums with gradients; metrics are a number and a count."""
    objective = require_kind(method, Objective)
    policy = Policy(tiny_model().train())
    rows = example_rows(objective, 3)
    (batch,) = cut_rows(rows, len(rows), "padded", policy.causal.device)
    prepare_policy(policy, objective, [batch])
    (batch,) = survey_step(policy, objective, [batch])
    out = objective.losses(policy, batch)
    for term, value in out.sums.items():
        expect_that(value.shape == (), f"sum {term} has the shape {tuple(value.shape)}; it must be one number")
        expect_that(value.requires_grad, f"sum {term} has no gradient")
        expect_that(torch.isfinite(value), f"sum {term} is {value.item()}")
    for name, (total, count) in out.metrics.items():
        expect_that(isinstance(total, (int, float)) and count > 0, f"metric {name} is not (number, count above 0)")


def check_micro_batches(method: Method, folder: Path, kind: str = "llama") -> None:
    """How a step is cut into micro-batches changes neither loss nor gradient."""
    objective, model = require_kind(method, Objective), tiny_model(kind).eval()  # without noise that training adds
    rows, policy, device = example_rows(objective), Policy(model), model.device
    prepare_policy(policy, objective, cut_rows(rows, 6, "padded", device))
    torch.manual_seed(0)
    with torch.no_grad():  # away from the reference, where differences of probabilities are 0
        for p in model.parameters():
            p.add_(0.02 * torch.randn(p.shape).to(device))
    loss, gradients = take_step(policy, objective, cut_rows(rows, 6, "padded", device))
    expect_that(math.isfinite(loss), f"the loss is {loss}")
    expect_that(sum(float(g.norm()) for g in gradients.values()) > 0, "no weight has a gradient")
    whole = torch.stack([g.norm() for g in gradients.values()]).norm()
    for label, (size, layout) in CUTS.items():
        other, others = take_step(policy, objective, cut_rows(rows, size, layout, device))
        expect_that(
            abs(other - loss) <= 1e-6 * rounding_room(device) * max(1.0, abs(loss)),
            f"the loss is {loss:.8g} with all rows in one padded batch and {other:.8g} {label}; divide by nothing in "
            "losses, and say in normalizers what each sum is divided by",
        )
        expect_that(others.keys() == gradients.keys(), f"{label}, other weights have gradients")
        apart = torch.stack([torch.dist(gradients[n], others[n]) for n in gradients]).norm()
        expect_that(
            apart <= 1e-5 * rounding_room(device) * whole,
            f"{label}, the gradient differs by {float(apart / whole):.1g} of its norm",
        )


STEPS = 8
"""Of a training that is watched."""


def check_training(method: Method, folder: Path, tuner: str = "full") -> None:
    """Through the real loop the loss falls, and an interrupted run ends bit for bit as one that was not."""
    objective = require_kind(method, Objective)
    table = example_table(objective)
    chosen = type(objective).model_validate(objective.model_dump())  # every knob as if a recipe had said it
    recipe, losses = example_recipe(STEPS, objective=chosen, tuner=tuner), list[float]()

    def fit_model(out: Path, on_step: Any) -> Any:
        return Trainer(recipe, tiny_model(), table, out, pad_id=0, hooks=Hooks(on_step=on_step)).fit().model

    calm = fit_model(folder / "calm", lambda log: losses.append(log.loss))
    expect_that(all(map(math.isfinite, losses)), f"the losses of the steps are {losses}")
    expect_that(
        min(losses[-3:]) < losses[0],
        f"{STEPS} steps on the same rows took the loss from {losses[0]} to {losses[-1]}",
    )
    try:
        fit_model(
            folder / "resumed", lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == STEPS // 2 else None
        )
        expect_that(False, "the run was not interrupted; call check_method in the main thread")
    except UserInterrupt:
        pass
    resumed_model = fit_model(folder / "resumed", lambda log: None)
    same = all(torch.equal(p, q) for p, q in zip(calm.parameters(), resumed_model.parameters(), strict=True))
    expect_that(
        same, f"a run interrupted after step {STEPS // 2} and resumed ends with other weights than one that was not"
    )


def check_training_of_adapters(method: Method, folder: Path) -> None:
    """Likewise with an adapter, whose reference is the model without it."""
    check_training(method, folder, tuner="lora")


CHECKS = (check_sums, check_micro_batches, check_training, check_training_of_adapters)
