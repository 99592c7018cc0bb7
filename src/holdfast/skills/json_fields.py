"""Reading a field out of an answer that was asked for as JSON, sound or not."""

from __future__ import annotations

import re


def read_text_field(answer: str, key: str) -> str | None:
    """The first text under a key, as written; `None` where there is none.

    The answers of the paper's own games end their last line with a comma, and some models write single quotes.
    """
    match = re.search(rf"""["']{key}["']\s*:\s*(?:"((?:[^"\\]|\\.)*)"|'([^']*)')""", answer, re.DOTALL)
    return None if match is None else match[1] if match[1] is not None else match[2]
