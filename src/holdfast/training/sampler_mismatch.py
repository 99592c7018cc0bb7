"""How far what samples and what trains are apart: log-probabilities of the same tokens by the same weights, computed by
both.

An engine has its own kernels, its own precision and its own copy of the weights. Where it computes something else than
the trainer, answers are not of the policy that learns from them, and the ratios of a policy gradient mean nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from holdfast.errors import RunError

if TYPE_CHECKING:
    from holdfast.training.rounds import RoundPlan

LOOKED_AT = 16
"""Answers of a round that the trainer reads again to compare, where no others of its numbers are needed."""


def measure_mismatch(
    sampler: Sequence[Sequence[float]], trainer: Sequence[np.ndarray]
) -> dict[str, tuple[float, float]]:
    """Figures of a round, as (sum, count); none where the sampler gave no log-probabilities.

    With s the sampler's and t the trainer's log-probability of a token that s drew: the ratio w = exp(t - s),
    KL(s || t) by k3 = w - 1 - (t - s) and by k1 = s - t, the largest difference, and as how many tokens of the
    trainer's own they would count if each were weighed by w: (sum w)^2 / sum w^2.

    Args:
        sampler, trainer: Of the tokens of each answer; empty where that is not known.
    """
    pairs = [(s, t) for s, t in zip(sampler, trainer, strict=True) if len(s) and len(t)]
    if not pairs:
        return {}
    away = np.concatenate([np.asarray(t, dtype=np.float64) - np.asarray(s) for s, t in pairs])  # [tokens]
    ratio, tokens = np.exp(away), float(len(away))
    shares = np.exp(away - away.max())  # of the largest, so that it does not overflow
    return {
        "sampler/ratio": (float(ratio.sum()), tokens),
        "sampler/kl": (float((ratio - 1 - away).sum()), tokens),
        "sampler/kl by k1": (float(-away.sum()), tokens),
        "sampler/effective share": (float(shares.sum() ** 2 / np.square(shares).sum()), tokens),
        "sampler/largest difference": (float(np.abs(away).max()), 1.0),
    }


def correct_advantages(
    advantages: list[np.ndarray], sampler: Sequence[Sequence[float]], trainer: Sequence[np.ndarray], plan: RoundPlan
) -> dict[str, tuple[float, float]]:
    """Weigh advantages, where the plan says so, so that tokens the sampler drew count as the trainer's own; the share
    of tokens that the bound cut, as (sum, count). [Yao et al. 2025, truncated importance sampling]

    The ratio is w = exp(t - s) of a token, or of an answer the exponential of the mean of its tokens (of their sum, a
    long answer would leave any bound). It is cut to `bound` ("truncate"), or is 0 outside 1 / bound to bound ("mask").

    Args:
        advantages: Of the tokens of each answer; the list's are replaced.
        sampler, trainer: Log-probabilities of the tokens of each answer; where the sampler gave none, nothing is
            corrected.
        plan: Has the form, the level and the bound.
    """
    if plan.correction is None:
        return {}
    form, level, bound = plan.correction, plan.correction_level, plan.correction_bound
    num_cut, tokens = 0, 0
    for row, (s, t) in enumerate(zip(sampler, trainer, strict=True)):
        away = np.asarray(t, dtype=np.float64) - np.asarray(s) if len(s) else np.zeros(len(t))
        ratio = np.exp(away if level == "token" else np.full(len(away), away.mean()))
        beyond = (ratio > bound) | ((ratio < 1 / bound) if form == "mask" else False)
        advantages[row] = advantages[row] * np.where(beyond, bound if form == "truncate" else 0.0, ratio)
        num_cut, tokens = num_cut + int(beyond.sum()), tokens + len(ratio)
    return {"sampler/cut": (float(num_cut), float(tokens))}


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
