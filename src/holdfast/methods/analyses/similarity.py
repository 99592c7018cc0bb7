"""How alike two sets of vectors are, and two sets of predictions: exact formulas in double precision."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

KEEP = 0.99
"""Share of the sum of singular values that SVCCA's directions hold."""


def compute_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Linear centred kernel alignment with the unbiased HSIC. [Kornblith et al. 2019, 1905.00414; Song et al. 2012]

    Args:
        x, y: [N, D1] and [N, D2], N of 4 or more. The estimate may leave [0, 1]; of constant vectors it is 1 if both
            are, else 0.
    """
    grams = [one.astype(np.float64) @ one.astype(np.float64).T for one in (x, y)]
    own = [_unbiased_hsic(gram, gram) for gram in grams]
    if min(own) <= 0:
        return float(np.allclose(grams[0], grams[1]))
    return float(_unbiased_hsic(*grams) / np.sqrt(own[0] * own[1]))


def _unbiased_hsic(k: np.ndarray, m: np.ndarray) -> float:
    """Of two Gram matrices [N, N]; diagonals do not count."""
    n = len(k)
    k, m = k - np.diag(np.diag(k)), m - np.diag(np.diag(m))
    both = k.sum(0) @ m.sum(0)
    return float((np.sum(k * m) + k.sum() * m.sum() / ((n - 1) * (n - 2)) - 2 * both / (n - 2)) / (n * (n - 3)))


def compute_procrustes(x: np.ndarray, y: np.ndarray) -> float:
    """1 - the nuclear norm of X'Y, both centred and of norm 1: half the squared distance after the best rotation."""
    a, b = (_unit_norm(one) for one in (x, y))
    if not a.any() and not b.any():
        return 0.0  # neither varies
    return float(1 - np.linalg.svd(a.T @ b, compute_uv=False).sum())


def _unit_norm(x: np.ndarray) -> np.ndarray:
    from_mean = x.astype(np.float64) - x.astype(np.float64).mean(0)
    return from_mean / (np.linalg.norm(from_mean) or 1.0)


def compute_svcca(x: np.ndarray, y: np.ndarray) -> tuple[float, int]:
    """1 - the mean canonical correlation of the leading directions, and how many there are. [Raghu et al. 2017]"""
    kept_directions = []
    for one in (x, y):
        u, s, _ = np.linalg.svd(_unit_norm(one), full_matrices=False)
        count = int(np.searchsorted(np.cumsum(s) / (s.sum() or 1.0), KEEP - 1e-12) + 1)
        kept_directions.append(u[:, :count])
    correlations = np.linalg.svd(kept_directions[0].T @ kept_directions[1], compute_uv=False)
    return float(1 - correlations.mean()), max(len(d.T) for d in kept_directions)


def compute_disagreement(predictions: np.ndarray) -> float:
    """The mean over pairs of raters of the share of items they label differently; labels [R, N]."""
    pairs = list(_list_pairs(len(predictions)))
    return float(np.mean([np.mean(predictions[a] != predictions[b]) for a, b in pairs]))


def compute_fleiss_kappa(predictions: np.ndarray) -> float:
    """Fleiss' kappa of labels [R, N] by R raters, any number of kinds; 1 where all raters always give one label."""
    labels = np.unique(predictions)
    counts = np.stack([(predictions == label).sum(0) for label in labels], 1).astype(np.float64)  # [N, kinds]
    raters = len(predictions)
    agreement = float(((counts**2).sum(1) - raters).mean() / (raters * (raters - 1)))
    by_chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return 1.0 if by_chance == 1.0 else (agreement - by_chance) / (1 - by_chance)


def compute_jsd(logps: np.ndarray) -> float:
    """Mean Jensen-Shannon divergence in nats over pairs of runs and items; log-probabilities [R, N, C]."""
    values = []
    for a, b in _list_pairs(len(logps)):
        p, q = np.exp(logps[a]), np.exp(logps[b])
        middle = np.log(np.maximum((p + q) / 2, 1e-300))
        terms = 0.5 * np.where(p > 0, p * (logps[a] - middle), 0) + 0.5 * np.where(q > 0, q * (logps[b] - middle), 0)
        values.append(terms.sum(-1).mean())
    return float(np.mean(values))


def compute_mean_jsd(rows: Sequence[np.ndarray]) -> float:
    """The mean over rows of the mean divergence of each.

    Args:
        rows: Log-probabilities under R runs, of each row [R, C], or [R, n, C] at n places.
    """
    return float(np.mean([compute_jsd(row if row.ndim > 2 else row[:, None]) for row in rows]))


def _list_pairs(count: int) -> Sequence[tuple[int, int]]:
    return [(a, b) for a in range(count) for b in range(a)]
