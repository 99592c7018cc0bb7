"""One pass on the largest micro-batch before the first step: whether it fits, and what the objective gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from holdfast.errors import RunError, UserError
from holdfast.models.placement import give_back_memory
from holdfast.training import memory

if TYPE_CHECKING:
    from holdfast.training.setup import Bench


def probe(bench: Bench, note: Callable[[str], None]) -> bool:
    """One forward and backward pass on the largest micro-batch, before the first step; its gradients are thrown away.

    Returns:
        Whether some trained parameters got no gradient.
    Raises:
        RunError: If not even the longest row fits.
    """
    asked = bench.micro_tokens
    while True:
        rows = bench.longest()
        failed = bench.machine.sum([float(not _fits(bench, rows))])[0]
        if not failed:
            break
        bench.rule.zero_grad()
        give_back_memory(bench.machine.device)
        if len(rows) == 1 or bench.recipe.optimizer.in_backward:
            raise RunError(bench.advice(len(rows)))
        bench.resize(max(1, min(bench.micro_tokens, int(bench.table.lengths[rows].max()) * len(rows)) // 2))
    if bench.micro_tokens != asked:
        note(f"micro-batches of {asked} tokens do not fit into memory; going on with {bench.micro_tokens}")
    unreached = any(p.grad is None for p in bench.trained.values())
    bench.rule.zero_grad()
    bench.lanes = torch.get_num_threads() if _side_by_side(bench) else 1
    return unreached


def _side_by_side(bench: Bench) -> bool:
    """Whether micro-batches go through the model side by side, a core each.

    The gain is 1.4 times at 2 million parameters, 1.1 at 12 and nothing at 30, where splitting every product over the
    cores costs little. Threads share one random generator, so none may be drawn from.
    """
    alone = bench.machine.world == 1 and not bench.machine.sharded and not bench.recipe.optimizer.in_backward
    return memory.is_small(bench.model) and alone and bench.policy.compact and not bench.random


def _fits(bench: Bench, rows: list[int]) -> bool:
    try:
        with bench.machine.same_random():
            before = torch.get_rng_state()
            sums, _ = bench.scorer(bench.survey([bench.placed(rows)])[0])
            _check_terms(bench, sums)
            sum(sums.values()).backward()
            bench.random = not torch.equal(before, torch.get_rng_state())
    except Exception as error:
        if memory.is_out_of_memory(error):
            return False
        raise
    return True


def _check_terms(bench: Bench, sums: dict[str, Tensor]) -> None:
    """Refuse an objective whose terms are not those that it counts, or that have nothing to differentiate."""
    name = type(bench.recipe.objective).__name__
    if sums.keys() != set(bench.terms):
        given, counted = (", ".join(sorted(names)) or "nothing" for names in (sums, bench.terms))
        raise UserError(f"objective {name}: `losses` gives {given}, `counts` counts {counted}; the names must agree")
    for term, value in sums.items():
        if value.shape != () or not value.requires_grad:
            raise UserError(
                f"objective {name}: `losses` must give {term} as one number with a gradient, the sum over the batch; "
                f"it has shape {list(value.shape)} and {'a' if value.requires_grad else 'no'} gradient"
            )
