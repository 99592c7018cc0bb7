"""Which descriptions fit a task that is described in words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from holdfast.data.overlap.words import split_words

SATURATION, LENGTH = 1.5, 0.75
"""k1 and b of BM25, their usual values [Robertson and Zaragoza 2009]."""
ENDINGS = ("ing", "es", "s", "ed")
"""Cut off words, so that `problems` finds `problem`."""
STOPWORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "can", "do", "for", "from", "how", "i", "in", "into", "is", "it",
    "its", "me", "my", "of", "on", "one", "or", "that", "the", "their", "this", "to", "up", "what", "when", "which",
    "who", "why", "with", "you", "your",
})  # fmt: skip


def rank_descriptions(query: str, descriptions: Sequence[str]) -> list[float]:
    """The BM25 score of each description for a query; 0 where no word is in common."""
    documents = [list_terms(text) for text in descriptions]
    mean = sum(map(len, documents)) / max(1, len(documents)) or 1.0
    held_by = Counter(term for terms in documents for term in set(terms))
    scores = []
    for terms in documents:
        counts, norm = Counter(terms), SATURATION * (1 - LENGTH + LENGTH * len(terms) / mean)
        score = 0.0
        for term in set(list_terms(query)) & counts.keys():
            rarity = math.log(1 + (len(documents) - held_by[term] + 0.5) / (held_by[term] + 0.5))
            score += rarity * counts[term] * (SATURATION + 1) / (counts[term] + norm)
        scores.append(score)
    return scores


def list_terms(text: str) -> list[str]:
    """The words of a text that say something, without their endings."""
    return [cut_ending(word) for word in split_words(text) if word not in STOPWORDS]


def cut_ending(word: str) -> str:
    """A word without a common ending, if enough is left."""
    ending = next((ending for ending in ENDINGS if word.endswith(ending) and len(word) - len(ending) >= 3), "")
    return word[: len(word) - len(ending)]
