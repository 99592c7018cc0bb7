"""Where the batches of a step come from: the rows of a table, or whatever makes them when they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from holdfast.data.batching.batches import Batch, TokenTable
from holdfast.data.batching.step_size import StepSize
from holdfast.errors import UserError
from holdfast.training import memory
from holdfast.training.setup import Bench

if TYPE_CHECKING:
    from collections.abc import Sequence

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

    def step(self, index: int, policy: Policy) -> list[Batch | None]:
        """The micro-batches of 0-based step `index`; `None` where this process has no rows."""

    def progress(self, done: int) -> float:
        """How far `done` steps are, as the log's `epoch`."""

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps of it, in JSON types."""

    def load(self, state: dict[str, Any]) -> None:
        """Go on from what `state` gave; empty before the first step."""


class MadeOnDemand(BatchSource, Protocol):
    """A source without a table, which says itself what the trainer must know before the first step."""

    fingerprint: str
    """Names everything its batches depend on, but for the policy; a checkpoint belongs to it."""

    def example(self) -> Batch:
        """A batch like the largest there will be: it shows whether memory suffices, and which terms there are."""


class DemandBench(Bench):
    """The parts of a run whose batches are made when they are asked for."""

    has_table = False

    def __init__(self, recipe: Recipe, model: Model, source: MadeOnDemand, machine: Machine, pad_id: int) -> None:
        if machine.world > 1 or machine.sharded:
            raise UserError("a source that makes its batches runs on one process; start it without a launcher")
        if recipe.train.max_steps is None:
            raise UserError("train.max_steps: say how many steps; batches that are made on demand have no end")
        if recipe.objective.prepares:
            raise UserError(
                f"objective {type(recipe.objective).__name__} computes something of all rows before training; here "
                "there are none yet: choose one that has no `prepare`"
            )
        if recipe.objective.needs_reference and not recipe.tuner.adapter:
            raise UserError(
                f"objective {type(recipe.objective).__name__} needs the base model beside the trained one, for rows "
                "that do not exist yet; train an adapter, which can be switched off (tuner: lora)"
            )
        self.recipe, self.model, self.machine, self.pad_id = recipe, model, machine, pad_id
        self.source, self.shown = source, source.example()
        tokens, rows = self.shown.tokens, self.shown.n_rows
        self.step_size = StepSize(tokens, False, rows, tokens / rows, self.shown.n_sequences // rows, 0, 0)

    def _layout(self) -> Layout:
        packed = len(self.shown.input_ids) == 1 and self.shown.n_sequences > 1
        if packed and not self.policy.packs:
            raise UserError("this model cannot keep packed rows apart; let the source make padded batches")
        return "packed" if packed else "padded"

    def _share_prompts(self) -> None:
        """Rows that are made are as they are made."""

    def _first_size(self, state: dict[str, Any]) -> int:
        return memory.ONE_MICRO_BATCH if self.recipe.optimizer.in_backward else self.shown.tokens

    def resize(self, micro_tokens: int) -> None:
        self.micro_tokens = micro_tokens

    def _count_steps(self) -> None:
        self.steps = self.recipe.train.max_steps or 0

    def batch(self, rows: Sequence[int] | np.ndarray) -> Batch | None:
        return self.shown

    def shortest(self) -> Batch:
        return self.placed([0])

    def longest(self) -> list[int]:
        return [0]

    def few(self) -> Batch:
        return self.placed([0])

    def culprits(self, batches: list[Batch]) -> list[int]:
        return []

    def advice(self, rows: int) -> str:
        states = sum(t.numel() * t.element_size() for t in self.rule.state().values())
        per_token = memory.activation_bytes(self.policy.causal, self.recipe.train.gradient_checkpointing)
        return memory.advice(self.model, states, rows, self.shown.tokens, per_token)


def make_bench(recipe: Recipe, model: Model, table: TokenTable | MadeOnDemand, machine: Machine, pad_id: int) -> Bench:
    """The parts of a run on the rows of a table, or on what a source makes."""
    if isinstance(table, TokenTable):
        return Bench(recipe, model, table, machine, pad_id)
    return DemandBench(recipe, model, table, machine, pad_id)
