"""The batches of a step as the rows of a table give them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Batch
    from holdfast.models.policy import Policy
    from holdfast.training.setup import TrainerState


class TableSource:
    """Batches of the rows of a table, as the sampler deals them; nothing to save, since a step's number says all."""

    def __init__(self, trainer_state: TrainerState) -> None:
        self.trainer_state = trainer_state

    def step_batches(self, index: int, policy: Policy) -> list[Batch | None]:
        """The micro-batches of step `index`, in order, on the CPU."""
        trainer_state = self.trainer_state
        return [
            trainer_state.collate_rows(part)
            for rows in trainer_state.sampler.rank_micro_batches(index)
            for part in trainer_state.split_rows(rows)
        ]

    def step_figures(self) -> dict[str, tuple[float, float]]:
        """Rows of a table come about in no way worth logging."""
        return {}

    def epoch_at(self, steps_done: int) -> float:
        """Passes over the rows after `done` steps."""
        return self.trainer_state.sampler.epoch_at(steps_done)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """There is nothing to load."""
