"""The report's plots as inline SVG: the gain/loss plane, changes per task, learning curves, who wrote the rows.

Colours come from the page's style sheet by class (`s0` ... `s7`, `up`, `down`, `flat`), so the same drawing serves
light, dark and paper. Every function returns `Markup`; an empty one when there is nothing to draw.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import (
    MISSING,
    change,
    count,
    direction,
    in_points,
    known,
    lost_part,
    method_of,
    ordered,
    signed,
    span,
    unit_of,
)
from holdfast.report.phrasing import points as plain
from holdfast.report.svg import (
    Box,
    Scale,
    axes,
    el,
    extent,
    fit,
    label,
    marker,
    path,
    place,
    responsive,
    svg,
    text_width,
    tick_text,
)

COLOURS = 8
AGREEMENT = "agreement with the base, %"
ORIGINS = ("model", "paraphrase", "gold", "replay")
"""Who can have written a row, in the order shown; any other origin follows."""
SAMPLED = frozenset({"model", "paraphrase"})
"""Origins of rows whose answer was sampled to be trained on."""


@dataclass(slots=True)
class Point:
    """One method on the plane: `lost` and `gain` in points, intervals as (low, high), `seeds` as (lost, gain)."""

    name: str
    lost: float
    gain: float
    lost_span: tuple[float, float] | None = None
    gain_span: tuple[float, float] | None = None
    front: bool = False
    seeds: list[tuple[float, float]] = field(default_factory=list)
    colour: int = 0


def _span(part: dict[str, Any]) -> tuple[float, float] | None:
    return (part["low"], part["high"]) if known(part.get("low")) and known(part.get("high")) else None


def point_of(run: dict[str, Any], name: str, colour: int = 0) -> Point | None:
    """The point of a run (of `report.json`, or one of `compare.json`); None if gain or loss was not measured."""
    gain, loss = change(run.get("gain")), lost_part(run)
    if gain is None or loss is None:
        return None
    seeds = [(p["loss"], p["gain"]) for p in run.get("points") or [] if known(p.get("loss")) and known(p.get("gain"))]
    front = bool(run.get("pareto"))
    return Point(
        name, loss["delta"], gain["delta"], _span(loss), _span(gain), front, seeds if len(seeds) > 1 else [], colour
    )


def _whiskers(point: Point, x: Scale, y: Scale) -> tuple[list[Markup], list[Markup], list[Box]]:
    """Both intervals as capped lines, their halos, and the boxes that labels should keep out of.

    Without the halo the whisker of a method that lost nothing could not be told from the axis it lies on.
    """
    px, py, cap, clear = x(point.lost), y(point.gain), 4, 3
    lines, halos, boxes = [], [], []
    if point.lost_span:
        a, b = (x(v) for v in point.lost_span)
        d = f"M{a:.1f} {py:.1f}H{b:.1f}M{a:.1f} {py - cap:.1f}v{2 * cap}M{b:.1f} {py - cap:.1f}v{2 * cap}"
        lines.append(el("path", d=d, cls="whisker"))
        halos.append(el("path", d=f"M{a:.1f} {py:.1f}H{b:.1f}", cls="halo"))
        boxes.append((a - clear, py - cap - clear, b + clear, py + cap + clear))
    if point.gain_span:
        a, b = (y(v) for v in point.gain_span)
        d = f"M{px:.1f} {a:.1f}V{b:.1f}M{px - cap:.1f} {a:.1f}h{2 * cap}M{px - cap:.1f} {b:.1f}h{2 * cap}"
        lines.append(el("path", d=d, cls="whisker"))
        halos.append(el("path", d=f"M{px:.1f} {a:.1f}V{b:.1f}", cls="halo"))
        boxes.append((px - cap - clear, b - clear, px + cap + clear, a + clear))
    return lines, halos, boxes


def _front(points: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """The stepped line under which no method lies: the most gain to be had for at most this much loss.

    It begins at the base, unless a method is ahead of that.
    """
    best = {(p.lost, p.gain) for p in points if p.front}
    if not any(lost <= 0 <= gain for lost, gain in best):
        best.add((0.0, 0.0))
    if len(best) < 2:
        return Markup("")
    first, *others = sorted(best)
    corners = [(x(first[0]), y(first[1]))]
    for lost, gain in others:
        corners += [(x(lost), corners[-1][1]), (x(lost), y(gain))]
    corners.append((x.stop, corners[-1][1]))
    return path(corners, cls="front")


def _trail(way: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a path, for labels to keep out of."""
    boxes: list[Box] = []
    for (a, b), (c, d) in pairwise(way):
        for k in range(17):
            px, py = a + (c - a) * k / 16, b + (d - b) * k / 16
            boxes.append((px - 3, py - 3, px + 3, py + 3))
    return boxes


