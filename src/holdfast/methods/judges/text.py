"""What the text judges share: references as lists of acceptable texts, and normalisation."""

from __future__ import annotations

import re
import string
from typing import Any

PUNCTUATION = str.maketrans("", "", string.punctuation)
LONGEST = 32_768
"""Most characters of an answer in which a final answer is looked for: of a longer one its end."""
SCRIPT_WITHOUT_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Letters of Japanese and Chinese, each of which counts as a word: these scripts put no spaces between words."""
_LETTER = re.compile(f"([{SCRIPT_WITHOUT_SPACES}])")
_ARTICLE = re.compile(r"\b(a|an|the)\b")


def squad_words(text: str) -> list[str]:
    """Words as SQuAD's evaluation compares them: lower case, no ASCII punctuation, no English articles.

    Chinese and Japanese text, which SQuAD does not have, counts letter by letter, as in CMRC 2018.

    Source: Rajpurkar et al. 2016 (arXiv 1606.05250), `normalize_answer` of the evaluation script.
    """
    return _LETTER.sub(r" \1 ", _ARTICLE.sub(" ", text.lower().translate(PUNCTUATION))).split()


def reference_texts(reference: Any) -> list[str]:
    """The acceptable answers a reference stands for: a string or number is one, a list several, all else none."""
    if isinstance(reference, str):
        return [reference]
    if isinstance(reference, (int, float)):
        return [str(reference)]
    if isinstance(reference, (list, tuple)) and all(isinstance(r, (str, int, float)) for r in reference):
        return [str(r) for r in reference]
    return []


def describe_unusable_text(reference: Any) -> str | None:
    """Why `reference` is not a text to compare with, or `None`."""
    answers = reference_texts(reference)
    if not answers:
        return "no reference" if reference is None else f"a {type(reference).__name__} instead of text"
    return None if any(t.strip() for t in answers) else "empty text"


def shorten_text(text: Any, most: int = 80) -> str:
    """`text` on one line, cut to `most` characters."""
    line = " ".join(str(text).split())
    return line if len(line) <= most else line[: most - 1] + "…"
