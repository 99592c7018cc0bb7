"""Landscape: dimensions and peaks of clouds whose shape is known, and what a section says of a model."""

from __future__ import annotations

import numpy as np
import pytest

from holdfast.data.rows import Row
from holdfast.errors import UserError
from holdfast.methods.analyses.landscape import Landscape, label_answers
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


@pytest.mark.parametrize(("dimension", "count"), [(1, 500), (2, 800), (5, 1500)])
def test_the_dimension_of_gaussians_and_cubes(dimension: int, count: int) -> None:
    rng = np.random.default_rng(dimension)
    for points in (rng.normal(size=(count, dimension)), rng.random((count, dimension))):
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
        assert compute_adjusted_rand(clusters.numbers.tolist(), labels[places].tolist()) == 1
        assert compute_label_overlap(neighbours, labels[places].tolist()) == 1
    flat = Neighbours.from_points(rng.random((400, 2)))
    one = find_clusters(flat, estimate_log_density(flat, 16, 2.0), 16)
    assert (one.count, one.is_core.all()) == (1, True), "noise has no peaks of its own"


def build_clouds() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Three overlapping blobs of 3 dimensions in 10, a square, two rings with noise; `RandomState` stays as it is."""
    rng = np.random.RandomState(0)
    centres = np.array([[0.0, 0, 0], [4, 0, 0], [0, 4, 0]])
    blobs = rng.normal(size=(300, 3)) + centres[np.arange(300) % 3]
    turn = np.linalg.qr(rng.normal(size=(10, 10)))[0]
    square = rng.uniform(size=(500, 2))
    angle = rng.uniform(0, 2 * np.pi, size=240)
    rings = np.stack([np.cos(angle), np.sin(angle)], 1) * (1 + np.arange(240) % 2)[:, None]
    return {
        "blobs": (blobs @ turn[:3], np.arange(300) % 3),
        "square": (square, np.arange(500) % 2),
        "rings": (rings + 0.15 * rng.normal(size=(240, 2)), np.arange(240) % 2),
    }


DADAPY = {
    "blobs": (
        (3.009854, 3.124041, 2.93058, 2.997736, 2.73832, 2.26397), 2.895153, (-5.332652, -6.880562, -4.582549),
        {1.6: ([92, 97, 111], 149, 0.854415), 0.4: ([12, 80, 97, 111], 121, 0.804186)},
    ),
    "square": (
        (1.777709, 2.005299, 1.940723, 1.88728, 1.835818, 1.784671), 1.817565, (-0.174596, -0.726905, -0.267822),
        {1.6: ([500], 500, 0.0), 0.8: ([34, 37, 107, 322], 195, 0.001449),
         0.4: ([27, 34, 37, 40, 65, 73, 80, 144], 111, 0.002266)},
    ),
    "rings": (
        (1.993534, 1.992815, 1.580782, 1.39072, 1.69804, 1.81697), 1.994293, (-2.031622, -3.087247, -2.334541),
        {1.6: ([240], 240, 0.0), 0.8: ([25, 29, 42, 144], 102, 0.122308),
         0.4: ([8, 17, 21, 21, 29, 72, 72], 80, 0.087346)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(DADAPY))
def test_dadapy_sees_the_same_shapes(name: str) -> None:
    """What DADApy 0.3.4 says of three clouds: dimensions, densities, peaks, cores, and agreement with labels.

    Made by `d = Data(x); d.compute_distances(maxk=len(x) - 1)`, `d.return_id_scaling_gride(range_max=64)[0]`,
    `d.compute_id_2NN(mu_fraction=0.9)[0]`, `d.set_id(ids[4])`, `d.compute_density_kNN(k=16)` (the first three of
    `log_den`), and for each Z `d.compute_clustering_ADP(Z, halo=False)` and `halo=True`: sizes, points that are no
    halo, and scikit-learn's `adjusted_rand_score` with the labels.

    Two differences, both of N points: its Gride has (N - 1) / d where the printed likelihood has N / d, so that ours
    is larger by 1 / N or less; and its 2NN is the slope of a line through the nearest nine tenths of the ratios, where
    ours is the likeliest dimension, which is its Gride at the first scale.
    """
    x, labels = build_clouds()[name]
    dimensions, fitted, densities, by_z = DADAPY[name]
    neighbours = Neighbours.from_points(x)
    r, n = neighbours.distances, len(x)
    for scale, theirs in enumerate(dimensions):
        n1 = 2**scale
        log_mu = np.log(r[:, 2 * n1] / r[:, n1])
        growth = (n1 - 1) * (log_mu / -np.expm1(-theirs * log_mu)).sum() - (2 * n1 - 1) * log_mu.sum()
        assert (n - 1) / theirs + growth == pytest.approx(0, abs=1e-4 * n)
        assert theirs < estimate_dimension(neighbours, n1) < theirs * (1 + 1.001 / (n - 1))
    ratios = np.sort(np.log(r[:, 2] / r[:, 1]))[: int(0.9 * n)]
    heights = -np.log(1 - np.arange(1, len(ratios) + 1) / n)
    assert ratios @ heights / (ratios @ ratios) == pytest.approx(fitted, abs=2e-6)
    density = estimate_log_density(neighbours, 16, dimensions[4])
    assert density[:3] == pytest.approx(densities, abs=3e-6)
    for z, (sizes, core, agreement) in by_z.items():
        clusters = find_clusters(neighbours, density, 16, z)
        assert sorted(np.bincount(clusters.numbers).tolist()) == sizes
        assert int(clusters.is_core.sum()) == core
        assert compute_adjusted_rand(clusters.numbers.tolist(), labels.tolist()) == pytest.approx(agreement, abs=1e-6)


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
    assert embedded[3:] == (None,) * 7
    last = section.table.rows[layers - 1]
    assert last[2] > 16
    assert 0.5 < last[3] < 60
    assert {figure.y for figure in section.figures} >= {"intrinsic dimension", "ARI with tasks"}
    still = Landscape(k=4, shots=0).measure(build_context(is_changed=False)[0])
    assert [row[1:] for row in still.table.rows[:layers]] == [row[1:] for row in still.table.rows[layers:]]
    assert "those with its task are at most" in section.sentence
    context.tasks = context.tasks[:1]
    alone = Landscape(k=4, shots=0).measure(context)
    assert {row[column] for row in alone.table.rows for column in (5, 7)} == {None}, "one task is no classes"
    assert "its task" not in alone.sentence
    with pytest.raises(UserError, match=r"raise evaluate\.items"):
        Landscape(k=64).measure(context)


def test_answers_are_classes_within_their_task() -> None:
    def ask(answer: str) -> Row:
        return Row([{"role": "user", "content": "?"}, {"role": "assistant", "content": answer}], reference=answer)

    rows = [*(ask(answer) for answer in "ab" * 4), *(ask(str(i)) for i in range(8))]
    tasks = ["intents"] * 8 + ["sums"] * 8
    assert label_answers(rows, tasks) == ["intents: a", "intents: b"] * 4 + [None] * 8
    places = Neighbours.from_points(np.arange(16.0)[:, None])
    halves = ["a"] * 4 + ["b"] * 4
    assert compute_label_overlap(places, [*halves, *[None] * 8]) == compute_label_overlap(
        Neighbours.from_points(np.arange(8.0)[:, None]), halves
    ), "questions without a class are of none"
