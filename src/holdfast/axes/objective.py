"""The contract of an objective: named sums, and what each is divided by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.axes.method import Method
from holdfast.axes.objective_settings import SUPERVISED, ObjectiveSettings
from holdfast.data.row_shapes import shape_of
from holdfast.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from holdfast.axes.curator import Curator
    from holdfast.axes.optimizer import Optimizer
    from holdfast.data.batching.batches import Batch
    from holdfast.data.row_shapes import Column, Kind, RowShape
    from holdfast.data.rows import Rows
    from holdfast.models.policy import Policy
    from holdfast.models.stored_values import PrecomputedStore

Batches = Callable[[], "Iterable[Batch]"]
"""Called as often as needed: micro-batches that hold every row once."""


@dataclass(slots=True)
class Losses:
    """What an objective makes of one micro-batch.

    Args:
        sums: Term name to a differentiable scalar *sum* over the micro-batch.
        metrics: Name to `(sum, count)` of anything worth logging (reward accuracy, margin); detached.
    """

    sums: dict[str, Tensor]
    metrics: dict[str, tuple[float, float]] = field(default_factory=dict)


class Objective(Method):
    """What is minimised.

    An objective never divides by what a batch holds: `normalizers` says what each term is divided by, and the trainer
    sums both over the whole accumulated batch of all ranks and divides once, so that 8 x 1 = 1 x 8 = packed = unpacked.

    What `losses` needs beyond one micro-batch comes in two ways: `precompute` computes it once from the untouched
    model, `step_statistics` once a step from all its sequences.
    """

    settings: ClassVar[ObjectiveSettings] = SUPERVISED
    """Learning rate, epochs and batch of a recipe that says nothing of them."""

    rows: ClassVar[Kind] = "answer"
    """Which sequences a row has: the name of a shape of `holdfast.data.row_shapes`, or a shape of its own."""

    needs_reference: ClassVar[bool] = False
    """Whether it calls `policy.reference_logps`."""

    needs_values: ClassVar[bool] = False
    """Whether it calls `policy.predict_values`: a value head is trained beside the model and saved with the run."""

    value_scale: ClassVar[float] = 0.0
    """Deviation of the value head's first weights, times the root of its width; 0: it begins at zero."""

    makes_reward_model: ClassVar[bool] = False
    """Whether the value head is what is learned, and the run leaves a reward model."""

    needs_rollouts: ClassVar[bool] = False
    """Whether it trains on what the policy said itself, with advantages: in online learning alone."""

    @property
    def has_precompute(self) -> bool:
        """Whether it has a `precompute` of its own."""
        return type(self).precompute is not Objective.precompute

    @property
    def has_step_statistics(self) -> bool:
        """Whether it has a `step_statistics` of its own."""
        return type(self).step_statistics is not Objective.step_statistics

    @classmethod
    def settings_of(cls, knobs: Mapping[str, Any]) -> ObjectiveSettings:
        """`settings`, for objectives whose knobs decide; `knobs` as the recipe has them, not yet validated."""
        return cls.settings

    @property
    def paper_settings(self) -> ObjectiveSettings:
        """What its paper trains with, for its knobs as they are."""
        return self.settings_of(self.model_dump())

    def row_shape(self) -> RowShape:
        """The shape of `rows`, for objectives whose knobs decide."""
        return shape_of(self.rows)

    def value_columns(self) -> tuple[Column, ...]:
        """The numbers every row must carry; in `batch.values`."""
        return ()

    def find_recipe_problem(self, curators: Sequence[Curator], sampling: Any) -> str | None:
        """Why it would not be what its name says in a recipe, and what to do; `None`: it is.

        Args:
            sampling: The recipe's sampling settings (`top_p`, `top_k`).
        """
        return None

    def list_warnings(self, optimizer: Optimizer) -> list[str]:
        """What about these settings looks wrong with an optimizer: one line each, with what to do."""
        return []

    def search_space(self, optimizer: Optimizer) -> dict[str, Any]:
        """What `holdfast search` varies where the recipe does not say, as a recipe's `search.space`; empty: the usual.

        Args:
            optimizer: Of the recipe, with its learning rate.
        """
        return {}

    def find_rows_problem(self, rows: Rows) -> str | None:
        """Likewise of the rows it is to be trained on, as `rows_for` gives them."""
        return None

    def extra_prompts(self) -> tuple[str, ...]:
        """System prompts under which `precompute` reads a row's sequences again: those follow, prompt by prompt."""
        return ()

    def sequences_per_step(self) -> int | None:
        """How many of a row's sequences steps hold, from the first on; the others are for `precompute`. None: all."""
        return None

    def extra_models(self) -> tuple[str, ...]:
        """Other models that `precompute` loads, by name: what is kept of them is computed again once they change."""
        return ()

    def shares_prompts(self) -> bool:
        """Whether pairs may stand in one line behind their common prompt; not if prompts are trained, or parts cut."""
        return True

    def normalizers(self, batch: Batch) -> dict[str, float]:
        """What each term's sum is divided by, as far as this micro-batch goes. No model is needed for it."""
        raise self._build_missing_error("normalizers")

    def precompute(self, policy: Policy, batches: Batches, store: PrecomputedStore) -> None:
        """Compute once, from the untouched model, what `losses` finds in `policy.store`; kept on disk.

        Called in eval mode before the weights move, with gradients off.
        """

    def step_statistics(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Figures [n] of a micro-batch that `losses` needs of the whole step, in `batch.step_values`; no gradients."""
        return {}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        """The terms' sums on one micro-batch."""
        raise self._build_missing_error("losses")

    def _build_missing_error(self, method: str) -> UserError:
        return UserError(f"objective {type(self).__name__} has no method `{method}`: write one")


def attach_step_statistics(statistics: list[list[dict[str, Tensor]]], rank: int, batches: list[Batch]) -> list[Batch]:
    """The micro-batches of one process, each with what `step_statistics` found of the whole step.

    Args:
        statistics: By process, by micro-batch.
        rank: This process.
        batches: Its micro-batches.
    """
    from dataclasses import replace

    import torch

    from holdfast.data.batching.batches import StepValues

    every = [one for part in statistics for one in part]
    begins = {name: sum(len(one[name]) for part in statistics[:rank] for one in part) for name in statistics[rank][0]}
    whole = {name: torch.cat([one[name] for one in every]).to(batches[0].labels.device) for name in begins}
    out = []
    for one, batch in zip(statistics[rank], batches, strict=True):
        step = {}
        for name, value in one.items():
            step[name] = StepValues(whole[name], slice(begins[name], begins[name] + len(value)))
            begins[name] += len(value)
        out.append(replace(batch, step_values=step))
    return out
