"""Passes on the largest micro-batch before the first step: whether it fits, how large it is best, what the objective
gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from holdfast.errors import RunError, UserError
from holdfast.models.placement import GIB, give_back_memory, is_out_of_memory
from holdfast.models.quantized_base import is_quantized
from holdfast.training import memory
from holdfast.training.compute_plan import plan_state
from holdfast.training.micro_batch_search import LEAST_TOKENS, PassCost, PassMeter, build_meter, search_micro_tokens

if TYPE_CHECKING:
    from holdfast.training.setup import TrainerState


def probe_largest_batch(state: TrainerState, note: Callable[[str], None]) -> bool:
    """Forward and backward passes on the largest micro-batch, before the first step; their gradients are thrown away.

    On an accelerator micro-batches get the size that is measured to be best, unless the recipe says one; elsewhere, and
    of that, half the size until they fit. Then it is told how the training is computed, a line each.

    Returns:
        Whether some trained parameters got no gradient.
    Raises:
        RunError: If not even the longest row fits.
    """
    meter = build_meter(state.machine.device) if state.chooses_micro_tokens else None
    if meter is None:
        _halve_until_it_fits(state, note)
    else:
        _search_size(state, meter, note)
    has_unused = any(p.grad is None for p in state.trainable_parameters.values())
    state.rule.zero_grad()
    give_back_memory(state.machine.device)
    state.num_workers = torch.get_num_threads() if _can_use_threads(state) else 1
    if not state.has_shown_plan:  # it is tried again where more weights begin to train
        state.has_shown_plan = True
        for label, line in plan_state(state).label_lines().items():
            note(f"{label}: {line}")
    return has_unused


def _halve_until_it_fits(state: TrainerState, note: Callable[[str], None]) -> None:
    """One pass; of half the size, and with half the rows of logits at a time, as long as there is no memory for it."""
    first_tokens = state.micro_tokens
    while True:
        rows = state.largest_batch_rows()
        if not state.machine.sum_over_processes([float(not _fits_memory(state, rows))])[0]:
            break
        _clear_failure(state)
        if len(rows) == 1 or state.recipe.optimizer.in_backward:
            if state.shrink_head():
                continue
            raise RunError(state.describe_memory_shortage(len(rows)))
        state.resize_micro_batches(
            max(1, min(state.micro_tokens, int(state.table.lengths[rows].max()) * len(rows)) // 2)
        )
    if state.micro_tokens != first_tokens:
        note(f"micro-batches of {first_tokens} tokens do not fit into memory; going on with {state.micro_tokens}")


def _search_size(state: TrainerState, meter: PassMeter, note: Callable[[str], None]) -> None:
    """Give micro-batches the size that is measured to be best; the gradients of a pass with it are there after."""
    most = max(1, state.step_size.tokens // state.machine.world)
    least = count_longest_row(state)
    first = max(least, min(state.micro_tokens, LEAST_TOKENS))
    size, cost = search_micro_tokens(lambda tokens: _measure_size(state, meter, tokens), least, first, most)
    if cost is None:
        raise RunError(state.describe_memory_shortage(1))
    if not cost.leaves_room:
        note(
            f"one row of {least:,} tokens leaves {cost.free / GIB:.2g} of {cost.total / GIB:.3g} GiB free, less than a "
            "fifth: should memory get short, set train.gradient_checkpointing: selective or full, or a smaller "
            "train.max_length"
        )
    state.resize_micro_batches(size)
    state.pass_cost, state.chooses_micro_tokens = cost, False  # else sizes would change in the middle of a run
    meter.memory.start_peak()  # what is reported of the steps is not the peak of sizes that were only tried
    if not _fits_memory(state, state.largest_batch_rows()):  # it did a moment ago
        raise RunError(state.describe_memory_shortage(1))


def count_longest_row(state: TrainerState) -> int:
    """Tokens of the longest row, as micro-batches count them."""
    table = state.table
    areas = table.widths * table.lines
    return int((areas if state.layout == "padded" else np.minimum(table.lengths, areas)).max())


def _measure_size(state: TrainerState, meter: PassMeter, tokens: int) -> PassCost | None:
    """What micro-batches of this size cost, the slowest and fullest of all processes'; no gradient stays.

    A single row gets fewer rows of logits at a time, for good, where it does not fit.
    """
    state.resize_micro_batches(tokens)
    rows = state.largest_batch_rows()
    real_tokens = int(state.table.step_lengths[rows].sum())
    while True:
        cost = meter.measure_pass(lambda: _fits_memory(state, rows), real_tokens)
        own_cost = [0.0, 0.0, 0.0] if cost is None else [1.0, -cost.seconds, float(cost.free)]
        fits, seconds, free = state.machine.min_over_processes(own_cost)
        _clear_failure(state)
        if cost is not None and fits:
            return PassCost(real_tokens, -seconds, int(free), cost.total)
        if len(rows) > 1 or not state.shrink_head():
            return None


def _clear_failure(state: TrainerState) -> None:
    """Let go of what a pass left."""
    state.rule.zero_grad()
    give_back_memory(state.machine.device)


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
