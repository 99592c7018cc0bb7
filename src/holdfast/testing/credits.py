"""What every credit must do: a finite advantage for every label, the same for the same rollouts in any order."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path

import numpy as np

from holdfast.axes.credit import Credit
from holdfast.axes.method import Method
from holdfast.data.rollout_rewards import RolloutRewards
from holdfast.testing.failure import expect_that, require_kind


def example_rollouts(seed: int = 0, equal: bool = False) -> RolloutRewards:
    """Three groups of four episodes with one to three turns of one to six labels, with rewards of 0 to 1 for each turn.

    Args:
        equal: All rewards are 1, and predictions 0.
    """
    rng = np.random.default_rng(seed)
    rewards, ends, values = [], [], []
    for _ in range(12):
        lengths = rng.integers(1, 7, size=rng.integers(1, 4))
        ends.append(np.cumsum(lengths) - 1)
        labels = np.zeros(lengths.sum())
        labels[ends[-1]] = 1.0 if equal else rng.random(len(lengths))
        rewards.append(labels)
        values.append(np.zeros(len(labels)) if equal else rng.normal(size=len(labels)))
    is_cut = np.arange(12) % 4 == 3
    next_values = np.where(is_cut, 0.0 if equal else rng.normal(size=12), 0.0)
    return RolloutRewards(rewards, ends, np.repeat(np.arange(3), 4), is_cut, values, next_values)


def pick_episodes(rollouts: RolloutRewards, order: Sequence[int]) -> RolloutRewards:
    """The same rollouts of these episodes alone, in this order."""
    values = rollouts.values or []
    chosen = list(order)
    return RolloutRewards(
        [rollouts.rewards[i] for i in chosen], [rollouts.turn_ends[i] for i in chosen], rollouts.groups[chosen],
        rollouts.truncated[chosen], [values[i] for i in chosen], rollouts.next_values[chosen],
    )  # fmt: skip


def _check_shapes(credit: Credit, rollouts: RolloutRewards, what: str) -> None:
    kinds = {"assign_advantages": credit.assign_advantages(rollouts), "value_targets": credit.value_targets(rollouts)}
    for name, numbers in kinds.items():
        counts, labels = [len(one) for one in numbers], [len(one) for one in rollouts.rewards]
        expect_that(counts == labels, f"{name} gives {counts} numbers for {what} of {labels} labels")
        expect_that(all(np.isfinite(one).all() for one in numbers), f"{name} of {what} is not finite")


def check_advantages(method: Method, folder: Path) -> None:
    """Every label has a finite advantage and a finite target, the same each time; what it reads stays as it was."""
    credit, rollouts = require_kind(method, Credit), example_rollouts()
    before = deepcopy(rollouts)
    _check_shapes(credit, rollouts, "episodes")
    one, two = credit.assign_advantages(rollouts), credit.assign_advantages(rollouts)
    expect_that(all(map(np.array_equal, one, two)), "the same rollouts get other advantages the second time")
    for name in ("rewards", "values", "turn_ends"):
        same = all(map(np.array_equal, getattr(before, name), getattr(rollouts, name)))
        expect_that(same, f"it changes the {name} it is given; make copies")


def check_hard_cases(method: Method, folder: Path) -> None:
    """Groups whose episodes are all worth the same, and an episode that is alone, get finite advantages."""
    credit = require_kind(method, Credit)
    _check_shapes(credit, example_rollouts(equal=True), "equal episodes")
    _check_shapes(credit, pick_episodes(example_rollouts(), [0]), "an episode that is alone")


def check_order(method: Method, folder: Path) -> None:
    """The order of episodes means nothing, and of two answers to one prompt the better one is worth no less."""
    credit, rollouts = require_kind(method, Credit), example_rollouts()
    order = np.random.default_rng(1).permutation(12).tolist()
    plain, other = credit.assign_advantages(rollouts), credit.assign_advantages(pick_episodes(rollouts, order))
    same = all(np.allclose(plain[i], one, atol=1e-9) for i, one in zip(order, other, strict=True))
    expect_that(same, "in another order the same episodes get other advantages")
    pair = RolloutRewards(
        [np.array([1.0]), np.array([0.25])], [np.array([0])] * 2, np.zeros(2, dtype=int), np.zeros(2, dtype=bool),
        [np.zeros(1)] * 2, np.zeros(2),
    )  # fmt: skip
    better, worse = (float(one[0]) for one in credit.assign_advantages(pair))
    expect_that(better > worse, f"of two answers to a prompt the better is worth {better:g}, the other {worse:g}")


CHECKS = (check_advantages, check_hard_cases, check_order)
