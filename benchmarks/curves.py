"""Curves as one self-contained SVG: small charts with logarithmic axes, one below another in two columns."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, MARGIN, TOP = 460, 300, 62, 54
COLOURS = ("#0b6e99", "#c2410c", "#4d7c0f", "#7e22ce", "#a16207")


def draw(charts: Sequence[Mapping[str, Any]]) -> str:
    """An SVG of charts `{"title", "x", "y", "series": {name: [[x, y], ...]}}`; points without a number are left out."""
    rows = -(-len(charts) // 2)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH} {rows * HEIGHT}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
    ]
    for index, chart in enumerate(charts):
        parts.append(f'<g transform="translate({index % 2 * WIDTH} {index // 2 * HEIGHT})">{_chart(chart)}</g>')
    return "".join([*parts, "</svg>\n"])


def _chart(chart: Mapping[str, Any]) -> str:
    series = {name: [(x, y) for x, y in points if x and y] for name, points in chart["series"].items()}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    out = [f'<text x="{MARGIN}" y="20" font-weight="bold">{escape(chart["title"])}</text>']
    if not xs:
        return "".join([*out, f'<text x="{MARGIN}" y="60">no measurement</text>'])
    across, up = _scale(xs, MARGIN, WIDTH - 20), _scale(ys, HEIGHT - 45, TOP)
    out.append(_axes(xs, ys, across, up))
    out.append(f'<text x="{WIDTH / 2}" y="{HEIGHT - 8}" text-anchor="middle">{escape(chart["x"])}</text>')
    out.append(f'<text x="8" y="36">{escape(chart["y"])}</text>')
    for index, (name, points) in enumerate(series.items()):
        colour = COLOURS[index % len(COLOURS)]
        spots = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{spots}" fill="none" stroke="{colour}" stroke-width="2"/>')
        out += [f'<circle cx="{across(x):.1f}" cy="{up(y):.1f}" r="3" fill="{colour}"/>' for x, y in points]
        out.append(
            f'<text x="{WIDTH - 22}" y="{20 + 15 * index}" text-anchor="end" fill="{colour}">{escape(name)}</text>'
        )
    return "".join(out)


def _scale(values: Sequence[float], start: float, stop: float) -> Any:
    """The place of a value between `start` and `stop`, by its logarithm."""
    low, high = math.log(min(values)), math.log(max(values))
    if high - low < 0.7:
        low, high = low - 0.5, high + 0.5
    return lambda value: start + (math.log(value) - low) / (high - low) * (stop - start)


def _axes(xs: Sequence[float], ys: Sequence[float], across: Any, up: Any) -> str:
    bottom = HEIGHT - 45
    out = [f'<path d="M{MARGIN} {TOP}V{bottom}H{WIDTH - 20}" fill="none" stroke="#888"/>']
    for x in _few(sorted(set(xs))):
        out.append(f'<text x="{across(x):.1f}" y="{bottom + 16}" text-anchor="middle" fill="#555">{_short(x)}</text>')
    for y in _few([min(ys), math.sqrt(min(ys) * max(ys)), max(ys)]):
        out.append(f'<text x="{MARGIN - 6}" y="{up(y) + 4:.1f}" text-anchor="end" fill="#555">{_short(y)}</text>')
        out.append(f'<path d="M{MARGIN} {up(y):.1f}H{WIDTH - 20}" stroke="#ddd"/>')
    return "".join(out)


def _few(values: Sequence[float]) -> list[float]:
    """At most eight of the values, the ends among them."""
    step = max(1, -(-len(values) // 8))
    return [*values[:-1:step], values[-1]]


def _short(value: float) -> str:
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if value >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.3g}"
