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
    change_of,
    format_count,
    format_interval,
    format_signed,
    in_points,
    interval_direction,
    is_known,
    lost_part,
    method_of,
    order_tasks,
    unit_of,
)
from holdfast.report.phrasing import format_points as plain
from holdfast.report.svg import (
    Box,
    Scale,
    compute_extent,
    draw_axes,
    draw_label,
    draw_marker,
    draw_path,
    draw_responsive,
    draw_svg,
    fit_text,
    make_element,
    place_labels,
    text_width,
    tick_text,
)

COLOURS = 8
AGREEMENT = "agreement with the base, %"
ORIGINS = ("model", "paraphrase", "gold", "replay")
"""Who can have written a row, in the order shown; any other origin follows."""
SAMPLED_ORIGINS = frozenset({"model", "paraphrase"})
"""Origins of rows whose answer was sampled to be trained on."""


@dataclass(slots=True)
class Point:
    """One method on the plane: `lost` and `gain` in points, intervals as (low, high), `seeds` as (lost, gain)."""

    name: str
    loss: float
    gain: float
    loss_span: tuple[float, float] | None = None
    gain_span: tuple[float, float] | None = None
    front: bool = False
    seeds: list[tuple[float, float]] = field(default_factory=list)
    colour: int = 0


def _interval_ends(part: dict[str, Any]) -> tuple[float, float] | None:
    return (part["low"], part["high"]) if is_known(part.get("low")) and is_known(part.get("high")) else None


def point_of(run: dict[str, Any], name: str, colour: int = 0) -> Point | None:
    """The point of a run (of `report.json`, or one of `compare.json`); None if gain or loss was not measured."""
    gain, loss = change_of(run.get("gain")), lost_part(run)
    if gain is None or loss is None:
        return None
    seeds = [
        (p["loss"], p["gain"]) for p in run.get("points") or [] if is_known(p.get("loss")) and is_known(p.get("gain"))
    ]
    front = bool(run.get("pareto"))
    return Point(
        name,
        loss["delta"],
        gain["delta"],
        _interval_ends(loss),
        _interval_ends(gain),
        front,
        seeds if len(seeds) > 1 else [],
        colour,
    )


def _draw_whiskers(point: Point, x: Scale, y: Scale) -> tuple[list[Markup], list[Markup], list[Box]]:
    """Both intervals as capped lines, their halos, and the boxes that labels should keep out of.

    Without the halo the whisker of a method that lost nothing could not be told from the axis it lies on.
    """
    px, py, cap, clear = x(point.loss), y(point.gain), 4, 3
    lines, halos, boxes = [], [], []
    if point.loss_span:
        a, b = (x(v) for v in point.loss_span)
        d = f"M{a:.1f} {py:.1f}H{b:.1f}M{a:.1f} {py - cap:.1f}v{2 * cap}M{b:.1f} {py - cap:.1f}v{2 * cap}"
        lines.append(make_element("path", d=d, cls="whisker"))
        halos.append(make_element("path", d=f"M{a:.1f} {py:.1f}H{b:.1f}", cls="halo"))
        boxes.append((a - clear, py - cap - clear, b + clear, py + cap + clear))
    if point.gain_span:
        a, b = (y(v) for v in point.gain_span)
        d = f"M{px:.1f} {a:.1f}V{b:.1f}M{px - cap:.1f} {a:.1f}h{2 * cap}M{px - cap:.1f} {b:.1f}h{2 * cap}"
        lines.append(make_element("path", d=d, cls="whisker"))
        halos.append(make_element("path", d=f"M{px:.1f} {a:.1f}V{b:.1f}", cls="halo"))
        boxes.append((px - cap - clear, b - clear, px + cap + clear, a + clear))
    return lines, halos, boxes


