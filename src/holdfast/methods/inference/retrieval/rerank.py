"""How well each path goes with each of several texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from math import log
from typing import TYPE_CHECKING, Literal

from holdfast.data.overlap.words import split_words
from holdfast.methods.inference.retrieval.index import EmbeddingIndex

if TYPE_CHECKING:
    import numpy as np

    from holdfast.axes.inference import TextEmbedder

Rerank = Literal["embedding", "words"]


def score_paths(
    paths: Sequence[str], texts: Sequence[str], by: Rerank, embedder: TextEmbedder | None = None
) -> np.ndarray:
    """Cosines fp32 [paths, texts], of embeddings or of words.

    Entry (i, j) is of path i and text j. The reference (Artessay/HyKGE 488bb44) computes all pairs text by text and
    reshapes them as if they went path by path, so that its maximum over texts is one over the wrong pairs.
    """
    if by == "embedding" and embedder is not None:
        return EmbeddingIndex(paths, embedder).score_all(texts).T
    return _compare_words(paths, texts)


def _compare_words(paths: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Cosines of the words' counts, each times log(1 + paths / paths with it): a word of all paths says little."""
    import numpy as np

    counts = [Counter(split_words(text)) for text in (*paths, *texts)]
    vocabulary = {word: place for place, word in enumerate(sorted({word for one in counts for word in one}))}
    matrix = np.zeros((len(counts), len(vocabulary)), np.float32)
    spread = Counter(word for one in counts[: len(paths)] for word in one)
    for row, one in enumerate(counts):
        for word, count in one.items():
            matrix[row, vocabulary[word]] = count * log(1 + len(paths) / max(1, spread[word]))
    matrix /= np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-6)
    return matrix[: len(paths)] @ matrix[len(paths) :].T


def choose_paths(scores: np.ndarray, top: int) -> list[tuple[int, float, int]]:
    """The `top` paths by their best text, the best first: (path, score, text). Of equal ones the first goes before.

    Args:
        scores: [paths, texts].
    """
    import numpy as np

    best = scores.max(1)
    order = np.argsort(-best, kind="stable")[:top].tolist()
    return [(number, float(best[number]), int(scores[number].argmax())) for number in order]
