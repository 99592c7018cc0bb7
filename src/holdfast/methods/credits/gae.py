"""Generalised advantage estimation over the model's own tokens or turns."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from holdfast.axes.credit import Credit
from holdfast.data.rollout_rewards import RolloutRewards, whiten_labels
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np


class GAE(Credit):
    """How much better than a value model expected things went. [Schulman et al. 2015, arXiv 1506.02438]

    What it does: sums, from each token on, by how much rewards and the next prediction exceeded the prediction, further
    ones discounted. It runs over the model's own tokens alone: what an environment says between two turns costs no
    discount. An episode that ended is worth nothing afterwards; one that was cut goes on with the predicted value.

    When it helps: long episodes with rewards on the way, and a value head (`objective: ppo`).

    When it fails: with few rounds the value head knows nothing yet, and this is the return less a number.

    Formula, for label t with reward r and prediction V (of the state cut at, or 0, after the last):

        delta_t = r_t + gamma V_{t+1} - V_t
        A_t     = delta_t + gamma lam A_{t+1}

    and then, unless `whiten` is off, shifted and scaled over all labels of the round. With `unit: turn` an answer is
    one action: its prediction is that of its first label, its reward the sum of its labels'.

    RLHF: gamma 1, lam 0.95, a token a step; "SFT memorises, RL generalises" (2501.17161): gamma 0.9, unit turn.
    """

    paper: ClassVar[str] = "Schulman et al. 2015, arXiv 1506.02438"

    needs_values: ClassVar[bool] = True

    gamma: float = Field(1.0, ge=0, le=1, description="What a step later is worth.")
    lam: float = Field(0.95, ge=0, le=1, description="How far rewards are followed.")
    unit: Literal["token", "turn"] = Field("token", description="What a step is.")
    whiten: bool = Field(True, description="Shift and scale the advantages of a round.")

    def assign_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        advantages = self.raw_advantages(rollouts)
        return whiten_labels(advantages, epsilon=1e-8) if self.whiten else advantages

    def value_targets(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        """The predictions, corrected by their advantages before these are whitened."""
        assert rollouts.values is not None
        return [a + v for a, v in zip(self.raw_advantages(rollouts), rollouts.values, strict=True)]

    def raw_advantages(self, rollouts: RolloutRewards) -> list[np.ndarray]:
        """Before they are whitened."""
        import numpy as np

        if rollouts.values is None:
            raise UserError("credit gae needs a value head, which objective ppo trains; or use credit: group")
        after = rollouts.next_values if len(rollouts.next_values) else np.zeros(len(rollouts.rewards))
        episodes = zip(rollouts.rewards, rollouts.values, rollouts.turn_ends, after, strict=True)
        if self.unit == "token":
            return [self.fold_steps(rewards, values, next_value) for rewards, values, _, next_value in episodes]
        out = []
        for rewards, values, ends, next_value in episodes:
            begins = np.append(0, ends[:-1] + 1)
            turns = self.fold_steps(np.add.reduceat(rewards, begins), values[begins], next_value)
            out.append(np.repeat(turns, np.diff(np.append(begins, len(rewards)))))
        return out

    def fold_steps(self, rewards: np.ndarray, values: np.ndarray, next_value: float) -> np.ndarray:
        """Advantages of steps with these rewards and predictions; `next_value` is what follows the last."""
        import numpy as np

        advantages, carry = np.zeros(len(rewards)), 0.0
        for t in reversed(range(len(rewards))):
            carry = rewards[t] + self.gamma * next_value - values[t] + self.gamma * self.lam * carry
            advantages[t], next_value = carry, values[t]
        return advantages
