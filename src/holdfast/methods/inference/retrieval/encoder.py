"""A sentence encoder in the place of the model's own embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from holdfast.axes.inference import TextEmbedder


class EncoderEmbedder:
    """A sentence-transformers model as a `TextEmbedder` (extra `embed`).

    Args:
        name: A directory or a hub name.
        setting: What names it, for errors.
    """

    def __init__(self, name: str, setting: str) -> None:
        from holdfast.models.embeddings import SentenceEncoder
        from holdfast.models.placement import choose_device

        self._encoder = SentenceEncoder(name, choose_device("auto"), setting)
        self.fingerprint = self._encoder.fingerprint

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        return self._encoder.encode(texts).float().cpu().numpy()


def choose_embedder(encoder: str | None, own: TextEmbedder | None, setting: str) -> TextEmbedder | None:
    """The encoder named, else the model's own embeddings."""
    return own if encoder is None else EncoderEmbedder(encoder, setting)
