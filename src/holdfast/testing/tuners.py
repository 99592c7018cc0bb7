"""What every tuner must do: freeze bit for bit, learn, merge, come off again."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from holdfast.axes.method import Method
from holdfast.axes.tuner import Tuner
from holdfast.errors import UserError, UserInterrupt
from holdfast.methods.objectives.likelihood.sft import SFT
from holdfast.methods.objectives.preference.dpo import DPO
from holdfast.models.files import OWN_WEIGHTS
from holdfast.models.policy import Policy
from holdfast.testing.examples import VOCABULARY, example_recipe, example_table, rounding_room, tiny_model
from holdfast.testing.failure import expect_that, require_kind
from holdfast.training.callbacks import Hooks
from holdfast.training.trainer import Trainer

KINDS = ("llama", "gpt2", "qwen2", "gemma2")
SHAPES = ("llama", "gpt2", "phi3", "qwen2", "gemma2", "gpt_neox")
"""Grouped heads; a fused map of queries, keys and values kept as [in, out]; fused and grouped, the MLP's maps too; and
others for tuners that cannot take these."""
ENOUGH_SHAPES = 3
IDS = torch.arange(2, 40)[None] % VOCABULARY


def supported_kind(tuner: Tuner) -> str:
    """The first family of tiny models that a tuner says it can train."""
    reasons = []
    for kind in KINDS:
        try:
            tuner.check(tiny_model(kind))
            return kind
        except UserError as error:
            reasons.append(f"{kind}: {error}")
    expect_that(False, f"it can train none of the families tried: {'; '.join(reasons)}")
    raise AssertionError


def takes_model(tuner: Tuner, model: PreTrainedModel) -> bool:
    """Whether a tuner says that it can train a model."""
    try:
        tuner.check(model)
    except UserError:
        return False
    return True


def train_tiny(tuner: Tuner, kind: str, folder: Path, epochs: int = 6) -> tuple[object, list[float]]:
    """A tiny model trained with a tuner, and the losses of its steps."""
    losses = list[float]()
    recipe = example_recipe(epochs, tuner=tuner, optimizer={"name": "adamw", "learning_rate": 0.02})
    hooks = Hooks(on_step=lambda log: losses.append(log.loss))
    model = Trainer(recipe, tiny_model(kind), example_table(SFT()), folder, pad_id=0, hooks=hooks).fit().model
    return model, losses


@torch.no_grad()
def compute_logits(model: object) -> Tensor:
    """Logits [1, T, V] of the same ids, on the CPU: a model that was saved and loaded may live elsewhere."""
    return model(input_ids=IDS.to(model.device)).logits.cpu()  # type: ignore[operator, attr-defined, no-any-return]


def check_frozen_and_learning(method: Method, folder: Path) -> None:
    """What a tuner freezes stays bit for bit; the rest moves and the loss falls."""
    tuner = require_kind(method, Tuner)
    kind = supported_kind(tuner)
    base = list(tiny_model(kind).parameters())
    model, losses = train_tiny(tuner, kind, folder, epochs=30)
    parameters = list(model.parameters())  # type: ignore[attr-defined]
    frozen = [p for p in parameters if not p.requires_grad]
    expect_that(len(frozen) < len(parameters), "nothing trains")
    expect_that(
        all(any(torch.equal(p, q) for q in base if q.shape == p.shape) for p in frozen),
        "a frozen weight is not what it was",
    )
    expect_that(
        min(losses[-3:]) < losses[0], f"30 steps on the same rows took the loss from {losses[0]} to {losses[-1]}"
    )


def check_declarations(method: Method, folder: Path) -> None:
    """What it declares of itself is so: its kind, its number of parameters, whose states are held, packing."""
    tuner = require_kind(method, Tuner)
    bases = {kind: tiny_model(kind, **{"n_layer" if kind == "gpt2" else "num_hidden_layers": 3}) for kind in SHAPES}
    for kind, base in [pair for pair in bases.items() if takes_model(tuner, pair[1])][:ENOUGH_SHAPES]:
        own = {id(p) for p in base.parameters()}
        declared_size = tuner.count_trainable(base, seed=3)
        model = tuner.apply(base, 3)
        if tuner.draw_number(0, 1, 0) is not None:
            tuner.apply_draw(model, 3, 0)
        moving = [p for p in model.parameters() if p.requires_grad]
        size, total = sum(p.numel() for p in moving), sum(p.numel() for p in base.parameters())
        expect_that(
            declared_size in (None, size),
            f"its formula (count_trainable) gives {declared_size} parameters of a {kind}, and {size} train",
        )
        check_kind(tuner, sum(id(p) in own for p in moving), len(moving))
        expect_that(
            not tuner.memory_class().startswith("part") or size < total,
            f"its memory class is {tuner.memory_class()}, and all weights of a {kind} train",
        )
    kind = supported_kind(tuner)
    policy = Policy(tuner.apply(tiny_model(kind), 3))
    expect_that(
        policy.isolates_packed_rows == (tuner.packs_rows() and Policy(tiny_model(kind)).isolates_packed_rows),
        f"packs_rows() is {tuner.packs_rows()}, and rows of one line are "
        f"{'' if policy.isolates_packed_rows else 'not '}kept apart",
    )


def check_kind(tuner: Tuner, base_parameters: int, parameters: int) -> None:
    """Its taxonomy is what trains: parameters of the base itself, added ones, or both."""
    wrong = {
        "selective": base_parameters < parameters,
        "additive": base_parameters > 0,
        "reparametrised": base_parameters > 0 or not tuner.mergeable,
        "hybrid": False,
    }
    expect_that(
        not wrong[tuner.taxonomy],
        f"its taxonomy is {tuner.taxonomy}, and of {parameters} tensors that train {base_parameters} are the base's"
        f"{'' if tuner.mergeable or not tuner.adapter else ', and it does not merge'}: declare what it is",
    )


def check_merged(method: Method, folder: Path) -> None:
    """Merged it is a plain model that computes the same, where it says that it merges."""
    tuner = require_kind(method, Tuner)
    if not tuner.leaves_plain_weights() and not tuner.mergeable:
        return
    kind = supported_kind(tuner)
    model, _ = train_tiny(tuner, kind, folder)
    before = compute_logits(model)
    merged_model = tuner.merge(model)  # type: ignore[arg-type]
    plain = type(tiny_model(kind))
    expect_that(
        type(merged_model) is plain, f"merged it is a {type(merged_model).__name__}, not a plain {plain.__name__}"
    )
    apart = float((compute_logits(merged_model) - before).abs().max())
    expect_that(apart <= 1e-4, f"merged, its logits differ by up to {apart:.2g}")


def check_base(method: Method, folder: Path) -> None:
    """An adapter that is taken off leaves the base bit for bit; other tuners have no base to give."""
    tuner = require_kind(method, Tuner)
    kind = supported_kind(tuner)
    start = compute_logits(tiny_model(kind).eval())
    model, _ = train_tiny(tuner, kind, folder)
    base = tuner.base_context(model)  # type: ignore[arg-type]
    expect_that(
        (base is not None) == tuner.adapter, "base() must give the base's context for an adapter, None for others"
    )
    if base is not None:
        with base:
            expect_that(
                torch.equal(compute_logits(model), start), "inside base() the model is not the one before training"
            )


def check_saved(method: Method, folder: Path) -> None:
    """What it saves loads again with the same log-probabilities, beside the base where it is an adapter."""
    tuner = require_kind(method, Tuner)
    kind = supported_kind(tuner)
    model, _ = train_tiny(tuner, kind, folder / "run")
    before = compute_logits(model).log_softmax(-1)
    place = folder / "saved"
    place.mkdir()
    tuner.save(model, place, torch.float32)  # type: ignore[arg-type]
    expect_that(not list(place.rglob("*.bin")) + list(place.rglob("*.pt")), "it saves pickles; write safetensors")
    plain = tiny_model(kind)
    own = place / OWN_WEIGHTS
    base = type(plain).from_pretrained(own) if own.is_dir() else plain
    loaded_model = type(plain).from_pretrained(place) if tuner.leaves_plain_weights() else tuner.load(place, base)
    apart = float((compute_logits(loaded_model.eval()).log_softmax(-1) - before).abs().max())
    room = rounding_room(next(model.parameters()).device)  # type: ignore[attr-defined]
    expect_that(apart <= 1e-5 * room, f"saved and loaded, its log-probabilities differ by up to {apart:.2g}")


def check_seed(method: Method, folder: Path) -> None:
    """The same seed gives the same weights."""
    tuner = require_kind(method, Tuner)
    kind = supported_kind(tuner)
    one, two = (train_tiny(tuner, kind, folder / str(i))[0] for i in range(2))
    pairs = zip(one.parameters(), two.parameters(), strict=True)  # type: ignore[attr-defined]
    expect_that(all(torch.equal(p, q) for p, q in pairs), "two runs with one seed end with different weights")


def check_pairs_and_resume(method: Method, folder: Path) -> None:
    """It trains on pairs too, whose loss needs the untouched model, and interrupted it goes on bit for bit."""
    tuner = require_kind(method, Tuner)
    kind, table = supported_kind(tuner), example_table(DPO())
    recipe, losses = example_recipe(4, objective="dpo", tuner=tuner), list[float]()

    def fit_model(out: Path, on_step: Callable[[Any], None]) -> Any:
        return Trainer(recipe, tiny_model(kind), table, out, pad_id=0, hooks=Hooks(on_step=on_step)).fit().model

    calm = fit_model(folder / "calm", lambda log: losses.append(log.loss))
    expect_that(all(map(math.isfinite, losses)), f"on pairs the losses of the steps are {losses}")
    try:
        fit_model(folder / "resumed", lambda log: os.kill(os.getpid(), signal.SIGINT) if log.step == 2 else None)
        expect_that(False, "the run was not interrupted; call check_method in the main thread")
    except UserInterrupt:
        pass
    resumed_model = fit_model(folder / "resumed", lambda log: None)
    same = all(torch.equal(p, q) for p, q in zip(calm.parameters(), resumed_model.parameters(), strict=True))
    expect_that(same, "a run on pairs that was interrupted and resumed ends with other weights than one that was not")


CHECKS = (
    check_declarations,
    check_frozen_and_learning,
    check_saved,
    check_merged,
    check_base,
    check_seed,
    check_pairs_and_resume,
)
