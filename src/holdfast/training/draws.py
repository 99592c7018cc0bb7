"""Weights that are drawn anew while a run trains: which move now, and the optimizer state of those that go on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.axes.registry import name_of
from holdfast.errors import UserError
from holdfast.training.apply_tuner import freeze_vision

if TYPE_CHECKING:
    from holdfast.axes.optimizer import UpdateRule
    from holdfast.training.setup import TrainerState

FIRST = 0
"""The draw that every run begins with."""


def begin_draws(state: TrainerState) -> UpdateRule:
    """The update rule of the first step, over the weights of the first draw.

    Raises:
        UserError: If there are several processes, whose exchange of gradients is laid out once.
    """
    recipe, machine = state.recipe, state.machine
    build = recipe.optimizer.build
    if recipe.tuner.draw_number(0, 1, 0) is None:
        return build(state.stored_parameters.items())
    if machine.world > 1 or machine.is_sharded:
        raise UserError(
            f"tuner {name_of(recipe.tuner)} draws its weights anew while it trains, which several processes cannot "
            "follow: their exchange of gradients is laid out once; run it on one process"
        )
    # Hooks of an update inside the backward pass stay on all weights: those without a gradient they leave alone.
    whole_rule = build(state.stored_parameters.items()) if recipe.optimizer.in_backward else None
    _apply_draw(state, FIRST)
    state.most_trained = _count_trained(state)
    return whole_rule or build(state.trainable_parameters.items())


def follow_draw(state: TrainerState, step: int) -> bool:
    """Let the weights train that the tuner draws for a step.

    The optimizer keeps state of these alone. Who goes on moving keeps its own, who is left out loses it, and the newly
    drawn begin with none, so that no momentum of long ago moves a weight.

    Returns:
        Whether more weights train at once than ever before in this run, so that memory is to be tried again.
    """
    tuner = state.recipe.tuner
    draw = tuner.draw_number(step, state.steps, int(state.source.epoch_at(step)))
    if draw is None or draw == state.draw:
        return False
    old_state = state.rule.state_tensors()
    _apply_draw(state, draw)
    state.set_gradient_types()
    if not state.recipe.optimizer.in_backward:
        old_rule, state.rule = state.rule, state.recipe.optimizer.build(state.trainable_parameters.items())
        state.rule.lr = old_rule.lr
        state.rule.load({key: tensor for key, tensor in old_state.items() if _goes_on(state, key)})
    is_largest = _count_trained(state) > state.most_trained
    state.most_trained = max(state.most_trained, _count_trained(state))
    return is_largest


@contextmanager
def mark_all_trained(state: TrainerState) -> Iterator[None]:
    """Where all weights that any draw may have moved say by `requires_grad` that they are no longer the base's."""
    moving = {name: p.requires_grad for name, p in state.stored_parameters.items()}
    end_draws(state)
    try:
        yield
    finally:
        for name, p in state.stored_parameters.items():
            p.requires_grad_(moving[name])


def end_draws(state: TrainerState) -> None:
    """Mark all that any draw may have moved as trained."""
    for p in state.stored_parameters.values():
        p.requires_grad_(True)


def _apply_draw(state: TrainerState, draw: int) -> None:
    state.recipe.tuner.apply_draw(state.model, state.tuner_seed, draw)
    freeze_vision(state.recipe, state.model)
    state.draw = draw
    state.trainable_parameters = {name: p for name, p in state.stored_parameters.items() if p.requires_grad}
    if not state.trainable_parameters:
        raise UserError(
            f"tuner {name_of(state.recipe.tuner)} leaves nothing to train in draw {draw}; look at its settings"
        )
    for p in state.stored_parameters.values():
        p.grad = None


def _count_trained(state: TrainerState) -> int:
    return sum(p.numel() for p in state.trainable_parameters.values())


def _goes_on(state: TrainerState, key: str) -> bool:
    """Whether optimizer state of this name is of a weight that trains now, or of none (`clipping.`)."""
    owner = max((name for name in state.stored_parameters if key.startswith(f"{name}.")), key=len, default=None)
    return owner is None or owner in state.trainable_parameters
