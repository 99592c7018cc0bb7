"""Every method through its learning rates on the plane of gain and loss, and the gain at which losses are read off."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import format_points as plain
from holdfast.report.phrasing import format_signed
from holdfast.report.plots import COLOURS
from holdfast.report.svg import (
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
)


def matched_plane(part: dict[str, Any] | None) -> Markup:
    """The drawing of the part `matched` of compare.json; nothing where each method ran at one rate.

    Lines go from the base, at zero, to the smallest learning rate and on from rate to rate.
    """
    if not part:
        return Markup("")
    return draw_responsive(lambda name, width: _draw_rates(part, name, width), "matched")


def _draw_rates(part: dict[str, Any], name: str, width: float) -> Markup:
    methods, height, goal = part["methods"], 380.0, part["gain"]
    bits = part["unit"] != "points"
    ways = {m["method"]: [(0.0, 0.0), *((r["loss"], r["gain"]) for r in m["rates"])] for m in methods}
    every = [corner for way in ways.values() for corner in way]
    x = Scale(*compute_extent([loss for loss, _ in every]), 40, width - 10)
    y = Scale(*compute_extent([gain for _, gain in every], least=0.05 if bits else 4.0), height - 48, 30)
    body = [
        draw_axes(x, y, "points lost elsewhere →", f"{part['unit']} {'saved' if bits else 'gained'} on the target ↑")
    ]
    if goal is not None:
        body.append(make_element("line", x1=x.start, x2=x.stop, y1=y(goal), y2=y(goal), cls="zero"))
        body.append(draw_label("all gain this", x.stop, y(goal) - 5, "tick", "end"))
    anchors, descriptions = [], []
    for colour, (method, way) in enumerate(ways.items()):
        ends = [(x(loss), y(gain)) for loss, gain in way]
        body.append(draw_path(ends, cls="way"))
        marks = [draw_marker(colour, a, b, 4.0, cls="mark") for a, b in ends[1:]]
        if goal is not None and methods[colour]["loss"] is not None:
            marks.append(draw_marker(colour, x(methods[colour]["loss"]), y(goal), 7.0, cls="mark"))
        body.append(make_element("g", make_element("title", method), *marks, cls=f"s{colour % COLOURS}"))
        anchors.append((*ends[-1], fit_text(method, 150)))
        rates = (
            f"{r['rate']:g}: gain {format_signed(r['gain'])}, lost {plain(r['loss'])}" for r in methods[colour]["rates"]
        )
        descriptions.append(f"{method} at {'; at '.join(rates)}.")
    boxes = place_labels(anchors, [], (x.start + 2, y.stop + 2, x.stop - 2, y.start - 2))
    for colour, (box, (_, _, text)) in enumerate(zip(boxes, anchors, strict=True)):
        body.append(draw_label(text, (box[0] + box[2]) / 2, box[3] - 3.5, f"name s{colour % COLOURS}", "middle"))
    return draw_svg(name, width, height, "Gain and loss through learning rates", " ".join(descriptions), *body)
