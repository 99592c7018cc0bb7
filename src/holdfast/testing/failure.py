"""What a check says when a method breaks a promise."""

from __future__ import annotations


class CheckFailed(AssertionError):
    """A promise of its axis that a method does not keep: which one, and by how much."""


def expect_that(condition: object, promise: str) -> None:
    """Raise `CheckFailed` with the broken promise, unless the condition holds."""
    if not condition:
        raise CheckFailed(promise)
