"""Small tools to draw SVG by hand: elements, scales, ticks, and labels that keep out of each other's way.

Everything is `Markup`, so text from models and users is escaped by construction. Lengths are in the SVG's own pixels.

No plotting library, weighed once more in 2026: matplotlib 3.11 adds 78 MB to what is installed (137 with NumPy) and
1.4 s of processor time to import; Altair with vl-convert, which renders without a browser, adds 96 MB and 0.9 s. Either
would save some 120 of this file's lines (elements, ticks, axes, markers) and none of those that place labels clear of
each other, and would draw each plot four times, light and dark, wide and narrow, where one drawing coloured by the
page's style sheet serves both, with a title and a description for readers who cannot see it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from markupsafe import Markup, escape

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""

FONT = 13.0


def _format_value(value: object) -> str:
    return f"{round(value, 1):g}" if isinstance(value, float) else str(value)


def make_element(tag: str, *children: str, **attributes: object) -> Markup:
    """One element. `cls` is written as class, `_` in names as `-`, floats with one digit; plain strings are escaped."""
    names = (("class" if k == "cls" else k.replace("_", "-"), v) for k, v in attributes.items() if v is not None)
    head = "".join(f' {name}="{escape(_format_value(value))}"' for name, value in names)
    return Markup(f"<{tag}{head}>") + Markup("").join(children) + Markup(f"</{tag}>")


def draw_path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """A polyline."""
    return make_element("path", d="M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in points), fill="none", **attributes)


def draw_label(text: str, x: float, y: float, cls: str = "", anchor: str = "start") -> Markup:
    """Text whose baseline begins, centres or ends at (x, y)."""
    return make_element("text", text, x=float(x), y=float(y), cls=cls or None, text_anchor=anchor)


def draw_svg(name: str, width: float, height: float, title: str, text: str, *body: str) -> Markup:
    """The picture, named and described for readers who cannot see it. `name` must be unique on the page."""
    head = make_element("title", title, id=f"{name}-t") + make_element("desc", text, id=f"{name}-d")
    ids = f"{name}-t {name}-d"
    return make_element(
        "svg",
        head,
        *body,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_labelledby=ids,
        width=width,
        height=height,
    )


def draw_responsive(draw: Callable[[str, float], Markup], name: str, wide: float = 760, narrow: float = 358) -> Markup:
    """The same plot drawn twice, for a desk (and paper) and for a phone; the style sheet shows one.

    Scaling one drawing would make its text unreadable on a phone.
    """
    both = (("wide", wide), ("narrow", narrow))
    return Markup("").join(make_element("div", draw(f"{name}-{kind}", size), cls=f"plot {kind}") for kind, size in both)


def compute_ticks(low: float, high: float, n_ticks: int = 6) -> list[float]:
    """Round numbers (steps of 1, 2, 2.5 or 5) inside [low, high], about `wanted` of them."""
    span = max(high - low, 1e-9)
    size = 10 ** math.floor(math.log10(span / n_ticks))
    step = next(size * m for m in (1, 2, 2.5, 5, 10) if span / (size * m) <= n_ticks)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [i * step for i in range(first, last + 1)]


def tick_text(value: float) -> str:
    """A tick as short as it can be, with a real minus sign and thousands separated."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{round(value, 6):g}"
    return text.replace("-", "\u2212")


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from data [low, high] to pixels [start, stop]."""

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.stop - self.start)

    def tick_values(self, n_ticks: int = 6) -> list[float]:
        return compute_ticks(self.low, self.high, n_ticks)


def draw_axes(x: Scale, y: Scale, x_title: str, y_title: str, *, zero: bool = True, x_ticks: int = 6) -> Markup:
    """Grid, tick labels and titles; the y title stands on top, where it can be read without turning the head."""
    out = []
    for value in x.tick_values(x_ticks):
        place_x = x(value)
        out.append(
            make_element(
                "line", x1=place_x, x2=place_x, y1=y.start, y2=y.stop, cls="zero" if zero and value == 0 else "grid"
            )
        )
        out.append(draw_label(tick_text(value), place_x, y.start + 18, "tick", "middle"))
    for value in y.tick_values():
        place_y = y(value)
        out.append(
            make_element(
                "line", x1=x.start, x2=x.stop, y1=place_y, y2=place_y, cls="zero" if zero and value == 0 else "grid"
            )
        )
        out.append(draw_label(tick_text(value), x.start - 8, place_y + 4, "tick", "end"))
    out.append(draw_label(x_title, (x.start + x.stop) / 2, y.start + 38, "title", "middle"))
    out.append(draw_label(y_title, 2, y.stop - 14, "title"))
    return Markup("").join(out)


def compute_extent(values: Iterable[float], *, pad: float = 0.07, least: float = 4.0) -> tuple[float, float]:
    """Lowest and highest with a margin, never closer together than `least`."""
    values = list(values)
    low, high = min(values), max(values)
    if high - low < least:
        middle = (low + high) / 2
        low, high = middle - least / 2, middle + least / 2
    margin = pad * (high - low)
    return low - margin, high + margin


def text_width(text: str, size: float = FONT) -> float:
    """An estimate on the safe side for a wide sans-serif face; the reader's font is not known here."""
    return 0.6 * size * len(text)