def _draw_front(points: Sequence[Point], x: Scale, y: Scale) -> Markup:
    """The stepped line under which no method lies: the most gain to be had for at most this much loss.

    It begins at the base, unless a method is ahead of that.
    """
    best = {(p.loss, p.gain) for p in points if p.front}
    if not any(loss <= 0 <= gain for loss, gain in best):
        best.add((0.0, 0.0))
    if len(best) < 2:
        return Markup("")
    first, *others = sorted(best)
    corners = [(x(first[0]), y(first[1]))]
    for loss, gain in others:
        corners += [(x(loss), corners[-1][1]), (x(loss), y(gain))]
    corners.append((x.stop, corners[-1][1]))
    return draw_path(corners, cls="front")


def _trail_boxes(way: Sequence[tuple[float, float]]) -> list[Box]:
    """Small boxes along a path, for labels to keep out of."""
    boxes: list[Box] = []
    for (a, b), (c, d) in pairwise(way):
        for k in range(17):
            px, py = a + (c - a) * k / 16, b + (d - b) * k / 16
            boxes.append((px - 3, py - 3, px + 3, py + 3))
    return boxes


def _describe_points(points: Sequence[Point]) -> str:
    parts = []
    for p in points:
        loss_text = f", interval {format_interval(*p.loss_span)}" if p.loss_span else ""
        gain = f", interval {format_interval(*p.gain_span)}" if p.gain_span else ""
        parts.append(f"{p.name}: gain {format_signed(p.gain)}{gain}; lost {plain(p.loss)}{loss_text}.")
    return " ".join(parts)


def _draw_names(points: Sequence[Point], x: Scale, y: Scale, obstacles: list[Box], bounds: Box) -> list[Markup]:
    """The names beside the marks, with lines to those that found no room near; not more than `MOST_NAMES`."""
    top_points = sorted(points, key=lambda p: not p.front)[
        :MOST_NAMES
    ]  # there is no room for more; a mark has its name, too
    top_points = [p for p in points if any(p is other for other in top_points)]
    anchors = [(x(p.loss), y(p.gain), fit_text(p.name, 150)) for p in top_points]
    anchors.append((x(0), y(0), "base"))
    body: list[Markup] = []
    for i, (box, (px, py, text)) in enumerate(zip(place_labels(anchors, obstacles, bounds), anchors, strict=True)):
        colour = "soft" if i == len(top_points) else f"s{top_points[i].colour % COLOURS}"
        near = (min(max(px, box[0]), box[2]), min(max(py, box[1]), box[3]))
        if abs(near[0] - px) + abs(near[1] - py) > 24:
            body.append(draw_path([(px, py), near], cls=f"lead {colour}"))
        body.append(draw_label(text, (box[0] + box[2]) / 2, box[3] - 3.5, f"name {colour}", "middle"))
    return body


