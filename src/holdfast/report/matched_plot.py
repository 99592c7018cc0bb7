"""Every method through its learning rates on the plane of gain and loss, and the gain at which losses are read off."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import points as plain
from holdfast.report.phrasing import signed
from holdfast.report.plots import COLOURS
from holdfast.report.svg import Scale, axes, el, extent, fit, label, marker, path, place, responsive, svg


def matched_plane(matched: dict[str, Any] | None) -> Markup:
    """The drawing of the part `matched` of compare.json; nothing where each method ran at one rate.

    Lines go from the base, at zero, to the smallest learning rate and on from rate to rate.
    """
    if not matched:
        return Markup("")
    return responsive(lambda name, width: _draw(matched, name, width), "matched")


def _draw(matched: dict[str, Any], name: str, width: float) -> Markup:
    methods, height, goal = matched["methods"], 380.0, matched["gain"]
    bits = matched["unit"] != "points"
    ways = {m["method"]: [(0.0, 0.0), *((r["loss"], r["gain"]) for r in m["rates"])] for m in methods}
    every = [corner for way in ways.values() for corner in way]
    x = Scale(*extent([lost for lost, _ in every]), 40, width - 10)
    y = Scale(*extent([gain for _, gain in every], least=0.05 if bits else 4.0), height - 48, 30)
    body = [axes(x, y, "points lost elsewhere →", f"{matched['unit']} {'saved' if bits else 'gained'} on the target ↑")]
    if goal is not None:
        body.append(el("line", x1=x.start, x2=x.stop, y1=y(goal), y2=y(goal), cls="zero"))
        body.append(label("all gain this", x.stop, y(goal) - 5, "tick", "end"))
    anchors, told = [], []
    for colour, (method, way) in enumerate(ways.items()):
        ends = [(x(lost), y(gain)) for lost, gain in way]
        body.append(path(ends, cls="way"))
        marks = [marker(colour, a, b, 4.0, cls="mark") for a, b in ends[1:]]
        if goal is not None and methods[colour]["loss"] is not None:
            marks.append(marker(colour, x(methods[colour]["loss"]), y(goal), 7.0, cls="mark"))
        body.append(el("g", el("title", method), *marks, cls=f"s{colour % COLOURS}"))
        anchors.append((*ends[-1], fit(method, 150)))
        rates = (f"{r['rate']:g}: gain {signed(r['gain'])}, lost {plain(r['loss'])}" for r in methods[colour]["rates"])
        told.append(f"{method} at {'; at '.join(rates)}.")
    boxes = place(anchors, [], (x.start + 2, y.stop + 2, x.stop - 2, y.start - 2))
    for colour, (box, (_, _, text)) in enumerate(zip(boxes, anchors, strict=True)):
        body.append(label(text, (box[0] + box[2]) / 2, box[3] - 3.5, f"name s{colour % COLOURS}", "middle"))
    return svg(name, width, height, "Gain and loss through learning rates", " ".join(told), *body)
