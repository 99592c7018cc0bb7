"""What a round of online learning was rewarded with, label by label."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np


def _empty_values() -> np.ndarray:
    """Of no episode, float64 [0]."""
    import numpy as np  # so that listing credits does without

    return np.zeros(0)


@dataclass(slots=True)
class RolloutRewards:
    """What a round of E episodes was rewarded with. Labels are the tokens the model wrote, those of all its turns one
    after another: what the environment said stands nowhere here, so that it costs no discount and has no value.

    Args:
        rewards: Of each episode, float64 [labels]: what a turn earned stands on its last label; a divergence that is
            taken off the reward stands on every label.
        turn_ends: Of each episode, int64 [turns]: the index of each turn's last label.
        groups: int64 [E]: episodes of one prompt have one number.
        truncated: bool [E]: the episode was cut by a limit, and would have gone on.
        values: Of each episode, float64 [labels]: what the value head predicted at each; `None`: there is none.
        next_values: float64 [E]: its prediction for the state an episode was cut at; 0 for one that ended.
    """

    rewards: list[np.ndarray]
    turn_ends: list[np.ndarray]
    groups: np.ndarray
    truncated: np.ndarray
    values: list[np.ndarray] | None = None
    next_values: np.ndarray = field(default_factory=_empty_values)

    @property
    def returns(self) -> np.ndarray:
        """The sum of each episode's rewards, float64 [E]."""
        import numpy as np

        return np.array([rewards.sum() for rewards in self.rewards])

    def rewards_to_come(self) -> list[np.ndarray]:
        """Of each label the sum of the rewards from it on, float64 [labels] an episode."""
        import numpy as np

        return [np.cumsum(rewards[::-1])[::-1] for rewards in self.rewards]

    def group_means(self) -> np.ndarray:
        """Of each episode the mean return of its group, float64 [E]."""
        import numpy as np

        _, index = np.unique(self.groups, return_inverse=True)
        return (np.bincount(index, self.returns) / np.bincount(index))[index]

    def group_sizes(self) -> np.ndarray:
        """Of each episode how many its group has, int64 [E]."""
        import numpy as np

        _, index = np.unique(self.groups, return_inverse=True)
        return np.bincount(index)[index]

    def spread_evenly(self, per_episode: np.ndarray) -> list[np.ndarray]:
        """A number of each episode [E] on each of its labels."""
        import numpy as np

        return [np.full(len(rewards), value) for rewards, value in zip(self.rewards, per_episode, strict=True)]


def whiten_labels(values: list[np.ndarray], floor: float = 0.0, epsilon: float = 0.0) -> list[np.ndarray]:
    """All labels of a round shifted to mean 0 and scaled to variance 1 (the population's).

    Args:
        floor: Least variance that is divided by.
        epsilon: Added to it.
    """
    import numpy as np

    flat = np.concatenate(values)
    scale = np.sqrt(max(flat.var(), floor) + epsilon)
    return [(value - flat.mean()) / scale if scale > 0 else value - flat.mean() for value in values]
