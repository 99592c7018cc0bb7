"""The shape of a cloud of points: its dimension, its density peaks, and how they go with labels; exact, in fp64.

Formulas: Facco et al. 2017 (arXiv 1803.06992, TwoNN), Denti et al. 2022 (arXiv 2104.13832, Gride), d'Errico et al. 2021
(arXiv 1802.10549, advanced density peaks), as DADApy (Glielmo et al. 2022, arXiv 2205.03373) computes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lgamma, log, pi

import numpy as np


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Of every point all others, nearest first, itself before them: distances and indices, [N, N] both."""

    distances: np.ndarray
    indices: np.ndarray

    @classmethod
    def from_points(cls, points: np.ndarray) -> Neighbours:
        """From coordinates [N, D], of which no two points are equal."""
        x = points.astype(np.float64) - points.astype(np.float64).mean(0)
        squares = (x**2).sum(1)
        every = np.sqrt(np.maximum(squares[:, None] + squares - 2 * x @ x.T, 0))
        np.fill_diagonal(every, -1.0)  # itself first, whatever rounding says
        indices = np.argsort(every, axis=1, kind="stable")
        distances = np.take_along_axis(every, indices, 1)
        distances[:, 0] = 0
        return cls(distances, indices)


def drop_duplicates(points: np.ndarray) -> np.ndarray:
    """Indices of the points [N, D] of which no earlier one is equal, in order."""
    return np.sort(np.unique(points, axis=0, return_index=True)[1])


def estimate_dimension(neighbours: Neighbours, first: int = 1) -> float:
    """The intrinsic dimension at the scale between the n-th and the 2n-th neighbour, n = `first`, by Gride.

    With n = 1 this is the maximum-likelihood form of TwoNN, N / sum log(r2 / r1).
    """
    n1, n2 = first, 2 * first
    log_mu = np.log(neighbours.distances[:, n2] / neighbours.distances[:, n1])
    log_mu = log_mu[np.isfinite(log_mu) & (log_mu > 0)]
    n, total = len(log_mu), log_mu.sum()
    if not n:
        return 0.0
    if first == 1:
        return float(n / total)

    def likelihood_slope(d: float) -> float:
        """The derivative of the log-likelihood, which falls with d."""
        return n / d + (n2 - n1 - 1) * float((log_mu / -np.expm1(-d * log_mu)).sum()) - (n2 - 1) * total

    low, high = 1e-3, 1e3
    while high - low > 1e-10 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if likelihood_slope(middle) > 0 else (low, middle)
    return float((low + high) / 2)


def estimate_log_density(neighbours: Neighbours, k: int, dimension: float) -> np.ndarray:
    """Log-density [N] from the distance of the k-th neighbour; its error is 1 / sqrt(k) everywhere."""
    log_ball = dimension / 2 * log(pi) - lgamma(dimension / 2 + 1)  # volume of the unit ball
    radii = np.maximum(neighbours.distances[:, k], 1e-300)
    return log(k) - log_ball - dimension * np.log(radii) - log(len(radii))


@dataclass(frozen=True, slots=True)
class Clusters:
    """Which density peak each point belongs to.

    Args:
        numbers: [N], from 0.
        is_core: [N], whether a point is at least as dense as the highest border of its cluster; others are its halo.
    """

    numbers: np.ndarray
    is_core: np.ndarray

    @property
    def count(self) -> int:
        return int(self.numbers.max()) + 1


def find_clusters(neighbours: Neighbours, log_density: np.ndarray, k: int, z: float = 1.6) -> Clusters:
    """Density peaks that stand out by `z` times the errors of peak and saddle.

    Errors of a peak and its saddle are added up, as DADApy does.
    """
    error = 1 / np.sqrt(k)
    near = neighbours.indices[:, 1 : k + 1]  # [N, k]
    centres = _find_peaks(near, log_density)
    cluster = np.full(len(near), -1)
    cluster[centres] = np.arange(len(centres))
    for i in np.argsort(-log_density, kind="stable"):
        if cluster[i] < 0:  # it follows the nearest of those that have a cluster: all denser ones do by now
            around = neighbours.indices[i, 1:]
            cluster[i] = cluster[around[np.argmax(cluster[around] >= 0)]]
    saddles = _find_saddles(neighbours, near, centres, cluster, log_density)
    return _merge_clusters(cluster, log_density, centres, saddles, 2 * z * error)


