"""Similarity of vectors and of predictions: golden numbers, identities, and scipy's and statsmodels' definitions."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from holdfast.methods.analyses.similarity import (
    compute_cka,
    compute_disagreement,
    compute_fleiss_kappa,
    compute_jsd,
    compute_procrustes,
    compute_svcca,
)

I8 = np.arange(8)[:, None]
X = np.sin(0.5 * I8 + 1.1 * np.arange(3))  # [8, 3]
Y = np.cos(0.4 * I8 * (np.arange(4) + 1))  # [8, 4]
LABELS = np.array([[0, 1, 2, 1, 0, 2], [0, 1, 1, 1, 0, 2], [0, 2, 2, 1, 1, 2], [0, 1, 2, 0, 0, 2]])


def log_softmax(z: np.ndarray) -> np.ndarray:
    return z - np.log(np.exp(z).sum(-1, keepdims=True))


RUN, ITEM, KIND = np.meshgrid(np.arange(4), np.arange(6), np.arange(3), indexing="ij")
LOGPS = log_softmax(np.sin(RUN + 0.9 * ITEM + 1.7 * KIND))  # [4, 6, 3]


def test_golden_numbers() -> None:
    assert compute_disagreement(LABELS) == pytest.approx(1 / 3, abs=1e-8)
    assert compute_fleiss_kappa(LABELS) == pytest.approx(0.5, abs=1e-8)
    assert compute_jsd(LOGPS) == pytest.approx(0.09948933, abs=1e-8)
    assert compute_procrustes(X, Y) == pytest.approx(0.29268415, abs=1e-8)
    assert 1 - compute_cka(X, Y) == pytest.approx(0.48005129, abs=1e-8)
    assert compute_svcca(X, Y) == (pytest.approx(0.003543, abs=1e-8), 4)


def test_identities() -> None:
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    for other in (X, X @ rotation, 3 * X + 5):
        assert compute_cka(X, other) == pytest.approx(1, abs=1e-12)
        assert compute_procrustes(X, other) == pytest.approx(0, abs=1e-12)
        assert compute_svcca(X, other)[0] == pytest.approx(0, abs=1e-12)
    for measure in (compute_cka, compute_procrustes, lambda x, y: compute_svcca(x, y)[0]):
        assert measure(X, Y) == pytest.approx(measure(Y, X), abs=1e-12)
    assert compute_jsd(LOGPS[::-1]) == pytest.approx(compute_jsd(LOGPS), abs=1e-12)
    assert compute_fleiss_kappa(LABELS[::-1, ::-1]) == pytest.approx(compute_fleiss_kappa(LABELS), abs=1e-12)
    assert compute_cka(0 * X, 0 * X) == 1, "what does not vary in both is alike"
    assert compute_procrustes(0 * X, 0 * X) == 0
    assert compute_cka(0 * X, X) == 0
    same = np.stack([LABELS[0]] * 3)
    assert compute_disagreement(same) == 0
    assert compute_fleiss_kappa(same) == pytest.approx(1)
    assert compute_fleiss_kappa(np.zeros((3, 5), int)) == 1
    assert compute_jsd(np.stack([LOGPS[0]] * 3)) == pytest.approx(0, abs=1e-12)


def test_other_definitions() -> None:
    pairs = [(a, b) for a in range(4) for b in range(a)]
    by_scipy = np.mean(
        [jensenshannon(np.exp(LOGPS[a, i]), np.exp(LOGPS[b, i])) ** 2 for a, b in pairs for i in range(6)]
    )
    assert compute_jsd(LOGPS) == pytest.approx(by_scipy, abs=1e-12)
    rng = np.random.default_rng(0)
    assert abs(compute_fleiss_kappa(rng.integers(0, 3, (5, 4000)))) < 0.02, "independent labels agree by chance alone"
    # the centred HSIC of Song et al. 2012 as a mean over all ordered quadruples of different items
    from itertools import permutations

    k, m = X @ X.T, Y @ Y.T

    def hsic(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.mean([a[i, j] * (b[i, j] + b[q, r] - 2 * b[i, q]) for i, j, q, r in permutations(range(8), 4)]))

    assert compute_cka(X, Y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)), abs=1e-10)