def _draw_plane(
    points: Sequence[Point], way: Sequence[tuple[float, float]], titles: tuple[str, str], name: str, width: float
) -> Markup:
    height = 440 if width > 500 else 380
    spans_x = [v for p in points for v in (p.loss, *(p.loss_span or ()), *(s[0] for s in p.seeds))]
    spans_y = [v for p in points for v in (p.gain, *(p.gain_span or ()), *(s[1] for s in p.seeds))]
    least = [0.05 if title.startswith("bits") else 4.0 for title in titles]
    x = Scale(*compute_extent([0, *spans_x, *(w[0] for w in way)], least=least[0]), 40, width - 10)
    y = Scale(*compute_extent([0, *spans_y, *(w[1] for w in way)], least=least[1]), height - 48, 30)
    bounds: Box = (x.start + 2, y.stop + 2, x.stop - 2, y.start - 2)
    obstacles: list[Box] = [(x.start, y(0) - 1, x.stop, y(0) + 1), (x(0) - 1, y.stop, x(0) + 1, y.start)]
    obstacles += _trail_boxes([(x(a), y(b)) for a, b in way])
    body = [
        make_element(
            "rect", x=x.start, y=y.stop, width=max(0.0, x(0) - x.start), height=max(0.0, y(0) - y.stop), cls="good"
        )
    ]
    body += [draw_axes(x, y, f"{titles[0]} →", f"{titles[1]} ↑"), _draw_front(points, x, y)]
    body.append(draw_label("↖ better", x.stop, y.stop - 14, "title", "end"))
    if len(way) > 1:
        body.append(draw_path([(x(a), y(b)) for a, b in way], cls="way"))
        body += [make_element("circle", cx=x(a), cy=y(b), r=2.5, cls="way-dot") for a, b in way]
    marks, under = [], []
    for p in points:
        lines, halos, boxes = _draw_whiskers(p, x, y)
        under += halos  # all of them below all marks
        obstacles += boxes
        dots = [make_element("circle", cx=x(a), cy=y(b), r=3.0, cls="seed") for a, b in p.seeds]
        tip = make_element("title", _describe_points([p]))
        marks.append(
            make_element(
                "g",
                tip,
                *dots,
                *lines,
                draw_marker(p.colour, x(p.loss), y(p.gain), cls="mark"),
                cls=f"s{p.colour % COLOURS}",
            )
        )
    body += [*under, *marks]
    body.append(make_element("circle", cx=x(0), cy=y(0), r=4.5, cls="base"))
    body += _draw_names(points, x, y, obstacles, bounds)
    text = f"{titles[1]} against {titles[0]}; base is at zero, better is up and left. {_describe_points(points)}"
    return draw_svg(name, width, height, "Gain/loss plane", text, *body)


MOST_NAMES = 24
"""Methods that the plane names, those on the front first; finding room for names takes time that grows faster."""

AXES = ("points lost elsewhere", "points gained on the target")
"""What the plane's axes count, unless a run counts in something else."""


def axes_of(run: dict[str, Any]) -> tuple[str, str]:
    """What a run's loss and gain are counted in."""
    of = (lost_part(run) or {}).get("of")
    loss_units = {"probe": "points of agreement with the base lost", "text": "% more bits for the kept text"}
    verb = "gained" if in_points(run.get("gain")) else "saved"
    return loss_units.get(str(of), AXES[0]), f"{unit_of(run.get('gain'))} {verb} on the target"


