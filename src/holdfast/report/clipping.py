"""What is said of clipped gradients, by the page and the terminal alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from holdfast.report import phrasing

MANY_CLIPPED = 0.5
"""Share of clipped steps from which on the clip says as much as the learning rate."""


def clipped(report: Mapping[str, Any]) -> str:
    """What to say where most steps were clipped; empty where few were, or nobody counted."""
    share = (report.get("training") or {}).get("clipped")
    if not phrasing.known(share) or share <= MANY_CLIPPED:
        return ""
    limit = ((report.get("recipe") or {}).get("optimizer") or {}).get("max_grad_norm")
    at = f" (optimizer.max_grad_norm {limit:g})" if phrasing.known(limit) else ""
    return (
        f"the gradient was clipped in {phrasing.percent(share)} of the steps{at}: the clip set their size as much as "
        "the learning rate did; optimizer.clip: running cuts outliers only"
    )