def _find_peaks(near: np.ndarray, density: np.ndarray) -> list[int]:
    """Points denser than their neighbours and in no denser point's neighbourhood."""
    candidates = np.flatnonzero((density[near] <= density[:, None]).all(1))
    return [int(i) for i in candidates if not (density[(near == i).any(1)] > density[i]).any()]


def _find_saddles(
    neighbours: Neighbours, near: np.ndarray, centres: Sequence[int], cluster: np.ndarray, density: np.ndarray
) -> np.ndarray:
    """Log-density of the border between any two clusters, [C, C]; -inf where they do not touch."""
    saddles = np.full((len(centres), len(centres)), -np.inf)
    peaks = set(centres)
    for i, around in enumerate(near):
        others = around[cluster[around] != cluster[i]]
        if i in peaks or not len(others):
            continue
        j = others[0]  # the nearest of another cluster; a border point is the nearest of its own to that one
        row = neighbours.indices[j, 1:]
        if row[cluster[row] == cluster[i]][0] == i:
            a, b = cluster[i], cluster[j]
            saddles[a, b] = saddles[b, a] = max(saddles[a, b], density[i])
    return saddles


def _merge_clusters(
    cluster: np.ndarray, density: np.ndarray, centres: Sequence[int], saddles: np.ndarray, margin: float
) -> Clusters:
    """Join clusters of which one stands out by less than the margin over their saddle, from the highest saddle on."""
    peaks, saddles, names = density[list(centres)], saddles.copy(), np.arange(len(centres))
    while True:
        heights = np.minimum(peaks[:, None], peaks[None, :]) - saddles
        pairs = np.argwhere(np.triu(np.isfinite(saddles) & (heights < margin), 1))
        if not len(pairs):
            break
        a, b = max(pairs.tolist(), key=lambda pair: saddles[pair[0], pair[1]])
        keep, drop = (a, b) if peaks[a] >= peaks[b] else (b, a)
        names[names == drop] = keep
        saddles[keep] = saddles[:, keep] = np.maximum(saddles[keep], saddles[drop])
        saddles[drop] = saddles[:, drop] = -np.inf
        saddles[keep, keep] = -np.inf
    own = names[cluster]
    return Clusters(np.unique(own, return_inverse=True)[1], density >= saddles.max(1)[own])


def compute_adjusted_rand(one: Sequence[object], other: Sequence[object]) -> float:
    """The adjusted Rand index of two labellings: 1 for the same partition, 0 by chance. [Hubert and Arabie 1985]"""
    a, b = (np.unique(np.asarray(labels, dtype=str), return_inverse=True)[1] for labels in (one, other))
    table = np.zeros((a.max() + 1, b.max() + 1))
    np.add.at(table, (a, b), 1)
    pairs, rows, columns = (float((t * (t - 1) / 2).sum()) for t in (table, table.sum(1), table.sum(0)))
    everything = len(a) * (len(a) - 1) / 2
    by_chance, most = rows * columns / everything, (rows + columns) / 2
    return 1.0 if most == by_chance else (pairs - by_chance) / (most - by_chance)


def compute_label_overlap(neighbours: Neighbours, labels: Sequence[object], share: float = 0.3) -> float:
    """The share of a point's neighbours with its label, over as many as `share` of its class; classes weigh alike.

    Points with the label `None` are neighbours of others, and of no class.
    """
    own = np.unique([str(label) for label in labels], return_inverse=True)[1]
    values: dict[int, list[float]] = {}
    sizes = np.bincount(own)
    for i, label in enumerate(own):
        if labels[i] is not None:
            count = max(1, int(share * sizes[label]))
            values.setdefault(int(label), []).append(float((own[neighbours.indices[i, 1 : count + 1]] == label).mean()))
    return float(np.mean([np.mean(some) for some in values.values()]))
