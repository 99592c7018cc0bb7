"""A tested claim in words: its outcome, the differences of its parts, and why something cannot be told."""

from __future__ import annotations

from typing import Any

from holdfast.report.phrasing import format_bracket, format_signed

OUTCOMES = {"held": "held here", "refuted": "was refuted here"}
UNCLEAR = "cannot be told here"
"""How a claim came out, where its outcome is none of those."""


def format_interval(low: float | None, high: float | None, in_points: bool) -> str:
    """An interval in points, or of a study in whatever it measures; nothing where there is none."""
    if in_points or low is None or high is None:
        return format_bracket(low, high)
    return f"[{low:.3g}, {high:.3g}]"


def format_check(check: dict[str, Any], in_points: bool) -> tuple[str, str, str]:
    """Difference, interval, and the line it must be above, of a part of a claim."""
    line = check["margin"] if check["by"] == "more" else -check["margin"]
    span = format_interval(check["low"], check["high"], in_points)
    if in_points:
        return format_signed(check["delta"]), span, format_signed(line)
    return f"{check['delta']:.3g}", span, f"{line:g}"


def unclear_reasons(result: dict[str, Any]) -> list[str]:
    """Why parts of a claim cannot be told."""
    return list(dict.fromkeys(reason for check in result["checks"] for reason in check["reasons"]))
