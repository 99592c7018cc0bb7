"""A text in fragments that overlap: what is compared with each path, instead of the whole."""

from __future__ import annotations

import re
from typing import Literal

Unit = Literal["characters", "words", "sentences"]


def cut_fragments(text: str, unit: Unit = "characters", size: int = 35, overlap: int = 15) -> list[str]:
    """Fragments of `size` units, each beginning `size - overlap` after the one before; the rest belongs to the last.

    A text of at most `size` units is one fragment, an empty one none. Nothing is lost: without the overlaps the
    fragments are the text.

    The reference's fragmenter (Artessay/HyKGE 488bb44) raises an error for a text shorter than the overlap, gives none
    for one as long as it, and loses the beginning of one shorter than a fragment.
    """
    pieces = split_units(text, unit)
    starts = range(0, max(1, len(pieces) - size + 1), size - overlap)
    ends = [*(start + size for start in starts[:-1]), len(pieces)]
    return ["".join(pieces[start:end]) for start, end in zip(starts, ends, strict=True)] if pieces else []


def split_units(text: str, unit: Unit) -> list[str]:
    """Characters, words with the white space behind them, or sentences likewise; together they are the text."""
    if unit == "characters":
        return list(text)
    if unit == "words":
        return re.findall(r"\s*\S+\s*$|\s*\S+\s+|\s+", text)
    return [part for part in re.split(r"(?<=[.!?])(?=\s)|(?<=[\u3002\uff01\uff1f])", text) if part]
