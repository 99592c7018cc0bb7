"""What the text judges share: references as lists of acceptable texts, and normalisation."""

from __future__ import annotations

import string
from typing import Any

PUNCTUATION = str.maketrans("", "", string.punctuation)


def texts(reference: Any) -> list[str]:
    """The acceptable answers a reference stands for: a string or number is one, a list several, all else none."""
    if isinstance(reference, str):
        return [reference]
    if isinstance(reference, (int, float)):
        return [str(reference)]
    if isinstance(reference, (list, tuple)) and all(isinstance(r, (str, int, float)) for r in reference):
        return [str(r) for r in reference]
    return []


def unusable_text(reference: Any) -> str | None:
    """Why `reference` is not a text to compare with, or `None`."""
    found = texts(reference)
    if not found:
        return "no reference" if reference is None else f"a {type(reference).__name__} instead of text"
    return None if any(t.strip() for t in found) else "empty text"


def short(text: Any, most: int = 80) -> str:
    """`text` on one line, cut to `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
