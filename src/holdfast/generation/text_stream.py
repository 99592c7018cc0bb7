"""The text of sampled ids as it grows, without decoding all of them again at every token."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from holdfast.data.chat.encoder import Chat

HALF = "\N{REPLACEMENT CHARACTER}"
"""What is decoded from bytes that are no whole character: of one that is cut off, one or up to three of them."""
WINDOW = 16
"""Ids after which a text that ends in the middle of a character is cut off nevertheless: it may go on like that."""


class TextStream:
    """Text of ids that come one by one.

    Only the newest ids are decoded, behind the few before them: some tokenizers write a token otherwise at the
    beginning of a text. Bytes that are no whole character yet wait for the rest of it.

    Attributes:
        text: What can be shown so far; it only grows.
    """

    def __init__(self, chat: Chat) -> None:
        self.chat, self.text = chat, ""
        self._recent: list[int] = []  # the ids decoded together
        self._num_old = self._num_shown = 0  # how many of them were there before, and characters of theirs in `text`

    def add_token(self, token: int) -> None:
        """Take one more id."""
        self._recent.append(token)
        text = self.chat.text_of(self._recent)
        half = min(3, len(text) - len(text.rstrip(HALF)))
        if len(text) - half > self._num_shown:
            self.text += text[self._num_shown : len(text) - half]
            self._num_shown = len(text) - half
        if not half or len(self._recent) >= WINDOW:
            self._forget_old(text, self._num_old if not half else WINDOW // 2)

    def _forget_old(self, text: str, count: int) -> None:
        """Drop the first ids, if what is left of them reads as it did."""
        rest = self.chat.text_of(self._recent[count:])
        if text.endswith(rest) and len(text) - len(rest) <= self._num_shown:
            self._num_shown -= len(text) - len(rest)
            del self._recent[:count]
            self._num_old = len(self._recent)