def gain_loss_plane(
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
    return draw_responsive(lambda n, w: _draw_plane(points, way, titles, n, w), name)


def way_of(
    curves: Sequence[dict[str, Any]], better: str = "higher", loss_key: str = "keep"
) -> list[tuple[float, float]]:
    """(lost, gain) at each evaluation during training, against the one at step 0; empty if there was none there.

    Args:
        better: Whether a "higher" or a "lower" figure of the target is better.
        loss_key: The figure that tells what was lost: "keep" (points) or "text" (bits, of which the rise in per cent).
    """
    evaluations = [c for c in curves if is_known(c.get("target")) and is_known(c.get(loss_key))]
    if not evaluations or evaluations[0]["step"] != 0 or (loss_key == "text" and not evaluations[0]["text"]):
        return []
    first, sign = evaluations[0], 1 if better == "higher" else -1
    losses = [
        100 * (c["text"] / first["text"] - 1) if loss_key == "text" else first["keep"] - c["keep"] for c in evaluations
    ]
    return [(x, sign * (c["target"] - first["target"])) for x, c in zip(losses, evaluations, strict=True)]


def run_plane(report: dict[str, Any]) -> Markup:
    """The plane of one run, with the way it took through training."""
    point = point_of(report, method_of(report))
    if not point:
        return Markup("")
    return gain_loss_plane([point], way=run_way(report), titles=axes_of(report))


def run_way(report: dict[str, Any]) -> list[tuple[float, float]]:
    """`way_of` a run, in the units of its plane."""
    better = "higher" if in_points(report.get("gain")) else "lower"
    loss_key = "text" if (lost_part(report) or {}).get("of") == "text" else "keep"
    return way_of(report.get("curves") or [], better, loss_key)


def compare_plane(compare: dict[str, Any], colours: Sequence[int] = ()) -> Markup:
    """The plane of all methods.

    Args:
        colours: Of each run the number of its colour on the whole page; default: the k-th run has the k-th.
    """
    runs = compare.get("runs") or []
    plane_points = [point_of(run, run["method"], i) for run, i in zip(runs, colours or range(len(runs)), strict=True)]
    return gain_loss_plane([p for p in plane_points if p], titles=axes_of(runs[0])) if any(plane_points) else Markup("")


def _task_label(task: dict[str, Any]) -> str:
    return str(task.get("label") or task["name"])


def _value_text(task: dict[str, Any]) -> str:
    """`+12.3 (+8.1 to +16.4)`."""
    low, high = task.get("low"), task.get("high")
    interval = f" ({format_interval(low, high, sign=True)})" if is_known(low) and low != high else ""
    return format_signed(task["delta"]) + interval


def _delta_row(task: dict[str, Any], x: Scale, y: float, *, is_narrow: bool) -> list[Markup]:
    """One task: name, bar from 0, whisker, value. `stacked` puts name and value above the bar."""
    low, high, delta = task.get("low"), task.get("high"), task["delta"]
    kind = interval_direction(low, high)
    text_y, bar_y = (y + 13, y + 19) if is_narrow else (y + 18, y + 6)
    name_cls = "name" if task.get("role") == "target" else "task"
    a, b = sorted((x(0), x(delta)))
    value = _value_text(task)
    room = x.stop - 14 - text_width(value) if is_narrow else x.start - 16
    name_text = fit_text(_task_label(task), room)
    out = [draw_label(name_text, 2 if is_narrow else x.start - 14, text_y, name_cls, "start" if is_narrow else "end")]
    out.append(make_element("rect", x=a, y=float(bar_y), width=max(b - a, 1.0), height=16, rx=2, cls=f"bar {kind}"))
    if is_known(low) and is_known(high):
        c, d, m = x(low), x(high), bar_y + 8
        out.append(
            make_element("path", d=f"M{c:.1f} {m}H{d:.1f}M{c:.1f} {m - 4}v8M{d:.1f} {m - 4}v8", cls="whisker dark")
        )
    if is_narrow:  # the value stands in the plot, where a line of the grid would run through it
        size = text_width(value)
        out.append(make_element("rect", x=x.stop - size, y=float(text_y - 13), width=size, height=16, cls="clear"))
    out.append(draw_label(value, x.stop + (0 if is_narrow else 14), text_y, "value", "end" if is_narrow else "start"))
    return out


def _draw_deltas(tasks: Sequence[dict[str, Any]], name: str, width: float) -> Markup:
    is_narrow = width <= 500
    pitch, top = (50, 4) if is_narrow else (28, 4)
    left_edge = 2 if is_narrow else min(220.0, 24 + max(text_width(_task_label(t)) for t in tasks))
    right = 2 if is_narrow else 16 + max(text_width(_value_text(t)) for t in tasks)
    ends = [v for t in tasks for v in (t["delta"], t.get("low"), t.get("high")) if is_known(v)]
    x = Scale(*compute_extent([0, *ends], pad=0.03), left_edge, width - right)
    targets = sum(t.get("role") == "target" for t in tasks)
    gap = 14 if 0 < targets < len(tasks) else 0
    bottom = top + pitch * len(tasks) + gap
    body = []
    for value in x.tick_values(5 if is_narrow else 7):
        cls = "zero" if value == 0 else "grid"
        body.append(make_element("line", x1=x(value), x2=x(value), y1=top, y2=bottom, cls=cls))
        body.append(draw_label(tick_text(value), x(value), bottom + 17, "tick", "middle"))
    for i, task in enumerate(tasks):
        body += _delta_row(task, x, top + pitch * i + (gap if i >= targets else 0), is_narrow=is_narrow)
    if gap:
        y = float(top + pitch * targets + gap / 2)
        body.append(make_element("line", x1=0, x2=width, y1=y, y2=y, cls="divide"))
    body.append(
        draw_label("change in points, tuned \u2212 base", (x.start + x.stop) / 2, bottom + 36, "title", "middle")
    )
    spans = [format_interval(t.get("low"), t.get("high"), sign=True) for t in tasks]
    description = " ".join(
        f"{_task_label(t)}: {format_signed(t['delta'])} ({s})." for t, s in zip(tasks, spans, strict=True)
    )
    return draw_svg(
        name, width, bottom + 44, "Change per task", "Tuned minus base with 95 % intervals. " + description, *body
    )


def delta_bars(tasks: Sequence[dict[str, Any]], name: str = "deltas") -> Markup:
    """Change in points per task as bars with interval whiskers: targets first, then kept tasks from worst to best.

    Tasks that are counted in something else have no place on the same axis. A bar is filled only where the interval
    leaves out 0.
    """
    point_tasks = [t for t in order_tasks(list(tasks)) if is_known(t.get("delta")) and in_points(t)]
    return draw_responsive(lambda n, w: _draw_deltas(point_tasks, n, w), name) if point_tasks else Markup("")


def origin_names(rows: Iterable[dict[str, float]]) -> list[str]:
    """All origins that occur, the known ones first and in their order, others as met."""
    names = list(dict.fromkeys(name for counts in rows for name, value in (counts or {}).items() if value))
    return [n for n in ORIGINS if n in names] + [n for n in names if n not in ORIGINS]


def origin_class(kind: str, kinds: Sequence[str]) -> str:
    """The colour class of an origin: the same on every page for the known ones."""
    extra = [k for k in kinds if k not in ORIGINS]
    return f"o{ORIGINS.index(kind) if kind in ORIGINS else 4 + extra.index(kind) % 4}"


def _draw_shares(
    bars: Sequence[tuple[str, dict[str, float]]], kinds: list[str], name: str, title: str, width: float
) -> Markup:
    has_names, narrow = any(bar for bar, _ in bars), width <= 500
    left_edge = 0.0 if not has_names or narrow else min(220.0, 14 + max(text_width(bar) for bar, _ in bars))
    pitch, height = (48 if has_names and narrow else 34), 24
    body = []
    for row, (bar, counts) in enumerate(bars):
        y, total = float(row * pitch + (20 if has_names and narrow else 2)), sum(counts.values())
        if has_names:
            at = (2, y - 6, "start") if narrow else (left_edge - 12, y + 16.5, "end")
            body.append(draw_label(fit_text(bar, width if narrow else left_edge - 14), at[0], at[1], "name", at[2]))
        start = left_edge
        for kind in kinds:
            size = counts.get(kind, 0) / total * (width - left_edge) if total else 0.0
            share = f"{100 * counts.get(kind, 0) / total:.0f} %" if total else MISSING
            if size > 0:
                tip = make_element("title", f"{kind}: {format_count(counts[kind])} ({share})")
                box = make_element(
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
                body.append(draw_label(share, start + size / 2 - 0.75, y + 16.5, "on", "middle"))
            start += size
    description = " ".join(
        f"{bar}: " + ", ".join(f"{k} {format_count(v)}" for k, v in counts.items()) + "." for bar, counts in bars
    )
    return draw_svg(
        name, width, pitch * len(bars) + (2 if not (has_names and narrow) else 0), title, description, *body
    )


def share_bars(
    bars: Sequence[tuple[str, dict[str, float]]],
    kinds: list[str],
    name: str = "origins",
    title: str = "Who wrote the rows",
) -> Markup:
    """Stacked bars of shares, one per (label, {kind: amount}); a bar without amounts is left out."""
    bars = [(bar, counts) for bar, counts in bars if counts and sum(counts.values()) > 0]
    return draw_responsive(lambda n, w: _draw_shares(bars, kinds, n, title, w), name) if bars else Markup("")