def _told(points: Sequence[Point]) -> str:
    parts = []
    for p in points:
        lost = f", interval {span(*p.lost_span)}" if p.lost_span else ""
        gain = f", interval {span(*p.gain_span)}" if p.gain_span else ""
        parts.append(f"{p.name}: gain {signed(p.gain)}{gain}; lost {plain(p.lost)}{lost}.")
    return " ".join(parts)


def _names(points: Sequence[Point], x: Scale, y: Scale, obstacles: list[Box], bounds: Box) -> list[Markup]:
    """The names beside the marks, with lines to those that found no room near; not more than `MOST_NAMES`."""
    named = sorted(points, key=lambda p: not p.front)[
        :MOST_NAMES
    ]  # there is no room for more; a mark has its name, too
    named = [p for p in points if any(p is other for other in named)]
    anchors = [(x(p.lost), y(p.gain), fit(p.name, 150)) for p in named]
    anchors.append((x(0), y(0), "base"))
    body: list[Markup] = []
    for i, (box, (px, py, text)) in enumerate(zip(place(anchors, obstacles, bounds), anchors, strict=True)):
        colour = "soft" if i == len(named) else f"s{named[i].colour % COLOURS}"
        near = (min(max(px, box[0]), box[2]), min(max(py, box[1]), box[3]))
        if abs(near[0] - px) + abs(near[1] - py) > 24:
            body.append(path([(px, py), near], cls=f"lead {colour}"))
        body.append(label(text, (box[0] + box[2]) / 2, box[3] - 3.5, f"name {colour}", "middle"))
    return body


def _draw_plane(
    points: Sequence[Point], way: Sequence[tuple[float, float]], titles: tuple[str, str], name: str, width: float
) -> Markup:
    height = 440 if width > 500 else 380
    spans_x = [v for p in points for v in (p.lost, *(p.lost_span or ()), *(s[0] for s in p.seeds))]
    spans_y = [v for p in points for v in (p.gain, *(p.gain_span or ()), *(s[1] for s in p.seeds))]
    least = [0.05 if title.startswith("bits") else 4.0 for title in titles]
    x = Scale(*extent([0, *spans_x, *(w[0] for w in way)], least=least[0]), 40, width - 10)
    y = Scale(*extent([0, *spans_y, *(w[1] for w in way)], least=least[1]), height - 48, 30)
    bounds: Box = (x.start + 2, y.stop + 2, x.stop - 2, y.start - 2)
    obstacles: list[Box] = [(x.start, y(0) - 1, x.stop, y(0) + 1), (x(0) - 1, y.stop, x(0) + 1, y.start)]
    obstacles += _trail([(x(a), y(b)) for a, b in way])
    body = [el("rect", x=x.start, y=y.stop, width=max(0.0, x(0) - x.start), height=max(0.0, y(0) - y.stop), cls="good")]
    body += [axes(x, y, f"{titles[0]} →", f"{titles[1]} ↑"), _front(points, x, y)]
    body.append(label("↖ better", x.stop, y.stop - 14, "title", "end"))
    if len(way) > 1:
        body.append(path([(x(a), y(b)) for a, b in way], cls="way"))
        body += [el("circle", cx=x(a), cy=y(b), r=2.5, cls="way-dot") for a, b in way]
    marks, under = [], []
    for p in points:
        lines, halos, boxes = _whiskers(p, x, y)
        under += halos  # all of them below all marks
        obstacles += boxes
        dots = [el("circle", cx=x(a), cy=y(b), r=3.0, cls="seed") for a, b in p.seeds]
        tip = el("title", _told([p]))
        marks.append(
            el(
                "g",
                tip,
                *dots,
                *lines,
                marker(p.colour, x(p.lost), y(p.gain), cls="mark"),
                cls=f"s{p.colour % COLOURS}",
            )
        )
    body += [*under, *marks]
    body.append(el("circle", cx=x(0), cy=y(0), r=4.5, cls="base"))
    body += _names(points, x, y, obstacles, bounds)
    text = f"{titles[1]} against {titles[0]}; base is at zero, better is up and left. {_told(points)}"
    return svg(name, width, height, "Gain/loss plane", text, *body)


