"""Parallel coordinates of a search: an axis for every setting that varied, a line for every suggestion."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import format_signed
from holdfast.report.svg import (
    Scale,
    compute_extent,
    draw_label,
    draw_marker,
    draw_path,
    draw_responsive,
    draw_svg,
    fit_text,
    make_element,
    tick_text,
)

FEWEST = 3
"""Suggestions below which there is nothing to see."""
BEST, GOOD, OTHER = 0, 1, 2
"""Colours of the winner, of the best third at the first rung, of the rest."""


def parallel_coordinates(report: Mapping[str, Any]) -> Markup:
    """Each suggestion's way through the settings to what it gained at the first rung, where all are measured alike."""
    trials = [t for t in report["trials"] if t["values"] and t["rungs"][0]["gain"] is not None]
    if len(trials) < FEWEST or len(report["space"]) < 2:
        return Markup("")
    return draw_responsive(lambda name, width: _draw_ways(report, trials, name, width), "settings", narrow=520)


def _draw_ways(report: Mapping[str, Any], trials: Sequence[Mapping[str, Any]], name: str, width: float) -> Markup:
    space, height = report["space"], 360.0
    gains = [trial["rungs"][0]["gain"] for trial in trials]
    gain = Scale(*compute_extent(gains), height - 40, 44)
    apart = (width - 130) / len(space)
    places = [60 + apart * k for k in range(len(space) + 1)]
    heights = [_place_values(dimension, gain.start, gain.stop) for dimension in space]
    body = [make_element("line", x1=x, x2=x, y1=gain.stop, y2=gain.start, cls="zero") for x in places]
    best = (report["best"] or {}).get("trial")
    line_of_third = sorted(gains, reverse=True)[max(0, len(gains) // 3 - 1)]
    # The best lie on top.
    for trial in sorted(trials, key=lambda trial: (trial["trial"] == best, trial["rungs"][0]["gain"])):
        value = trial["rungs"][0]["gain"]
        colour = BEST if trial["trial"] == best else GOOD if value >= line_of_third else OTHER
        ways = [where(trial["values"][d["key"]]) for d, where in zip(space, heights, strict=True)]
        points = list(zip(places, [*ways, gain(value)], strict=True))
        tip = make_element("title", _describe_way(trial))
        opacity = None if colour != OTHER else 0.4
        path = draw_path(points, cls="curve", opacity=opacity)
        body.append(make_element("g", tip, path, draw_marker(colour, *points[-1], 4.0, cls="mark"), cls=f"s{colour}"))
    for dimension, x, where in zip(space, places, heights, strict=False):
        body.append(_label_axis(dimension, x, where, apart))
    body.append(draw_label("gain", places[-1], 24, "title", "middle"))
    body += [draw_label(tick_text(value), places[-1] + 10, gain(value) + 4, "tick") for value in gain.tick_values(5)]
    text = "Settings of every suggestion and its gain at the first rung. " + " ".join(map(_describe_way, trials))
    return draw_svg(name, width, height, "Settings of every suggestion", text, *body)


def _place_values(dimension: Mapping[str, Any], bottom: float, top: float) -> Callable[[Any], float]:
    """From a value of a setting to its height."""
    if dimension["kind"] == "choice":
        names = [json.dumps(choice, sort_keys=True) for choice in dimension["choices"]]
        ranks = Scale(-0.5, len(names) - 0.5, bottom, top)
        return lambda value: ranks(names.index(json.dumps(value, sort_keys=True)))
    if dimension["kind"] == "log":
        logs = Scale(math.log(dimension["low"]), math.log(dimension["high"]), bottom, top)
        return lambda value: logs(math.log(value))
    return Scale(dimension["low"], dimension["high"], bottom, top)


def _label_axis(dimension: Mapping[str, Any], x: float, where: Callable[[Any], float], apart: float) -> Markup:
    """A setting's name above its axis, its choices or ends beside it."""
    choices = dimension["choices"] or [dimension["low"], dimension["high"]]
    short = dimension["key"].rpartition(".")[2]
    out = [draw_label(fit_text(short, apart - 4, 12.5), x, 24, "title", "middle")]
    for choice in choices:
        text = f"{choice:.3g}" if isinstance(choice, float) else _name_choice(choice)
        out.append(draw_label(fit_text(text, apart - 10, 12), x + 5, where(choice) - 4, "tick value"))
    return Markup("").join(out)


def _name_choice(choice: Any) -> str:
    if isinstance(choice, Mapping):
        return " ".join(str(value) for value in choice.values())
    return choice if isinstance(choice, str) else json.dumps(choice)


def _describe_way(trial: Mapping[str, Any]) -> str:
    return f"Trial {trial['trial']} ({trial['what']}): gain {format_signed(trial['rungs'][0]['gain'])}."
