"""Texts as words, and runs of words as 64-bit numbers: what near duplicates and overlaps are counted in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING

from holdfast.data.pictures.references import compared_text
from holdfast.data.rows import Message, Row

if TYPE_CHECKING:
    import numpy as np

UNSPACED = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
"""Kana and Han, which are written without spaces: each character is a word."""
WORD = re.compile(rf"[{UNSPACED}]|[^\W_{UNSPACED}]+")
TOKEN = re.compile(rf"{WORD.pattern}|[-+*/=<>^|&%~]")
"""A word, or one of the marks without which 3 + 4 and 3 - 4 are the same."""
STEP = 0x9E3779B97F4A7C15
"""Odd, so that multiplying by it loses nothing."""


def split_words(text: str) -> list[str]:
    """Words in lower case, without punctuation and white space."""
    return WORD.findall(text.lower())


@lru_cache(maxsize=1 << 18)
def hash_word(word: str) -> int:
    """64 bits naming a word, the same in every process."""
    return int.from_bytes(hashlib.blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def hash_words(text: str) -> np.ndarray:
    """`hash_word` of each word and operator of a text in lower case, uint64 [words]."""
    import numpy as np

    words = TOKEN.findall(text.lower())
    return np.fromiter(map(hash_word, words), np.uint64, len(words))


def hash_runs(words: np.ndarray, length: int) -> np.ndarray:
    """64 bits naming each run of `length` words in a row, uint64 [words - length + 1]; none where there are fewer.

    Args:
        words: As of `hash_words`, uint64 [words].
    """
    import numpy as np

    count = len(words) - length + 1
    if count < 1:
        return np.zeros(0, np.uint64)
    out, step = np.zeros(count, np.uint64), np.uint64(STEP)
    for offset in range(length):  # a polynomial in STEP, modulo 2**64
        out = out * step + words[offset : offset + count]
    out ^= out >> np.uint64(32)  # its low bits alone would not depend on the high bits of the words
    return out * step


def message_text(messages: Iterable[Message]) -> str:
    """What is said in some messages but for the system's, which says the same in every conversation."""
    return "\n".join(compared_text(message) for message in messages if message["role"] != "system")


def row_text(row: Row) -> str:
    """All that is trained on in a row and its prompt, but for system messages."""
    return "\n".join([message_text(row.messages), *filter(None, (row.chosen, row.rejected))])


def question_key(row: Row) -> int:
    """64 bits naming a row's prompt, system messages included; of plain text, the text.

    Upper and lower case, white space and what stands at the end of a sentence are all one. Other marks are not: they
    may be all that tells two sums, maps or programs apart.
    """
    prompt = row.prompt or row.messages
    texts = [f"{message['role']}\n{' '.join(compared_text(message).lower().split())}" for message in prompt]
    return hash_word("\0".join(texts).rstrip(".?! "))
