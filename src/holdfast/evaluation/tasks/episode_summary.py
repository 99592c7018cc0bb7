"""What episodes come to in a report: how long they were, what they returned, how often the first turn was enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from holdfast.evaluation.task import ItemResult


def summarise_episodes(items: Sequence[ItemResult]) -> dict[str, float]:
    """Mean turns, mean return, and the share of episodes that succeeded at the first turn, of those that count."""
    return {
        "turns": float(np.mean([item.extra["turns"] for item in items])),
        "return": float(np.mean([item.extra["return"] for item in items])),
        "first": float(np.mean([item.extra["first"] for item in items])),
    }