MOST_NAMES = 24
"""Methods that the plane names, those on the front first; finding room for names takes time that grows faster."""

AXES = ("points lost elsewhere", "points gained on the target")
"""What the plane's axes count, unless a run counts in something else."""


def axes_of(run: dict[str, Any]) -> tuple[str, str]:
    """What a run's loss and gain are counted in."""
    of = (lost_part(run) or {}).get("of")
    lost = {"probe": "points of agreement with the base lost", "text": "% more bits for the kept text"}
    gained = "gained" if in_points(run.get("gain")) else "saved"
    return lost.get(str(of), AXES[0]), f"{unit_of(run.get('gain'))} {gained} on the target"


def plane(
    points: Sequence[Point],
    name: str = "plane",
    way: Sequence[tuple[float, float]] = (),
    titles: tuple[str, str] = AXES,
) -> Markup:
    """The gain/loss plane: x = lost elsewhere, y = gained on the target, whiskers = 95 % intervals.

    Args:
        points: Methods; one given earlier gets the better place for its name.
        name: Unique on the page.
        way: (lost, gain) of the evaluations during training of a single run, drawn as a faint path.
        titles: What x and y count.
    """
    if not points:
        return Markup("")
    return responsive(lambda n, w: _draw_plane(points, way, titles, n, w), name)


def way_of(curves: Sequence[dict[str, Any]], better: str = "higher", kept: str = "keep") -> list[tuple[float, float]]:
    """(lost, gain) at each evaluation during training, against the one at step 0; empty if there was none there.

    Args:
        better: Whether a "higher" or a "lower" figure of the target is better.
        kept: The figure that tells what was lost: "keep" (points) or "text" (bits, of which the rise in per cent).
    """
    seen = [c for c in curves if known(c.get("target")) and known(c.get(kept))]
    if not seen or seen[0]["step"] != 0 or (kept == "text" and not seen[0]["text"]):
        return []
    first, sign = seen[0], 1 if better == "higher" else -1
    lost = [100 * (c["text"] / first["text"] - 1) if kept == "text" else first["keep"] - c["keep"] for c in seen]
    return [(x, sign * (c["target"] - first["target"])) for x, c in zip(lost, seen, strict=True)]


def run_plane(report: dict[str, Any]) -> Markup:
    """The plane of one run, with the way it took through training."""
    point = point_of(report, method_of(report))
    if not point:
        return Markup("")
    return plane([point], way=run_way(report), titles=axes_of(report))


def run_way(report: dict[str, Any]) -> list[tuple[float, float]]:
    """`way_of` a run, in the units of its plane."""
    better = "higher" if in_points(report.get("gain")) else "lower"
    kept = "text" if (lost_part(report) or {}).get("of") == "text" else "keep"
    return way_of(report.get("curves") or [], better, kept)


