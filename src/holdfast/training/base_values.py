"""What a run keeps of the untouched model before its weights move: log-probabilities, and what the objective wants."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from accelerate.utils import gather_object

from holdfast.errors import RunError
from holdfast.models.loading import fingerprint_of, locate_model
from holdfast.models.placement import is_out_of_memory
from holdfast.models.stored_values import PrecomputedStore, ReferenceCache
from holdfast.training.setup import collect_training_settings

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.training.setup import TrainerState


def fill_reference(state: TrainerState, reference: ReferenceCache | None, out: Path) -> None:
    """Give the policy the untouched model's log-probabilities of all rows: found on disk, or computed now.

    Every process computes a share of the rows; all end with all of them.
    """
    machine, policy = state.machine, state.policy
    if reference is None:
        reference = ReferenceCache.in_directory(
            out / "cache", state.base_fingerprint, state.table.fingerprint, machine.arithmetic
        )
    policy.reference = reference
    before = set(reference.values)
    while not _fill_own_rows(state):
        state.resize_micro_batches(max(1, min(state.micro_tokens, state.step_size.tokens) // 2))
    if machine.world > 1:
        mine: list[tuple[tuple[int, int], Tensor]] = [kv for kv in reference.values.items() if kv[0] not in before]
        reference.values.update(gather_object(mine))
    if machine.main and len(reference.values) > len(before):
        reference.save()


def precompute_objective(state: TrainerState, out: Path) -> None:
    """Give the policy what the objective keeps of the untouched model: found on disk, or computed now.

    Every process computes all of it.

    Raises:
        RunError: If memory is short.
    """
    machine, table = state.machine, state.full_table
    made_by = json.dumps(
        collect_training_settings(state.recipe, table, state.step_size.tokens), sort_keys=True, default=str
    )
    others = [fingerprint_of(locate_model(name)) for name in state.recipe.objective.extra_models()]
    store = state.policy.store = PrecomputedStore(
        out / "cache", state.base_fingerprint, made_by, machine.arithmetic, *others
    )
    if not store.is_loaded:
        try:
            state.scorer.precompute_values(state.all_batches())
        except Exception as error:
            if is_out_of_memory(error):
                raise RunError(
                    state.describe_memory_shortage(max(1, state.micro_tokens // int(table.lengths.max())))
                ) from error
            raise
        if machine.main:
            store.save()
    store.to(machine.device)


def _fill_own_rows(state: TrainerState) -> bool:
    """Score the rows of this process; `False` when a group does not fit into memory (what is done stays done).

    Raises:
        RunError: If not even the longest row fits.
    """
    machine = state.machine
    groups = state.group_rows(state.table)
    for index in range(-(-len(groups) // machine.world)):
        # The last round may repeat a group: where weights are sharded, every process must take part every time.
        rows = groups[min(index * machine.world + machine.rank, len(groups) - 1)]
        try:
            state.scorer.store_reference(state.collate_on_device(rows))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if len(rows) == 1:
                raise RunError(state.describe_memory_shortage(1)) from error
            return False
    return True
