"""An index of texts: by words (BM25), by embeddings, or by both; kept by what is in it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from holdfast.core.files import fresh_directory, is_sealed, seal_directory
from holdfast.core.in_memory import cache_home
from holdfast.data.overlap.words import split_words
from holdfast.data.rows import fingerprint_json

if TYPE_CHECKING:
    import numpy as np

    from holdfast.axes.inference import TextEmbedder

By = Literal["bm25", "embedding", "both"]
K1, B = 1.5, 0.75
"""Of BM25: how soon more of a word counts no more, and how much long texts are held back; Lucene's form of the rest."""
GROUP = 256
"""Texts embedded between two looks at whether to write them down."""
FUSION = 60
"""Of reciprocal rank fusion [Cormack, Clarke and Buettcher 2009]: 1 / (60 + rank), summed over both rankings."""


class WordIndex:
    """BM25 over texts [Robertson and Zaragoza 2009], by bm25s [Lu 2024, arXiv 2407.03618].

    Args:
        texts: Each with at least one word.
    """

    def __init__(self, texts: Sequence[str]) -> None:
        folder = cache_home() / "retrieval" / f"bm25-{fingerprint_json([K1, B, list(texts)])[:24]}"
        self._bm25 = _load_bm25(folder) if is_sealed(folder) else _build_bm25(texts, folder)
        self._words = set(json.loads((folder / "words.json").read_text(encoding="utf-8")))
        self._size = len(texts)

    def score_texts(self, query: str) -> np.ndarray:
        """Scores fp32 [texts] of a query: sum over its words of idf * tf / (tf + k1 (1 - b + b length / mean))."""
        import numpy as np

        words = [word for word in split_words(query) if word in self._words]
        return self._bm25.get_scores(words) if words else np.zeros(self._size, np.float32)


def _build_bm25(texts: Sequence[str], folder: Path) -> Any:
    import bm25s

    words = [split_words(text) for text in texts]
    index = bm25s.BM25(method="lucene", k1=K1, b=B)
    index.index(words, show_progress=False)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with fresh_directory(folder) as side:
        index.save(side, show_progress=False)
        vocabulary = sorted({word for text in words for word in text})
        (side / "words.json").write_text(json.dumps(vocabulary), encoding="utf-8")
        seal_directory(side)
    return index


def _load_bm25(folder: Path) -> Any:
    import bm25s

    return bm25s.BM25.load(folder, load_corpus=False, show_progress=False)


class EmbeddingIndex:
    """Texts by the direction in which their embedding differs from the mean of all.

    Hidden states of a language model lie in a narrow cone: without the mean taken off, all are alike.

    Args:
        texts: What is looked for.
        embedder: Its embeddings are kept on disk by text.
    """

    def __init__(self, texts: Sequence[str], embedder: TextEmbedder) -> None:
        self.embedder = embedder
        states = self._embed_kept(texts)  # [texts, D]
        self.mean = states.mean(0) if len(states) > 1 else 0 * states.mean(0)
        self.directions = self._compute_directions(states)

    def score_texts(self, query: str) -> np.ndarray:
        """Cosines fp32 [texts]."""
        return self.score_all([query])[0]

    def score_all(self, queries: Sequence[str]) -> np.ndarray:
        """Cosines fp32 [queries, texts]."""
        return self._compute_directions(self.embedder.embed(queries)) @ self.directions.T

    def _compute_directions(self, states: np.ndarray) -> np.ndarray:
        import numpy as np

        apart = states - self.mean
        return apart / np.maximum(np.linalg.norm(apart, axis=1, keepdims=True), 1e-6)

    def _embed_kept(self, texts: Sequence[str]) -> np.ndarray:
        import numpy as np

        from holdfast.core.array_store import ArrayStore

        store = ArrayStore(cache_home() / "retrieval" / f"embedding-{self.embedder.fingerprint[:24]}")
        keys = [fingerprint_json(text) for text in texts]

        def embed_groups(missing: list[int]) -> Iterator[dict[int, np.ndarray]]:
            for start in range(0, len(missing), GROUP):
                group = missing[start : start + GROUP]
                yield dict(zip(group, self.embedder.embed([texts[i] for i in group]), strict=True))

        return np.stack(store.get_or_compute(keys, embed_groups))


class TextIndex:
    """Texts to be looked up.

    Args:
        texts: Each with at least one word.
        by: "bm25", "embedding", or "both", whose rankings are joined by reciprocal ranks.
        embedder: For the latter two.
    """

    def __init__(self, texts: Sequence[str], by: By = "bm25", embedder: TextEmbedder | None = None) -> None:
        self.words = WordIndex(texts) if by != "embedding" else None
        self.embeddings = EmbeddingIndex(texts, embedder) if by != "bm25" and embedder is not None else None

    def find_texts(self, query: str, top: int) -> list[tuple[int, float]]:
        """The numbers and scores of at most `top` texts, the best first; by words only those that share one with the
        query. Of equal ones the first goes before.
        """
        by_words = _rank_scores(self.words.score_texts(query), least=0.0) if self.words else []
        by_meaning = _rank_scores(self.embeddings.score_texts(query)) if self.embeddings else []
        if self.words is None or self.embeddings is None:
            return (by_words or by_meaning)[:top]
        scores: dict[int, float] = {}
        for ranking in (by_words, by_meaning):
            for rank, (number, _) in enumerate(ranking, 1):
                scores[number] = scores.get(number, 0.0) + 1 / (FUSION + rank)
        return sorted(scores.items(), key=lambda entry: (-entry[1], entry[0]))[:top]


def _rank_scores(scores: np.ndarray, least: float | None = None) -> list[tuple[int, float]]:
    """(number, score), the highest first; those above `least`."""
    import numpy as np

    order = np.argsort(-scores, kind="stable").tolist()
    return [(number, float(scores[number])) for number in order if least is None or scores[number] > least]