def compare_plane(compare: dict[str, Any], colours: Sequence[int] = ()) -> Markup:
    """The plane of all methods.

    Args:
        colours: Of each run the number of its colour on the whole page; default: the k-th run has the k-th.
    """
    runs = compare.get("runs") or []
    found = [point_of(run, run["method"], i) for run, i in zip(runs, colours or range(len(runs)), strict=True)]
    return plane([p for p in found if p], titles=axes_of(runs[0])) if any(found) else Markup("")


def _label(task: dict[str, Any]) -> str:
    return str(task.get("label") or task["name"])


def _value_text(task: dict[str, Any]) -> str:
    """`+12.3 (+8.1 to +16.4)`."""
    low, high = task.get("low"), task.get("high")
    interval = f" ({span(low, high, sign=True)})" if known(low) and low != high else ""
    return signed(task["delta"]) + interval


def _delta_row(task: dict[str, Any], x: Scale, y: float, *, stacked: bool) -> list[Markup]:
    """One task: name, bar from 0, whisker, value. `stacked` puts name and value above the bar."""
    low, high, delta = task.get("low"), task.get("high"), task["delta"]
    kind = direction(low, high)
    text_y, bar_y = (y + 13, y + 19) if stacked else (y + 18, y + 6)
    name_cls = "name" if task.get("role") == "target" else "task"
    a, b = sorted((x(0), x(delta)))
    value = _value_text(task)
    room = x.stop - 14 - text_width(value) if stacked else x.start - 16
    shown = fit(_label(task), room)
    out = [label(shown, 2 if stacked else x.start - 14, text_y, name_cls, "start" if stacked else "end")]
    out.append(el("rect", x=a, y=float(bar_y), width=max(b - a, 1.0), height=16, rx=2, cls=f"bar {kind}"))
    if known(low) and known(high):
        c, d, m = x(low), x(high), bar_y + 8
        out.append(el("path", d=f"M{c:.1f} {m}H{d:.1f}M{c:.1f} {m - 4}v8M{d:.1f} {m - 4}v8", cls="whisker dark"))
    if stacked:  # the value stands in the plot, where a line of the grid would run through it
        size = text_width(value)
        out.append(el("rect", x=x.stop - size, y=float(text_y - 13), width=size, height=16, cls="clear"))
    out.append(label(value, x.stop + (0 if stacked else 14), text_y, "value", "end" if stacked else "start"))
    return out


def _draw_deltas(tasks: Sequence[dict[str, Any]], name: str, width: float) -> Markup:
    stacked = width <= 500
    pitch, top = (50, 4) if stacked else (28, 4)
    left = 2 if stacked else min(220.0, 24 + max(text_width(_label(t)) for t in tasks))
    right = 2 if stacked else 16 + max(text_width(_value_text(t)) for t in tasks)
    ends = [v for t in tasks for v in (t["delta"], t.get("low"), t.get("high")) if known(v)]
    x = Scale(*extent([0, *ends], pad=0.03), left, width - right)
    targets = sum(t.get("role") == "target" for t in tasks)
    gap = 14 if 0 < targets < len(tasks) else 0
    bottom = top + pitch * len(tasks) + gap
    body = []
    for value in x.ticks(5 if stacked else 7):
        cls = "zero" if value == 0 else "grid"
        body.append(el("line", x1=x(value), x2=x(value), y1=top, y2=bottom, cls=cls))
        body.append(label(tick_text(value), x(value), bottom + 17, "tick", "middle"))
    for i, task in enumerate(tasks):
        body += _delta_row(task, x, top + pitch * i + (gap if i >= targets else 0), stacked=stacked)
    if gap:
        y = float(top + pitch * targets + gap / 2)
        body.append(el("line", x1=0, x2=width, y1=y, y2=y, cls="divide"))
    body.append(label("change in points, tuned \u2212 base", (x.start + x.stop) / 2, bottom + 36, "title", "middle"))
    spans = [span(t.get("low"), t.get("high"), sign=True) for t in tasks]
    told = " ".join(f"{_label(t)}: {signed(t['delta'])} ({s})." for t, s in zip(tasks, spans, strict=True))
    return svg(name, width, bottom + 44, "Change per task", "Tuned minus base with 95 % intervals. " + told, *body)


