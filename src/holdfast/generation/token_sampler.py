"""Drawing the next token: random numbers by counter, and the token they choose."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from holdfast.axes.engine import SamplingParams
from holdfast.models.placement import widest_dtype

GAMMA, MIX_FIRST, MIX_SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
"""Of SplitMix64 (Steele et al. 2014): what its counter goes up by, and what its bits are multiplied with."""


def uniform_numbers(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Random numbers in [0, 1) by counter: the `positions`-th of each of `seeds` (uint64), both [n]; SplitMix64."""
    z = seeds + (positions.astype(np.uint64) + np.uint64(1)) * np.uint64(GAMMA)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(MIX_FIRST)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(MIX_SECOND)
    return ((z ^ (z >> np.uint64(31))) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def uniform_tensor(seeds: Tensor, positions: Tensor) -> Tensor:
    """`uniform_numbers` on the device of `seeds`, the same bits: fp64 [n].

    Args:
        seeds: The seeds' bits as int64 [n]: torch has no arithmetic of unsigned numbers, and products wrap alike.
        positions: int64 [n].
    """
    z = seeds + (positions + 1) * _as_signed(GAMMA)
    z = (z ^ _shift_right(z, 30)) * _as_signed(MIX_FIRST)
    z = (z ^ _shift_right(z, 27)) * _as_signed(MIX_SECOND)
    return _shift_right(z ^ _shift_right(z, 31), 11).to(widest_dtype(seeds.device)) * 2.0**-53


def _as_signed(bits: int) -> int:
    """The number whose 64 bits, with a sign, are those of an unsigned one."""
    return bits - 2**64 if bits >= 2**63 else bits


def _shift_right(z: Tensor, count: int) -> Tensor:
    """int64 bits shifted without their sign, which torch's own shift would copy into the empty places."""
    return (z >> count) & (2 ** (64 - count) - 1)


def compute_token_logps(logits: Tensor, tokens: Tensor) -> Tensor:
    """The log-probability of each of `tokens` [n] by `logits` [n, vocabulary], before temperature and cuts; fp32."""
    logits = logits.float()
    return logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)


def choose_tokens(logits: Tensor, uniform: Tensor | None, params: SamplingParams) -> Tensor:
    """The next token of each sequence, int64 [n].

    Args:
        logits: [n, vocabulary].
        uniform: One number in [0, 1) a sequence, [n], fp64 where the device has it; not needed when greedy.
        params: `temperature` first, then `top_k`, then `top_p`; tokens as likely as the last one kept are kept too.
    """
    if params.temperature == 0 or uniform is None:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() / params.temperature, -1)
    if 0 < params.top_k < chances.shape[-1]:
        least = chances.topk(params.top_k).values[:, -1:]
        chances = chances.where(chances >= least, 0.0)
        chances = chances / chances.sum(-1, keepdim=True)
    if params.top_p < 1:
        descending = chances.sort(-1, descending=True).values
        in_nucleus = descending.cumsum(-1) - descending < params.top_p  # the mass before it is still too little
        least = descending.gather(-1, in_nucleus.sum(-1, keepdim=True) - 1)
        chances = chances.where(chances >= least, 0.0)
    mass = chances.cumsum(-1, dtype=widest_dtype(chances.device))
    total = mass[:, -1:]
    target = (uniform.to(mass.dtype)[:, None] * total).minimum(torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(mass, target, right=True)[:, 0]
