"""The contract of a credit: what each token of the model's own answers is worth, from the rewards of a round.

It is apart from the loss: an objective reads advantages and knows nothing of rewards, groups or values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from holdfast.axes.method import Method
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from holdfast.data.rollout_rewards import RolloutRewards


class Credit(Method):
    """What each token is worth: its advantage."""

    needs_values: ClassVar[bool] = False
    """Whether it needs a value head's predictions."""
    compares_group: ClassVar[bool] = False
    """Whether it compares the episodes of a prompt with each other: of one alone it can say nothing."""

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        """The advantage of every label, float64 [labels] an episode; positive: to be said more often."""
        raise UserError(f"credit {type(self).__name__} has no method `assign_advantages`: write one")

    def value_targets(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        """What a value head should have predicted at every label, float64 [labels]: what is still to come."""
        return rollouts.rewards_to_come()