def deltas(tasks: Sequence[dict[str, Any]], name: str = "deltas") -> Markup:
    """Change in points per task as bars with interval whiskers: targets first, then kept tasks from worst to best.

    Tasks that are counted in something else have no place on the same axis. A bar is filled only where the interval
    leaves out 0.
    """
    shown = [t for t in ordered(list(tasks)) if known(t.get("delta")) and in_points(t)]
    return responsive(lambda n, w: _draw_deltas(shown, n, w), name) if shown else Markup("")


def origin_names(rows: Iterable[dict[str, float]]) -> list[str]:
    """All origins that occur, the known ones first and in their order, others as met."""
    found = list(dict.fromkeys(name for counts in rows for name, value in (counts or {}).items() if value))
    return [n for n in ORIGINS if n in found] + [n for n in found if n not in ORIGINS]


def origin_class(kind: str, kinds: Sequence[str]) -> str:
    """The colour class of an origin: the same on every page for the known ones."""
    extra = [k for k in kinds if k not in ORIGINS]
    return f"o{ORIGINS.index(kind) if kind in ORIGINS else 4 + extra.index(kind) % 4}"


def _draw_shares(
    bars: Sequence[tuple[str, dict[str, float]]], kinds: list[str], name: str, title: str, width: float
) -> Markup:
    named, narrow = any(bar for bar, _ in bars), width <= 500
    left = 0.0 if not named or narrow else min(220.0, 14 + max(text_width(bar) for bar, _ in bars))
    pitch, height = (48 if named and narrow else 34), 24
    body = []
    for row, (bar, counts) in enumerate(bars):
        y, total = float(row * pitch + (20 if named and narrow else 2)), sum(counts.values())
        if named:
            at = (2, y - 6, "start") if narrow else (left - 12, y + 16.5, "end")
            body.append(label(fit(bar, width if narrow else left - 14), at[0], at[1], "name", at[2]))
        start = left
        for kind in kinds:
            size = counts.get(kind, 0) / total * (width - left) if total else 0.0
            share = f"{100 * counts.get(kind, 0) / total:.0f} %" if total else MISSING
            if size > 0:
                tip = el("title", f"{kind}: {count(counts[kind])} ({share})")
                box = el(
                    "rect",
                    tip,
                    x=start,
                    y=y,
                    width=max(size - 1.5, 0.75),
                    height=height,
                    rx=2,
                    cls=origin_class(kind, kinds),
                )
                body.append(box)
            if size > text_width(share, 12) + 6:
                body.append(label(share, start + size / 2 - 0.75, y + 16.5, "on", "middle"))
            start += size
    told = " ".join(f"{bar}: " + ", ".join(f"{k} {count(v)}" for k, v in counts.items()) + "." for bar, counts in bars)
    return svg(name, width, pitch * len(bars) + (2 if not (named and narrow) else 0), title, told, *body)


def shares(
    bars: Sequence[tuple[str, dict[str, float]]],
    kinds: list[str],
    name: str = "origins",
    title: str = "Who wrote the rows",
) -> Markup:
    """Stacked bars of shares, one per (label, {kind: amount}); a bar without amounts is left out."""
    bars = [(bar, counts) for bar, counts in bars if counts and sum(counts.values()) > 0]
    return responsive(lambda n, w: _draw_shares(bars, kinds, n, title, w), name) if bars else Markup("")
