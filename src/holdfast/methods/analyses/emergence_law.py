"""The emergence law: from which loss of pre-training on fine-tuning brings a skill, by how many rows it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from holdfast.errors import UserError

WALKERS = 32
BATCH_STEPS = 2000
"""Steps between two looks at whether the chains have forgotten where they began."""
MOST_STEPS = 24_000
TIMES = 50
"""Autocorrelation times that the chains must be long."""
LARGEST_R_HAT = 1.05
Law = Literal["log-power", "power"]
NAMES = ("A", "B", "E of the fewest rows", "E of the most rows", "alpha", "log sigma")
CHANCE_SPREAD = 0.05
"""Deviation of the prior of B around the task's chance level."""


@dataclass(frozen=True)
class LawPoints:
    """What was fine-tuned and how it did, [N] each.

    Args:
        losses: Of pre-training, on one text.
        sizes: Rows of fine-tuning, 2 or more.
        scores: From 0 to 1.
        chance: The score of guessing.
        ceiling: The score of answering all: a line that rises with the loss stops there.
        law: How elbows go with rows: by a power of the logarithm, or by a power of the number itself.
    """

    losses: np.ndarray
    sizes: np.ndarray
    scores: np.ndarray
    chance: float
    ceiling: float = np.inf
    law: Law = "log-power"

    @property
    def ends(self) -> tuple[float, float]:
        """The fewest and the most rows."""
        return float(self.sizes.min()), float(self.sizes.max())

    def find_elbow(self, theta: np.ndarray, sizes: np.ndarray) -> np.ndarray:
        """The law at `sizes` [N] for walkers [..., 6]: [..., N]."""
        return interpolate_elbow(theta, sizes, self.ends, self.law)

    def predict_scores(self, theta: np.ndarray) -> np.ndarray:
        """What walkers [..., 6] expect of the points: [..., N]."""
        above = np.maximum(0, self.find_elbow(theta, self.sizes) - self.losses)
        return np.minimum(self.ceiling, theta[..., :1] * above + theta[..., 1:2])


def interpolate_elbow(
    theta: np.ndarray, sizes: np.ndarray, ends: tuple[float, float], law: Law = "log-power"
) -> np.ndarray:
    """E(D) = k (log D)^alpha + C for walkers [..., 6] and sizes [N]: [..., N]; by "power", k D^alpha + C.

    k and C are written by the two ends, E(D_min) and E(D_max): as they stand they are so correlated that no sampler
    moves along them.
    """
    low, high, alpha = (theta[..., i, None] for i in (2, 3, 4))
    rescale = np.log if law == "log-power" else np.asarray
    first, last = (rescale(end) ** alpha for end in ends)
    return low + (high - low) * (rescale(sizes) ** alpha - first) / (last - first)


def log_posterior(theta: np.ndarray, points: LawPoints) -> np.ndarray:
    """Of walkers [W, 6], up to a constant: Gaussian noise, flat priors in bounds, B around chance."""
    slope, floor, low, high, alpha, log_sigma = theta.T
    losses = points.losses
    inside = (slope > 0) & (slope < 10) & (low < high) & (low > losses.min() - 1) & (high < losses.max() + 2)
    inside &= (alpha > 0.05) & (alpha < 4) & (log_sigma > -8) & (log_sigma < 1)
    out = np.full(len(theta), -np.inf)
    if inside.any():
        some = theta[inside]
        residuals = (points.scores - points.predict_scores(some)) / np.exp(some[:, 5:])  # [w, N]
        likelihood = -0.5 * (residuals**2).sum(1) - len(losses) * some[:, 5]
        out[inside] = likelihood - 0.5 * ((floor[inside] - points.chance) / CHANCE_SPREAD) ** 2
    return out


def sample_posterior(points: LawPoints, mode: np.ndarray, seed: int = 0) -> np.ndarray:
    """Draws [M, 6] from two ensembles of walkers, their beginnings left out.

    Raises:
        UserError: If emcee is not installed, or the chains did not come to rest.
    """
    emcee = import_emcee()
    chains = []
    for ensemble in (0, 1):
        rng = np.random.RandomState(1000 * seed + ensemble)
        spread = np.array([0.05, 0.01, 0.05, 0.05, 0.05, 0.1])
        start = mode + spread * rng.standard_normal((WALKERS, len(mode)))
        bad = ~np.isfinite(log_posterior(start, points))
        start[bad] = mode + 1e-4 * rng.standard_normal((int(bad.sum()), len(mode)))
        sampler = emcee.EnsembleSampler(WALKERS, len(mode), log_posterior, args=(points,), vectorize=True)
        state = emcee.State(start, random_state=rng.get_state())
        chains.append(_run_to_rest(sampler, state))
    if (r_hat := compute_r_hat(chains)) > LARGEST_R_HAT:
        raise UserError(f"two samplers of the law do not agree (R-hat {r_hat:.2f}): too few runs for six parameters")
    return np.concatenate([chain.reshape(-1, len(mode)) for chain in chains])


def _run_to_rest(sampler: Any, state: Any) -> np.ndarray:
    """Steps until the chain is long enough for its own autocorrelation; [steps, walkers, 6] without the beginning."""
    steps, time = 0, np.inf
    while steps < MOST_STEPS:
        state = sampler.run_mcmc(state, BATCH_STEPS)
        steps += BATCH_STEPS
        time = float(np.max(sampler.get_autocorr_time(tol=0)))
        if np.isfinite(time) and steps > TIMES * time:
            return np.asarray(sampler.get_chain(discard=int(5 * time), thin=max(1, int(time / 4))))
    raise UserError(
        f"the sampler of the law did not come to rest in {MOST_STEPS:,} steps (autocorrelation {time:.0f} steps): "
        "these runs do not determine it; add runs with other numbers of rows, or models that do better than chance"
    )


def compute_r_hat(chains: Sequence[np.ndarray]) -> float:
    """The largest Gelman-Rubin ratio over the parameters, of chains [steps, walkers, 6] taken each as one."""
    flat = [chain.reshape(-1, chain.shape[-1]) for chain in chains]
    size = min(map(len, flat))
    within = np.mean([part[:size].var(0, ddof=1) for part in flat], 0)
    between = np.var([part[:size].mean(0) for part in flat], 0, ddof=1)
    return float(np.sqrt(1 - 1 / size + between / within).max())


def count_sizes_above(points: LawPoints, mode: np.ndarray) -> int:
    """At how many sizes some model stands above its elbow: scores more than two deviations above the floor."""
    elbow = points.find_elbow(mode, points.sizes)
    is_above = (points.losses < elbow) & (points.scores > mode[1] + 2 * np.exp(mode[5]))
    return len(set(points.sizes[is_above].tolist()))


def import_emcee() -> Any:
    """The sampler's library.

    Raises:
        UserError: If it is not installed.
    """
    try:
        import emcee
    except ImportError:
        raise UserError("needs emcee, which is not installed: pip install 'holdfast[emergence]'") from None
    return emcee
