"""A token as text and as bytes, for log-probabilities."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
"""How tokenizers with byte fallback write a byte."""
SPACE = "\u2581"
"""How SentencePiece writes the space before a word."""
HALF = "\N{REPLACEMENT CHARACTER}"


def read_token(tokenizer: PreTrainedTokenizerBase, token: int) -> tuple[str, list[int]]:
    """The text of a token by itself, and its bytes, which are more than the text where it is half a character."""
    text = str(tokenizer.decode([token], skip_special_tokens=False, clean_up_tokenization_spaces=False))
    piece = str(tokenizer.convert_ids_to_tokens(token))
    if match := BYTE.fullmatch(piece):
        return text, [int(match[1], 16)]
    if piece.startswith(SPACE) and not text.startswith(" "):
        text = f" {text}"
    if HALF in text and all(character in byte_letters() for character in piece):
        return text, [byte_letters()[character] for character in piece]
    return text, list(text.encode("utf-8"))


@cache
def byte_letters() -> dict[str, int]:
    """The letters for which byte-level tokenizers write bytes (Radford et al. 2019): printable ones stand for
    themselves, the others for letters from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + k): byte for k, byte in enumerate(rest)}