def fit_text(text: str, width: float, size: float = FONT) -> str:
    """The text, its middle left out where it would be wider than `width`."""
    most = max(3, int(width / (0.6 * size)))
    return text if len(text) <= most else f"{text[: (most - 1) // 2]}…{text[len(text) - most // 2 :]}"


def overlap_area(a: Box, b: Box) -> float:
    """Shared area in square pixels."""
    if a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]:  # nearly always; asked a hundred times a label
        return 0.0
    return (min(a[2], b[2]) - max(a[0], b[0])) * (min(a[3], b[3]) - max(a[1], b[1]))


def _label_candidates(x: float, y: float, width: float, height: float) -> Iterable[tuple[float, Box]]:
    """Boxes around a point, near ones first, each with a small price for being far or oblique."""
    for distance in (9.0, 16.0, 26.0, 38.0, 52.0, 70.0, 90.0, 112.0):
        for i, angle in enumerate((-30, -150, 30, 150, -60, -120, 60, 120, -90, 90, 0, 180)):
            cx = x + distance * math.cos(math.radians(angle))
            cy = y + distance * math.sin(math.radians(angle))
            left_edge = cx if abs(angle) < 85 else cx - width if abs(angle) > 95 else cx - width / 2
            yield distance + 0.2 * i, (left_edge, cy - height / 2, left_edge + width, cy + height / 2)


def place_labels(
    anchors: list[tuple[float, float, str]], obstacles: list[Box], bounds: Box, size: float = FONT
) -> list[Box]:
    """A box for each label (x, y, text) near its point, clear of other labels and, where it can be, of obstacles.

    Greedy in the given order; a label leaves its point further behind rather than lie on another label.
    """
    boxes: list[Box] = []
    marks = [(x - 6, y - 6, x + 6, y + 6) for x, y, _ in anchors]

    def label_cost(price: float, box: Box) -> float:
        outside = (box[2] - box[0]) * (box[3] - box[1]) - overlap_area(box, bounds)
        conflict = 100 * outside + sum(3000 + 50 * area for other in boxes if (area := overlap_area(box, other)))
        return (
            price
            + conflict
            + sum(8 * overlap_area(box, m) for m in marks)
            + sum(0.6 * overlap_area(box, o) for o in obstacles)
        )

    for x, y, text in anchors:
        best, best_cost = bounds, math.inf
        for price, box in _label_candidates(x, y, text_width(text, size) + 4, size + 3):
            if price >= best_cost:  # those that follow are dearer still
                break
            if (cost := label_cost(price, box)) < best_cost:
                best, best_cost = box, cost
        boxes.append(best)
    return boxes


def spread_apart(values: list[float], gap: float, low: float, high: float) -> list[float]:
    """Positions moved so that neighbours are `gap` apart inside [low, high]; closer where there are too many for it."""
    gap = min(gap, (high - low) / max(len(values) - 1, 1))
    order = sorted(range(len(values)), key=lambda i: values[i])
    out = list(values)
    for before, i in zip([None, *order], order, strict=False):
        out[i] = max(out[i], low if before is None else out[before] + gap)
    for after, i in zip([None, *reversed(order)], reversed(order), strict=False):
        out[i] = min(out[i], high if after is None else out[after] - gap)
    return out


# Corners of the marker shapes after the circle, by turn, so that colour is never the only difference.
_SHAPES = (
    ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    ((0.0, -1.3), (1.3, 0.0), (0.0, 1.3), (-1.3, 0.0)),
    ((0.0, -1.2), (1.2, 0.9), (-1.2, 0.9)),
    ((0.0, 1.2), (-1.2, -0.9), (1.2, -0.9)),
)


def draw_marker(index: int, x: float, y: float, radius: float = 6.0, **attributes: object) -> Markup:
    """The shape of series `index`, centred at (x, y)."""
    turn = index % (len(_SHAPES) + 1)
    if turn == 0:
        return make_element("circle", cx=x, cy=y, r=radius, **attributes)
    corners = " ".join(f"{x + radius * a:.1f},{y + radius * b:.1f}" for a, b in _SHAPES[turn - 1])
    return make_element("polygon", points=corners, **attributes)
