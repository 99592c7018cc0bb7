"""Where the batches of a step come from: the rows of a table, or whatever makes them when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from holdfast.core.progress import ignore_call
from holdfast.data.batching.batches import Batch, TokenTable
from holdfast.data.batching.step_size import StepSize
from holdfast.errors import UserError
from holdfast.models.compiled_layers import CompiledLayers
from holdfast.training import memory
from holdfast.training.memory_estimate import estimate_state_memory
from holdfast.training.setup import TrainerState

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np

    from holdfast.data.batching.batches import Layout
    from holdfast.models.loading import Model
    from holdfast.models.policy import Policy
    from holdfast.recipe.schema import Recipe
    from holdfast.training.distributed import Machine


class BatchSource(Protocol):
    """Gives the trainer the batches of each step. It may sample from the policy as it is then (rollouts).

    What it gives must depend on its state, the step and the policy's weights alone: a killed run asks for a step again.
    """

    def step_batches(self, index: int, policy: Policy) -> list[Batch | None]:
        """The micro-batches of 0-based step `index`; `None` where this process has no rows."""

    def step_figures(self) -> dict[str, tuple[float, float]]:
        """What is worth logging of how the last step's batches came about, by name, as (sum, count)."""

    def epoch_at(self, steps_done: int) -> float:
        """How far `done` steps are, as the log's `epoch`."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, in JSON types."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; empty before the first step."""


class OnDemandSource(BatchSource, Protocol):
    """A source without a table, which says itself what the trainer must know before the first step."""

    fingerprint: str
    """Names everything its batches depend on, but for the policy; a checkpoint belongs to it."""

    def example_batch(self) -> Batch:
        """A batch like the largest there will be: it shows whether memory suffices, and which terms there are."""

    def small_batch(self) -> Batch:
        """A few labels, the same ones at any time, at which it is seen how far the model has moved."""


class OnDemandTrainerState(TrainerState):
    """The parts of a run whose batches are made when they are asked for."""

    has_table = False

    def __init__(
        self,
        recipe: Recipe,
        model: Model,
        source: OnDemandSource,
        machine: Machine,
        pad_id: int,
        note: Callable[[str], None] = ignore_call,
    ) -> None:
        if machine.world > 1 or machine.is_sharded:
            raise UserError("a source that makes its batches runs on one process; start it without a launcher")
        if recipe.train.max_steps is None:
            raise UserError("train.max_steps: say how many steps; batches that are made on demand have no end")
        if recipe.objective.has_precompute:
            raise UserError(
                f"objective {type(recipe.objective).__name__} computes something of all rows before training; here "
                "there are none yet: choose one that has no `precompute`"
            )
        if recipe.objective.needs_reference and not recipe.tuner.adapter:
            raise UserError(
                f"objective {type(recipe.objective).__name__} needs the base model beside the trained one, for rows "
                "that do not exist yet; train an adapter, which can be switched off (tuner: lora)"
            )
        self.recipe, self.model, self.machine, self.pad_id = recipe, model, machine, pad_id
        self.compiled_layers = CompiledLayers(note)
        self.dropout_hooks, self.tuner_seed = [], recipe.train.init_seed
        self.source, self.example_batch, self.few_labels = source, source.example_batch(), source.small_batch()
        tokens, rows = self.example_batch.tokens, self.example_batch.n_rows
        self.step_size = StepSize(tokens, False, rows, tokens / rows, self.example_batch.n_sequences // rows, 0, 0)

    def _choose_layout(self) -> Layout:
        is_packed = len(self.example_batch.input_ids) == 1 and self.example_batch.n_sequences > 1
        if is_packed and not self.policy.isolates_packed_rows:
            raise UserError("this model cannot keep packed rows apart; let the source make padded batches")
        return "packed" if is_packed else "padded"

    def _first_micro_tokens(self, state: dict[str, Any]) -> int:
        return memory.ONE_MICRO_BATCH if self.recipe.optimizer.in_backward else self.example_batch.tokens

    def resize_micro_batches(self, micro_tokens: int) -> None:
        self.micro_tokens = micro_tokens

    def _count_steps(self) -> None:
        self.steps = self.recipe.train.max_steps or 0

    def collate_rows(self, rows: Sequence[int] | np.ndarray) -> Batch | None:
        return self.example_batch

    def shortest_batch(self) -> Batch:
        return self.collate_on_device([0])

    def largest_batch_rows(self) -> list[int]:
        return [0]

    def small_batch(self) -> Batch:
        return self.few_labels.to(self.machine.device)

    def find_nonfinite_rows(self, batches: list[Batch]) -> list[int]:
        return []

    def describe_memory_shortage(self, rows: int) -> str:
        tokens = self.example_batch.tokens
        return memory.describe_memory_shortage(estimate_state_memory(self, tokens), rows, tokens)


def build_trainer_state(
    recipe: Recipe,
    model: Model,
    table: TokenTable | OnDemandSource,
    machine: Machine,
    pad_id: int,
    note: Callable[[str], None] = ignore_call,
) -> TrainerState:
    """The parts of a run on the rows of a table, or on what a source makes; `note` tells the user a line."""
    if isinstance(table, TokenTable):
        return TrainerState(recipe, model, table, machine, pad_id, note)
    return OnDemandTrainerState(recipe, model, table, machine, pad_id, note)
