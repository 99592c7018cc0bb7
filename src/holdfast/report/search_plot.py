"""The plane of a search: every trial where it got to, what the limit allows, and the front."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import format_points, format_signed
from holdfast.report.svg import (
    Scale,
    compute_extent,
    draw_axes,
    draw_label,
    draw_marker,
    draw_path,
    draw_responsive,
    draw_svg,
    make_element,
)

LEAST, MOST = 3.0, 7.0
"""Radius of a trial that was stopped at the first rung, and of one that came through the last."""


def search_plane(report: dict[str, Any]) -> Markup:
    """Gain against loss of every trial at its last rung, larger the further it got; dial points and front beside."""
    points = [(trial, trial["rungs"][-1]) for trial in report["trials"] if trial["rungs"][-1]["gain"] is not None]
    if not points:
        return Markup("")
    return draw_responsive(lambda name, width: _draw_search(report, points, name, width), "search")


def _draw_search(report: dict[str, Any], points: Sequence[tuple[Any, Any]], name: str, width: float) -> Markup:
    height, limit, candidates = 420.0, report["max_loss"], report["candidates"]
    losses = [0.0, *(end["loss"] for _, end in points), *(c["loss"] for c in candidates)]
    gains = [0.0, *(end["gain"] for _, end in points), *(c["gain"] for c in candidates)]
    x = Scale(*compute_extent([*losses, *([] if limit is None else [limit])]), 40, width - 10)
    y = Scale(*compute_extent(gains), height - 48, 30)
    body = []
    if limit is not None:
        width_allowed = max(0.0, x(limit) - x.start)
        body.append(make_element("rect", x=x.start, y=y.stop, width=width_allowed, height=y.start - y.stop, cls="good"))
    body.append(draw_axes(x, y, "points lost elsewhere →", "gained on the target ↑"))
    if limit is not None:
        body.append(draw_label(f"at most {limit:g} lost", x(limit) - 4, y.stop + 14, "tick", "end"))
    front = sorted((c["loss"], c["gain"]) for c in candidates if c["front"])
    if len(front) > 1:
        body.append(draw_path([(x(loss), y(gain)) for loss, gain in front], cls="front"))
    for candidate in candidates:
        if candidate["point"] < 1:
            body.append(make_element("circle", cx=x(candidate["loss"]), cy=y(candidate["gain"]), r=2.5, cls="way-dot"))
    shares = [rung["share"] for trial in report["trials"] for rung in trial["rungs"]]
    best = (report["best"] or {}).get("trial")
    for trial, end in points:
        radius = LEAST + (MOST - LEAST) * (end["share"] - min(shares)) / max(1e-9, 1 - min(shares))
        colour = 0 if trial["trial"] == best else 1 if trial["trial"] < 2 else 2
        tip = make_element("title", _describe_trial(trial, end))
        marker = draw_marker(colour, x(end["loss"]), y(end["gain"]), radius, cls="mark")
        body.append(make_element("g", tip, marker, cls=f"s{colour}"))
    text = "Every trial of the search. " + " ".join(_describe_trial(trial, end) for trial, end in points)
    return draw_svg(name, width, height, "Gain and loss of every trial", text, *body)


def _describe_trial(trial: dict[str, Any], end: dict[str, Any]) -> str:
    return (
        f"Trial {trial['trial']} ({trial['what']}) at {end['share']:.0%} of the steps: gain "
        f"{format_signed(end['gain'])}, lost {format_points(end['loss'])}."
    )
