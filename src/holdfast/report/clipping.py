"""What is said of clipped gradients: by the page where most steps were, by the terminal where they were cut deep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from statistics import median
from typing import Any

from holdfast.report import phrasing

MANY_CLIPPED = 0.5
"""Share of clipped steps from which on the clip says as much as the learning rate."""

DEEP = 10.0
"""How many times longer than its limit the median step's gradient must be for the terminal to say so.

Small models have gradients of norm 2 to 5 and are clipped to 1 at nearly every step: that scales all steps alike, which
Adam's normalisation takes back, and is no news."""


def median_cut(log: Iterable[Mapping[str, Any]], limit: float | None) -> float | None:
    """How many times longer than the limit the median step's gradient was, at least 1; `None` without a fixed limit.

    Args:
        log: Entries of `log.jsonl`, with `grad_norm` before clipping.
    """
    norms = {entry["step"]: entry["grad_norm"] for entry in log if phrasing.is_known(entry.get("grad_norm"))}
    return max(1.0, median(norms.values()) / limit) if limit and norms else None


def cuts_deep(report: Mapping[str, Any]) -> bool:
    """Whether most steps were clipped and the median one by a large factor, so that the terminal must say it."""
    factor = (report.get("training") or {}).get("clip_factor")
    return bool(describe_clipping(report)) and phrasing.is_known(factor) and factor >= DEEP


def describe_clipping(report: Mapping[str, Any]) -> str:
    """What to say where most steps were clipped; empty where few were, or nobody counted."""
    share = (report.get("training") or {}).get("clipped")
    if not phrasing.is_known(share) or share <= MANY_CLIPPED:
        return ""
    limit = ((report.get("recipe") or {}).get("optimizer") or {}).get("max_grad_norm")
    at = f" (optimizer.max_grad_norm {limit:g})" if phrasing.is_known(limit) else ""
    factor = (report.get("training") or {}).get("clip_factor")
    at += f", in the median to 1/{factor:.2g} of its norm" if phrasing.is_known(factor) and factor > 1 else ""
    return (
        f"the gradient was clipped in {phrasing.format_percent(share)} of the steps{at}: the clip set their size as "
        "much as the learning rate did; optimizer.clip: running cuts outliers only"
    )
