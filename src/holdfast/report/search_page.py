"""The page of a search."""

from __future__ import annotations

from typing import Any

from holdfast.report.coordinates_plot import parallel_coordinates
from holdfast.report.html import build_environment
from holdfast.report.phrasing import format_bracket, format_duration, format_points, format_signed
from holdfast.report.search_plot import search_plane


def render_search(report: dict[str, Any]) -> str:
    """The page of a search, from the content of `search.json`; the same input always gives the same text."""
    importance = sorted((report["importance"] or {}).items(), key=lambda pair: -pair[1])
    return (
        build_environment()
        .get_template("search.html.j2")
        .render(
            name=report["name"],
            report=report,
            verdict=describe_search(report),
            plane=search_plane(report),
            settings=parallel_coordinates(report),
            importance=importance,
            duration=format_duration(report["seconds"]),
        )
    )


def describe_search(report: dict[str, Any]) -> str:
    """What came out, in a sentence or two."""
    best = report["best"]
    if best is None:
        return f"No recipe keeps to the limit of {report['max_loss']:g} points lost elsewhere."
    text = f"Trial {best['trial']} ({best['what']}{format_point(best['point'])}) "
    return f"{text}{format_change(best['fresh'])} on questions that nothing was chosen by."


def format_point(point: float) -> str:
    """`, dial 0.6`; nothing for a trial as it was trained."""
    return "" if point == 1 else f", dial {point:g}"


def format_change(part: dict[str, Any]) -> str:
    """`gains 12.3 [8.1, 16.0] and loses 0.4 [0.1, 0.9] points`."""
    gain, loss = part["gain"], part["loss"]
    text = f"gains {format_signed(gain['delta'])} {format_bracket(gain['low'], gain['high'])}"
    if loss is None:
        return text
    return f"{text} and loses {format_points(loss['delta'])} {format_bracket(loss['low'], loss['high'])} points"
