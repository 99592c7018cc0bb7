"""The figures of analyses: lines, points, bars and heat maps, from the data in the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from holdfast.report.curve_plots import Line, lines_plot
from holdfast.report.plots import COLOURS
from holdfast.report.svg import (
    Scale,
    compute_extent,
    draw_axes,
    draw_label,
    draw_marker,
    draw_svg,
    fit_text,
    make_element,
    text_width,
    tick_text,
)

WIDTH, HEIGHT = 400, 270
TOO_MANY = 24
"""Columns of a heat map, or bars, above which only every second label, or third, ... is written."""

Data = Mapping[str, Any]


def draw_sections(sections: Sequence[Data]) -> list[list[Markup]]:
    """The figures of each section; of a section of an older version its one curve."""
    drawings = []
    for number, section in enumerate(sections):
        figures = list(section.get("figures") or [])
        if older := section.get("figure"):
            figures.append({**older, "series": [{"name": older["y"], "points": older.get("points") or []}]})
        drawings.append(
            [draw_figure(figure, f"analysis-{number}-{k}", section["title"]) for k, figure in enumerate(figures)]
        )
    return drawings


def draw_figure(figure: Data, name: str, title: str) -> Markup:
    """One figure; nothing where it has no point."""
    if not any(series["points"] for series in figure["series"]):
        return Markup("")
    kind = figure.get("kind") or "lines"
    heading = figure.get("title") or title
    if figure.get("title"):
        figure = {**figure, "y": f"{heading}: {figure['y']}"}
    return DRAW[kind](figure, name, heading) if kind in DRAW else _draw_lines(figure, name, heading)


def _points_of(series: Data) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in series["points"]]


def _draw_lines(figure: Data, name: str, title: str) -> Markup:
    lines = [
        Line(series["name"], i, _points_of(series), spans=[(low, high) for low, high in series.get("spans") or ()])
        for i, series in enumerate(figure["series"])
    ]
    options: dict[str, Any] = {"show_names": len(lines) > 1, "least": 1e-3, "x_title": figure["x"]}
    return lines_plot(lines, name, title, figure["y"], **options)


def _draw_panel(name: str, title: str, height: float, text: str, *body: str) -> Markup:
    return make_element("div", draw_svg(name, WIDTH, height, title, text, *body), cls="plot panel")


def _draw_legend(names: Sequence[str], y: float, marks: bool = False) -> Markup:
    """The names of several series in their colours, in a line below each other; nothing for one."""
    if len(names) < 2:
        return Markup("")
    out = []
    for i, text in enumerate(names):
        mark = (
            draw_marker(i, 52, y + 16 * i - 4, 4, fill="currentColor")
            if marks
            else make_element("rect", x=47.0, y=y + 16 * i - 9, width=10.0, height=10.0, fill="currentColor")
        )
        out.append(
            make_element("g", mark, draw_label(fit_text(text, 320), 64, y + 16 * i, "name"), cls=f"s{i % COLOURS}")
        )
    return Markup("").join(out)


def _describe_series(figure: Data) -> str:
    """The drawing in words, for who cannot see it."""
    return " ".join(
        f"{s['name']}: " + ", ".join(f"{y:.3g}" for _, y in s["points"][:12]) + "." for s in figure["series"]
    )


def _draw_scatter(figure: Data, name: str, title: str) -> Markup:
    many = [_points_of(series) for series in figure["series"]]
    xs, ys = ([p[axis] for points in many for p in points] for axis in (0, 1))
    extra = 16 * len(many) + 6 if len(many) > 1 else 0
    x = Scale(*compute_extent(xs, least=1e-6), 46, WIDTH - 14)
    y = Scale(*compute_extent(ys, least=1e-6), HEIGHT - 44, 30)
    body = [draw_axes(x, y, figure["x"], figure["y"], zero=False, x_ticks=5)]
    for i, points in enumerate(many):
        marks = [draw_marker(i, x(a), y(b), 3.5, fill="currentColor", opacity=0.75) for a, b in points]
        body.append(make_element("g", *marks, cls=f"s{i % COLOURS}"))
    body.append(_draw_legend([s["name"] for s in figure["series"]], HEIGHT + 10, marks=True))
    return _draw_panel(name, title, HEIGHT + extra, _describe_series(figure), *body)


def _draw_bars(figure: Data, name: str, title: str) -> Markup:
    """At every label a bar for each series; labels stand at the begin, so that long ones can be read."""
    labels, series = figure["labels"], figure["series"]
    begin = min(170.0, 14 + max(text_width(label) for label in labels))
    thick = 12.0 if len(series) > 1 else 16.0
    band = thick * len(series) + 8
    values = [y for one in series for _, y in one["points"]]
    low, high = min(0.0, *values), max(0.0, *values)
    scale = Scale(low, high if high > low else low + 1, begin, WIDTH - 52)
    body = [draw_label(figure["y"], 2, 14, "title")]
    for place, label in enumerate(labels):
        body.append(
            draw_label(
                fit_text(label, begin - 8), begin - 8, 26 + band * place + thick * len(series) / 2, "tick", "end"
            )
        )
    for i, one in enumerate(series):
        bars = []
        for place, value in one["points"]:
            at, top = scale(value), 22 + band * place + thick * i
            start = min(scale(0), at)
            bars.append(
                make_element(
                    "rect", x=start, y=top, width=max(abs(at - scale(0)), 0.8), height=thick - 2, fill="currentColor"
                )
            )
            bars.append(draw_label(tick_text(float(f"{value:.3g}")), max(at, scale(0)) + 4, top + thick - 4, "tick"))
        body.append(make_element("g", *bars, cls=f"s{i % COLOURS}"))
    bottom = 22 + band * len(labels) + 14
    body.append(_draw_legend([one["name"] for one in series], bottom))
    height = bottom + (16 * len(series) if len(series) > 1 else 0)
    return _draw_panel(name, title, height, _describe_series(figure), *body)


def _draw_heat(figure: Data, name: str, title: str) -> Markup:
    """A row for each series and a column for each label; the deeper the colour, the larger the value."""
    labels, series = figure["labels"], figure["series"]
    begin = min(150.0, 14 + max(text_width(one["name"]) for one in series))
    wide, high = (WIDTH - begin - 8) / max(len(labels), 1), 20.0
    values = [y for one in series for _, y in one["points"]]
    least, most = min(values), max(values)
    body = [
        draw_label(
            f"{figure['y']}: {tick_text(float(f'{least:.3g}'))} to {tick_text(float(f'{most:.3g}'))}", 2, 14, "title"
        )
    ]
    every = -(-len(labels) // TOO_MANY) if wide < 26 else 1
    for row, one in enumerate(series):
        body.append(draw_label(fit_text(one["name"], begin - 8), begin - 6, 36 + high * row, "tick", "end"))
        cells = []
        for column, value in one["points"]:
            depth = 0.06 + 0.94 * (value - least) / ((most - least) or 1.0)
            hint = make_element("title", f"{one['name']}, {labels[int(column)]}: {value:.4g}")
            cells.append(
                make_element(
                    "rect", hint, x=begin + wide * column, y=22 + high * row, width=wide - 0.6, height=high - 0.6,
                    fill="currentColor", fill_opacity=f"{depth:.3f}",
                )
            )  # fmt: skip
        body.append(make_element("g", *cells, cls="s0"))
    for column, label in enumerate(labels):
        if column % every == 0:
            text = fit_text(label, max(wide * every - 2, 22))
            body.append(draw_label(text, begin + wide * (column + 0.5), 36 + high * len(series), "tick", "middle"))
    body.append(draw_label(figure["x"], begin + wide * len(labels) / 2, 54 + high * len(series), "title", "middle"))
    return _draw_panel(name, title, 62 + high * len(series), _describe_series(figure), *body)


DRAW: dict[str, Callable[[Data, str, str], Markup]] = {
    "scatter": _draw_scatter, "bars": _draw_bars, "heat": _draw_heat,
}  # fmt: skip
"""How figures are drawn; those of another kind as lines."""
