"""How far what samples and what trains are apart: log-probabilities of the same tokens by the same weights, computed by
both.

An engine has its own kernels, its own precision and its own copy of the weights. Where it computes something else than
the trainer, answers are not of the policy that learns from them, and the ratios of a policy gradient mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from holdfast.errors import RunError

LOOKED_AT = 16
"""Answers of a round that the trainer reads again to compare, where no others of its numbers are needed."""


def measure_mismatch(
    sampler: Sequence[Sequence[float]], trainer: Sequence[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Figures of a round, as (sum, count); none where the sampler gave no log-probabilities.

    With s the sampler's and t the trainer's log-probability of a token that s drew: the ratio exp(t - s), KL(s || t) by
    k3 = exp(t - s) - 1 - (t - s), and the largest difference.

    Args:
        sampler, trainer: Of the tokens of each answer; empty where that is not known.
    """
    pairs = [(s, t) for s, t in zip(sampler, trainer, strict=True) if len(s) and len(t)]
    if not pairs:
        return {}
    away = np.concatenate([np.asarray(t, dtype=np.float64) - np.asarray(s) for s, t in pairs])  # [tokens]
    ratio, tokens = np.exp(away), float(len(away))
    return {
        "sampler/ratio": (float(ratio.sum()), tokens),
        "sampler/kl": (float((ratio - 1 - away).sum()), tokens),
        "sampler/largest difference": (float(np.abs(away).max()), 1.0),
    }


def refuse_mismatch(figures: dict[str, tuple[float, float]], bound: float | None, number: int) -> None:
    """See that sampler and trainer are the same policy.

    Args:
        bound: In nats per token; `None`: none.
        number: Of the round, from 0.
    Raises:
        RunError: If they are further apart.
    """
    total, tokens = figures.get("sampler/kl", (0.0, 1.0))
    away = total / tokens
    if bound is None or not math.isfinite(away) or away <= bound:  # weights that are no numbers have their own error
        return
    raise RunError(
        f"round {number + 1}: what samples and what trains have parted: the sampler's log-probabilities of the answers "
        f"are {away:.2g} nats a token (k3) from the trainer's, and online.max_mismatch is {bound:g}; nothing was "
        "learned from this round. Set sampling.engine: transformers or train.precision: fp32, or raise max_mismatch"
    )
