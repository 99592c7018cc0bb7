"""Plain text as a task: passages, and windows in which every token is scored exactly once.

The two classic mistakes are scoring token i with the prediction made *at* i instead of before it, and counting padding.
Here a window is an `EncodedSequence` whose `label_mask` names the tokens to score, and `data.batches.collate` does the
shift and the padding for training and measuring alike; tests hold it against a loop over single tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from holdfast.data.batching.batches import EncodedSequence
from holdfast.data.rows import Row, fingerprint_json

PASSAGE = 2000
"""Characters of a passage: the unit that is resampled for the error bars."""


def split_passages(text: str, size: int = PASSAGE) -> list[str]:
    """Cut a long text into passages of about `size` characters, at a blank line, line end or space where there is one.

    The cuts do not depend on a tokenizer. Joined together, the passages are the text, but for white space at the cuts.
    """
    parts = []
    while text := text.strip():
        parts.append(text[: _find_cut(text, size)].rstrip())
        text = text[_find_cut(text, size) :]
    return parts


def _find_cut(text: str, size: int) -> int:
    if len(text) <= size:
        return len(text)
    for separator in ("\n\n", "\n", " "):
        cut = text.rfind(separator, size // 2, size)
        if cut > 0:
            return cut
    return size


def build_text_rows(texts: Sequence[str]) -> list[Row]:
    """A row per passage, in the shape of plain-text training rows; equal passages are kept once."""
    by_id = {fingerprint_json(passage)[:16]: passage for text in texts for passage in split_passages(text)}
    return [Row(messages=[{"role": "assistant", "content": p}], id=name) for name, p in by_id.items()]


def cut_windows(ids: Sequence[int], width: int, row: int, *, scored_from: int = 1) -> Iterator[EncodedSequence]:
    """Windows of at most `width` tokens over a text, each token from `scored_from` on scored in exactly one of them.

    Args:
        ids: The text's tokens (with the begin token first, where the tokenizer has one).
        width: Most tokens of a window, at least 2.
        row: Number of the text, carried along.
        scored_from: First token that is scored; the very first has nothing before it and never is.

    A text that fits is one window. Of longer ones every further window begins with a quarter that is only read, so that
    each scored token sees at least `width / 4` tokens before it; the last window is moved back to be full.
    """
    position, start = max(scored_from, 1), 0
    while position < len(ids):
        end = min(start + width, len(ids))
        label_mask = np.zeros(end - start, dtype=bool)
        label_mask[position - start :] = True
        yield EncodedSequence(ids=np.asarray(ids[start:end], dtype=np.int32), label_mask=label_mask, row=row)
        position, start = end, max(0, min(end - max(1, width // 4), len(ids) - width))
