"""Landscape: dimensions and peaks of clouds whose shape is known, and what a section says of a model."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.errors import UserError
from holdfast.methods.analyses.landscape import Landscape
from holdfast.methods.analyses.manifold import (
    Neighbours,
    compute_adjusted_rand,
    compute_label_overlap,
    drop_duplicates,
    estimate_dimension,
    estimate_log_density,
    find_clusters,
)
from holdfast.testing.analyses import build_context


def embed_points(points: np.ndarray, dimensions: int = 10, seed: int = 0) -> np.ndarray:
    """Points in more dimensions, turned."""
    rotation = np.linalg.qr(np.random.default_rng(seed).normal(size=(dimensions, dimensions)))[0]
    return np.pad(points, ((0, 0), (0, dimensions - points.shape[1]))) @ rotation


@pytest.mark.parametrize("dimension", [1, 2, 5])
def test_the_dimension_of_gaussians_and_cubes(dimension: int) -> None:
    rng = np.random.default_rng(dimension)
    for points in (rng.normal(size=(1500, dimension)), rng.random((1500, dimension))):
        neighbours = Neighbours.from_points(embed_points(points))
        assert estimate_dimension(neighbours) == pytest.approx(dimension, rel=0.1)
        # Farther neighbours see the edges of the cloud, which lowers it.
        assert 0.8 * dimension < estimate_dimension(neighbours, 4) < 1.1 * dimension


def test_gride_solves_the_printed_equation_and_begins_with_two_nn() -> None:
    rng = np.random.default_rng(0)
    neighbours = Neighbours.from_points(rng.normal(size=(300, 3)))
    r = neighbours.distances
    assert estimate_dimension(neighbours) == pytest.approx(300 / np.log(r[:, 2] / r[:, 1]).sum(), abs=1e-12)
    for n1 in (2, 8):
        d, mu, n2 = estimate_dimension(neighbours, n1), r[:, 2 * n1] / r[:, n1], 2 * n1
        left = 300 / d + (n2 - n1 - 1) * (np.log(mu) / (1 - mu**-d)).sum() - (n2 - 1) * np.log(mu).sum()
        assert left == pytest.approx(0, abs=1e-5)


def test_density_of_a_line() -> None:
    """Points at equal distances of h on a line: the k-th neighbour is k h / 2 away, so that the density is 1 / h N."""
    neighbours = Neighbours.from_points(np.arange(201.0)[:, None] * 0.5)
    density = np.exp(estimate_log_density(neighbours, 8, 1.0))
    assert density[100] == pytest.approx(8 / (2 * 4 * 0.5 * 201))


def test_blobs_are_found_as_they_are_in_any_order() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(4), 90)
    points = embed_points(rng.normal(size=(360, 3)) + 12 * np.eye(4)[:, :3][labels])
    order = rng.permutation(360)
    for places in (np.arange(360), order):
        neighbours = Neighbours.from_points(points[places])
        clusters = find_clusters(neighbours, estimate_log_density(neighbours, 16, 3.0), 16)
        assert compute_adjusted_rand(clusters.tolist(), labels[places].tolist()) == 1
        assert compute_label_overlap(neighbours, labels[places].tolist()) == 1
    flat = Neighbours.from_points(rng.random((400, 2)))
    assert find_clusters(flat, estimate_log_density(flat, 16, 2.0), 16).max() == 0, "noise has no peaks of its own"


def test_agreement_of_partitions() -> None:
    assert compute_adjusted_rand([0, 0, 1, 1], ["b", "b", "a", "a"]) == 1
    assert compute_adjusted_rand([0, 0, 1, 1], [0, 1, 0, 1]) == pytest.approx(-0.5)
    assert compute_adjusted_rand([0, 0, 1, 2], [0, 0, 1, 1]) == pytest.approx(4 / 7)
    rng = np.random.default_rng(0)
    assert abs(compute_adjusted_rand(rng.integers(0, 5, 3000).tolist(), rng.integers(0, 5, 3000).tolist())) < 0.01
    assert drop_duplicates(np.array([[1.0], [2], [1], [3]])).tolist() == [0, 1, 3]


def test_the_section_of_a_model() -> None:
    context, (base, _) = build_context()
    section = Landscape(k=4, shots=2).measure(context)
    names = [row[0] for row in section.table.rows]
    layers = base.config.num_hidden_layers + 1
    assert names == ["base"] * layers + ["base, 2 shots"] * layers + ["tuned"] * layers
    embedded = section.table.rows[0]
    assert embedded[2] == 1, "every question ends with the same token"
    assert embedded[3:] == (None,) * 6
    last = section.table.rows[layers - 1]
    assert last[2] > 16
    assert 0.5 < last[3] < 60
    assert {figure.y for figure in section.figures} >= {"intrinsic dimension", "ARI with tasks"}
    still = Landscape(k=4, shots=0).measure(build_context(is_changed=False)[0])
    assert [row[1:] for row in still.table.rows[:layers]] == [row[1:] for row in still.table.rows[layers:]]
    with pytest.raises(UserError, match=r"raise evaluate\.items"):
        Landscape(k=64).measure(context)
