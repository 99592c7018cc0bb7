"""The contract of a tuner: which weights move, what is stored, and whether it comes off again."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.method import Method

if TYPE_CHECKING:
    from holdfast.models.loading import Model


class Tuner(Method):
    """Which weights move."""

    adapter: ClassVar[bool] = False
    """True when the base weights stay bit-identical and what is trained is stored apart (PEFT)."""

    mergeable: ClassVar[bool] = False
    """True when an adapter can be folded into the base weights."""

    counts_stages: ClassVar[str] = ""
    """The knob that is the number of the stage, from 0, where a recipe with stages does not say it."""

    def look_ahead(self, model: Model) -> None:
        """See that these settings fit the modules of `model`, whose weights are not looked at.

        Raises:
            UserError: If not.
        """

    def apply(self, model: Model, seed: int) -> Model:
        """Prepare `model` for training in place (or wrapped), setting `requires_grad` on exactly what trains.

        Args:
            model: The base model in fp32 or bf16, all parameters requiring gradients.
            seed: Seeds every random choice (which half moves, how adapters start).
        Returns:
            The model to train, with the same `forward`.
        """
        raise NotImplementedError

    def cautions(self, model: Model) -> list[str]:
        """What about these settings looks wrong for `model`, before `apply`: one line each, with what to do."""
        return []

    def remarks(self, model: Model) -> list[str]:
        """What these settings come to for `model`, before `apply`: one line each."""
        return []

    def base(self, model: Model) -> AbstractContextManager[None] | None:
        """A context in which `model` computes what the base computes, or `None` if the base is gone."""
        return None

    def merge(self, model: Model) -> Model:
        """The plain transformers model with the training folded in; the identity for tuners without adapter."""
        return model
