"""One rule for all claims about a difference: a stated margin, and three outcomes."""

from __future__ import annotations

from typing import Literal

MARGIN = 2.0
"""Points (or per cent of bits) below which a difference is of no consequence, where nobody states another margin."""

Outcome = Literal["held", "refuted", "cannot tell"]


def decide_outcome(low: float | None, high: float | None, line: float) -> Outcome:
    """Whether a difference lies above a line: by its whole 95 % interval, or not, or not to be told.

    Args:
        low, high: Ends of the interval of a *paired* difference; `None` where there is none.
        line: "more" means above +margin, "as much" above -margin.
    """
    if low is None or high is None or not low <= high:  # NaN is not to be told either
        return "cannot tell"
    if low > line:
        return "held"
    return "refuted" if high < line else "cannot tell"


def is_within_margin(low: float | None, high: float | None, margin: float = MARGIN) -> bool:
    """Whether the whole interval is nearer to 0 than the margin: nothing of consequence changed."""
    return low is not None and high is not None and -margin <= low and high <= margin
