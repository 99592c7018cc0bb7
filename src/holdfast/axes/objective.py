"""The contract of an objective: named sums, and what each is divided by."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from holdfast.axes.method import Method
from holdfast.axes.objective_settings import SUPERVISED, Settings
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
    from holdfast.models.stored_values import Kept

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

    An objective never divides by what a batch holds: `counts` says what each term is divided by, and the trainer sums
    both over the whole accumulated batch of all ranks and divides once, so that 8 x 1 = 1 x 8 = packed = unpacked.

    What `losses` needs beyond one micro-batch comes in two ways: `prepare` computes it once from the untouched model,
    `survey` once a step from all its sequences.
    """

    settings: ClassVar[Settings] = SUPERVISED
    """Learning rate, epochs and batch of a recipe that says nothing of them."""

    rows: ClassVar[Kind] = "answer"
    """Which sequences a row has: the name of a shape of `holdfast.data.row_shapes`, or a shape of its own."""

    needs_reference: ClassVar[bool] = False
    """Whether it calls `policy.reference_logps`."""

    needs_values: ClassVar[bool] = False
    """Whether it calls `policy.values`: a value head is trained beside the model and saved with the run."""

    @property
    def prepares(self) -> bool:
        """Whether it has a `prepare` of its own."""
        return type(self).prepare is not Objective.prepare

    @property
    def surveys(self) -> bool:
        """Whether it has a `survey` of its own."""
        return type(self).survey is not Objective.survey

    @classmethod
    def settings_of(cls, knobs: Mapping[str, Any]) -> Settings:
        """`settings`, for objectives whose knobs decide; `knobs` as the recipe has them, not yet validated."""
        return cls.settings

    @property
    def usual(self) -> Settings:
        """What its paper trains with, for its knobs as they are."""
        return self.settings_of(self.model_dump())

    def kind(self) -> RowShape:
        """The shape of `rows`, for objectives whose knobs decide."""
        return shape_of(self.rows)

    def columns(self) -> tuple[Column, ...]:
        """The numbers every row must carry; in `batch.values`."""
        return ()

    def objection(self, curators: Sequence[Curator], sampling: Any) -> str | None:
        """Why it would not be what its name says in a recipe, and what to do; `None`: it is.

        Args:
            sampling: The recipe's sampling settings (`top_p`, `top_k`).
        """
        return None

    def cautions(self, optimizer: Optimizer) -> list[str]:
        """What about these settings looks wrong with an optimizer: one line each, with what to do."""
        return []

    def objection_to(self, rows: Rows) -> str | None:
        """Likewise of the rows it is to be trained on, as `rows_for` gives them."""
        return None

    def prompts(self) -> tuple[str, ...]:
        """System prompts under which `prepare` reads a row's sequences again: those follow, prompt by prompt."""
        return ()

    def in_steps(self) -> int | None:
        """How many of a row's sequences steps hold, from the first on; the others are for `prepare`. None: all."""
        return None

    def models(self) -> tuple[str, ...]:
        """Other models that `prepare` loads, by name: what is kept of them is computed again once they change."""
        return ()

    def shares_prompts(self) -> bool:
        """Whether pairs may stand in one line behind their common prompt; not if prompts are trained, or parts cut."""
        return True

    def counts(self, batch: Batch) -> dict[str, float]:
        """What each term's sum is divided by, as far as this micro-batch goes. No model is needed for it."""
        raise self._lacks("counts")

    def prepare(self, policy: Policy, batches: Batches, kept: Kept) -> None:
        """Compute once, from the untouched model, what `losses` finds in `policy.kept`; kept on disk.

        Called in eval mode before the weights move, with gradients off.
        """

    def survey(self, policy: Policy, batch: Batch) -> dict[str, Tensor]:
        """Figures [n] of a micro-batch that `losses` needs of the whole step, in `batch.step`; gradients are off."""
        return {}

    def losses(self, policy: Policy, batch: Batch) -> Losses:
        """The terms' sums on one micro-batch."""
        raise self._lacks("losses")

    def _lacks(self, method: str) -> UserError:
        return UserError(f"objective {type(self).__name__} has no method `{method}`: write one")


def surveyed(found: list[list[dict[str, Tensor]]], rank: int, batches: list[Batch]) -> list[Batch]:
    """The micro-batches of one process, each with what `survey` found of the whole step.

    Args:
        found: By process, by micro-batch.
        rank: This process.
        batches: Its micro-batches.
    """
    from dataclasses import replace

    import torch

    from holdfast.data.batching.batches import StepValues

    every = [one for part in found for one in part]
    begins = {name: sum(len(one[name]) for part in found[:rank] for one in part) for name in found[rank][0]}
    whole = {name: torch.cat([one[name] for one in every]).to(batches[0].labels.device) for name in begins}
    out = []
    for one, batch in zip(found[rank], batches, strict=True):
        step = {}
        for name, value in one.items():
            step[name] = StepValues(whole[name], slice(begins[name], begins[name] + len(value)))
            begins[name] += len(value)
        out.append(replace(batch, step=step))
    return out
