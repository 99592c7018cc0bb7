"""What a check says when a method breaks a promise."""

from __future__ import annotations

from typing import TypeVar

from holdfast.axes.method import Method

M = TypeVar("M", bound=Method)


class CheckFailed(AssertionError):
    """A promise of its axis that a method does not keep: which one, and by how much."""


def expect_that(condition: object, promise: str) -> None:
    """Raise `CheckFailed` with the broken promise, unless the condition holds."""
    if not condition:
        raise CheckFailed(promise)


def require_kind(method: Method, kind: type[M]) -> M:
    """The method as one of its axis, which it was found to be on."""
    assert isinstance(method, kind)
    return method
