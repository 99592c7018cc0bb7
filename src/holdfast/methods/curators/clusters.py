"""Rows in clusters of like questions."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from holdfast.axes.curator import CurationContext
from holdfast.data.rows import Rows
from holdfast.errors import UserError

if TYPE_CHECKING:
    import numpy as np


def cluster_questions(
    rows: Rows, count: int, context: CurationContext, encoder: str | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The cluster of each row's question and its distance from the centre, both [rows], by k-means.

    Args:
        count: Clusters at most; some may stay empty.
        encoder: As in `CurationContext.embed`.
    """
    import numpy as np
    from scipy.cluster.vq import kmeans2

    texts = ["\n".join(str(m["content"]) for m in row.prompt if m["role"] == "user") or row.beginning for row in rows]
    vectors = context.embed(texts, encoder).astype(np.float64)  # [rows, D]
    start = choose_start(vectors, min(count, len(rows)), context.seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of clusters that became empty, which is no fault
        centres, labels = kmeans2(vectors, start, iter=20, minit="matrix", missing="warn")
    return labels, np.linalg.norm(vectors - centres[labels], axis=1)


def choose_start(vectors: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Centres to begin with, [count, D]: far from one another, by chance [k-means++, Arthur and Vassilvitskii 2007]."""
    import numpy as np

    rng = np.random.default_rng(seed)
    chosen = [int(rng.integers(len(vectors)))]
    nearest = np.square(vectors - vectors[chosen[0]]).sum(1)  # [rows]: squared distance to the nearest centre
    while len(chosen) < count and nearest.sum() > 0:
        chosen.append(int(rng.choice(len(vectors), p=nearest / nearest.sum())))
        nearest = np.minimum(nearest, np.square(vectors - vectors[chosen[-1]]).sum(1))
    return vectors[chosen]


def take_in_turns(labels: np.ndarray, order: np.ndarray, count: int) -> list[int]:
    """`count` rows, one of each cluster in turn, of each in the order given.

    Args:
        labels: The cluster of each row, [rows].
        order: Numbers of rows, the best first, [rows].
    """
    taken_counts: dict[int, int] = {}
    rounds = []
    for place, number in enumerate(order.tolist()):
        cluster = int(labels[number])
        rounds.append((taken_counts.get(cluster, 0), place, number))
        taken_counts[cluster] = taken_counts.get(cluster, 0) + 1
    return [number for _, _, number in sorted(rounds)[:count]]


def require_encoder(encoder: str | None, curator: str) -> None:
    """See that a sentence encoder is here, if one is named.

    Raises:
        UserError: If the package is not installed, or there is no such model.
    """
    if encoder is None:
        return
    import torch

    from holdfast.models.embeddings import SentenceEncoder

    if not encoder.strip():
        raise UserError(f"curator {curator}: encoder is empty; leave it out, and the base's own states are compared")
    SentenceEncoder(encoder, torch.device("cpu"), f"curator {curator}")
