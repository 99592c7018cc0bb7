"""Learning rates that were tried, and whether the best of them lies within."""

from __future__ import annotations

from collections.abc import Mapping

from holdfast.evaluation.statistics.verdicts import MARGIN


def find_rate_beyond(gains: Mapping[float, float], margin: float = MARGIN) -> float | None:
    """Find the learning rate to try next, if an arm gains most at the highest or the lowest of those that it ran at.

    Args:
        gains: In points, at each rate.
        margin: By how much the outermost must be better than its neighbour; by less it stands on a plateau.
    Returns:
        A rate beyond it, by as large a step as the last one and at least twice; `None` if the best lies within.
    """
    rates = sorted(gains)
    for outermost, neighbour in ((rates[-1], rates[-2]), (rates[0], rates[1])) if len(rates) > 1 else ():
        if gains[outermost] == max(gains.values()) and gains[outermost] > gains[neighbour] + margin:
            step = outermost / neighbour
            return float(f"{outermost * (max(step, 2) if step > 1 else min(step, 0.5)):.2g}")
    return None
