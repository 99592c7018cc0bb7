"""What a browser is told when something cannot be done."""

from __future__ import annotations


class Refusal(Exception):
    """An answer that is a no.

    Args:
        status: HTTP status.
        key: Of the sentence in the catalogue of texts.
        values: What stands in its braces.
    """

    def __init__(self, status: int, key: str, **values: str) -> None:
        super().__init__(key)
        self.status, self.key, self.values = status, key, values
