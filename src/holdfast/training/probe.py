"""One pass on the largest micro-batch before the first step: whether it fits, and what the objective gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.errors import RunError, UserError
from holdfast.models.placement import give_back_memory, is_out_of_memory
from holdfast.models.quantized_base import is_quantized
from holdfast.training import memory

if TYPE_CHECKING:
    from holdfast.training.setup import TrainerState


def probe_largest_batch(state: TrainerState, note: Callable[[str], None]) -> bool:
    """One forward and backward pass on the largest micro-batch, before the first step; its gradients are thrown away.

    Returns:
        Whether some trained parameters got no gradient.
    Raises:
        RunError: If not even the longest row fits.
    """
    first_tokens = state.micro_tokens
    while True:
        rows = state.largest_batch_rows()
        failures = state.machine.sum_over_processes([float(not _fits_memory(state, rows))])[0]
        if not failures:
            break
        state.rule.zero_grad()
        give_back_memory(state.machine.device)
        if len(rows) == 1 or state.recipe.optimizer.in_backward:
            raise RunError(state.describe_memory_shortage(len(rows)))
        state.resize_micro_batches(
            max(1, min(state.micro_tokens, int(state.table.lengths[rows].max()) * len(rows)) // 2)
        )
    if state.micro_tokens != first_tokens:
        note(f"micro-batches of {first_tokens} tokens do not fit into memory; going on with {state.micro_tokens}")
    has_unused = any(p.grad is None for p in state.trainable_parameters.values())
    state.rule.zero_grad()
    state.num_workers = torch.get_num_threads() if _can_use_threads(state) else 1
    return has_unused


def _can_use_threads(state: TrainerState) -> bool:
    """Whether micro-batches go through the model side by side, a core each.

    The gain is 1.4 times at 2 million parameters, 1.1 at 12 and nothing at 30, where splitting every product over the
    cores costs little. Threads share one random generator, so none may be drawn from.
    """
    alone = state.machine.world == 1 and not state.machine.is_sharded and not state.recipe.optimizer.in_backward
    if is_quantized(state.model) or any(p.dtype != torch.float32 for p in state.trainable_parameters.values()):
        return False  # the threads' gradients are of the weights' type, and would be summed in it
    return memory.is_small(state.model) and alone and state.policy.uses_fused_body and not state.draws_random


def _fits_memory(state: TrainerState, rows: list[int]) -> bool:
    try:
        with state.machine.preserve_rng():
            before = torch.get_rng_state()
            sums, _ = state.scorer(state.add_step_statistics([state.collate_on_device(rows)])[0])
            _check_terms(state, sums)
            sum(sums.values()).backward()
            state.draws_random = not torch.equal(before, torch.get_rng_state())
    except Exception as error:
        if is_out_of_memory(error):
            return False
        if not state.compiled_layers.can_recover(error):
            raise
        state.rule.zero_grad()
        return _fits_memory(state, rows)
    return True


def _check_terms(state: TrainerState, sums: dict[str, Tensor]) -> None:
    """Refuse an objective whose terms are not those that it counts, or that have nothing to differentiate."""
    name = type(state.recipe.objective).__name__
    if sums.keys() != set(state.terms):
        loss_names, count_names = (", ".join(sorted(names)) or "nothing" for names in (sums, state.terms))
        raise UserError(
            f"objective {name}: `losses` gives {loss_names}, `normalizers` counts {count_names}; the names must agree"
        )
    for term, value in sums.items():
        if value.shape != () or not value.requires_grad:
            raise UserError(
                f"objective {name}: `losses` must give {term} as one number with a gradient, the sum over the batch; "
                f"it has shape {list(value.shape)} and {'a' if value.requires_grad else 'no'} gradient"
            )
