"""Lines through training: loss, scores and figures in bits, of a run or of several methods."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from holdfast.report.phrasing import (
    in_points,
    is_known,
    lost_part,
)
from holdfast.report.plots import AGREEMENT, COLOURS
from holdfast.report.svg import (
    Scale,
    compute_extent,
    draw_axes,
    draw_label,
    draw_path,
    draw_svg,
    fit_text,
    make_element,
    spread_apart,
    text_width,
)


def _thin_points(values: Sequence[tuple[float, float]], most: int = 160) -> list[tuple[float, float]]:
    """At most `most` points: means of consecutive ones."""
    size = -(-len(values) // most) if values else 1
    parts = [values[i : i + size] for i in range(0, len(values), size)]
    return [(sum(v[0] for v in part) / len(part), sum(v[1] for v in part) / len(part)) for part in parts]


@dataclass(slots=True)
class Line:
    """One curve: its name (written at its end), colour number, points (step, value), and whether points get dots.

    `spans` are the lowest and the highest value at each point, where it stands for several.
    """

    name: str
    colour: int
    points: list[tuple[float, float]]
    dots: bool = True
    spans: list[tuple[float, float]] = field(default_factory=list)


def _end_labels(lines: Sequence[Line], x: Scale, y: Scale) -> list[Markup]:
    """Names at the ends of the lines, moved apart; a hair line leads from a label that had to move far."""
    ends = [y(line.points[-1][1]) for line in lines]
    out = []
    for line, end, at in zip(lines, ends, spread_apart(ends, 15, y.stop + 6, y.start - 2), strict=True):
        if abs(at - end) > 6:
            out.append(draw_path([(x.stop + 2, end), (x.stop + 9, at)], cls=f"lead s{line.colour % COLOURS}"))
        out.append(draw_label(fit_text(line.name, 130), x.stop + 12, at + 4.5, f"name s{line.colour % COLOURS}"))
    return out


def lines_plot(
    lines: Iterable[Line],
    name: str,
    title: str,
    unit: str,
    *,
    show_names: bool = True,
    last: float = 0,
    least: float = 4.0,
    kept_step: float | None = None,
    x_title: str = "step",
) -> Markup:
    """Curves over training steps, in one size that suits half a desk and a whole phone.

    Args:
        last: The last step of training, to which the axis goes even if the curves end before.
        least: The values' axis covers at least this much.
        kept_step: The step whose weights were kept, marked where it is not the last.
    """
    lines = [line for line in lines if line.points]
    if not lines:
        return Markup("")
    width, height = 400, 270
    right = 18 + max(text_width(line.name) for line in lines) if show_names else 14
    steps = [p[0] for line in lines for p in line.points]
    values = [p[1] for line in lines for p in line.points] + [
        end for line in lines for span in line.spans for end in span
    ]
    lo, hi = compute_extent(values, least=least)
    first = min(0, *steps)
    x = Scale(first, max(last, *steps, first + 1), 46, width - min(right, 150))
    y = Scale(lo, hi, height - 44, 30)
    body = [draw_axes(x, y, x_title, unit, zero=False, x_ticks=5)]
    if kept_step is not None and kept_step < x.high:
        body.append(make_element("line", x1=x(kept_step), x2=x(kept_step), y1=y.start, y2=y.stop, cls="kept"))
        body.append(draw_label("kept", x(kept_step) + 5, y.stop + 10, "tick"))
    for line in lines:
        marks = (
            [make_element("circle", cx=x(a), cy=y(b), r=3.0, cls="dot") for a, b in line.points] if line.dots else []
        )
        marks += [
            make_element("line", x1=x(a), x2=x(a), y1=y(low), y2=y(high), cls="whisker")
            for (a, _), (low, high) in zip(line.points, line.spans, strict=False)
        ]
        body.append(
            make_element(
                "g",
                draw_path([(x(a), y(b)) for a, b in line.points], cls="curve"),
                *marks,
                cls=f"s{line.colour % COLOURS}",
            )
        )
    body += _end_labels(lines, x, y) if show_names else []
    description = " ".join(f"{ln.name}: from {ln.points[0][1]:.4g} to {ln.points[-1][1]:.4g}." for ln in lines)
    return make_element("div", draw_svg(name, width, height, title, description, *body), cls="plot panel")


def _curve_points(curves: Sequence[dict[str, Any]], key: str) -> list[tuple[float, float]]:
    return [(c["step"], c[key]) for c in curves if is_known(c.get(key))]


def _last_step(curves: Sequence[dict[str, Any]]) -> float:
    """The last step of training."""
    return max((c["step"] for c in curves if is_known(c.get("step"))), default=0)


def run_curves(report: dict[str, Any]) -> list[Markup]:
    """The panels of one run that have data: training loss, held-out loss, scores, bits of the kept texts."""
    curves = report.get("curves") or []
    last = _last_step(curves)
    loss = [Line("training loss", 3, _thin_points(_curve_points(curves, "loss")), dots=False)]
    held_out = [Line("held-out loss", 0, _curve_points(curves, "held_out"))]
    scores = [Line("target", 0, _curve_points(curves, "target") if in_points(report.get("gain")) else [])]
    has_probe = (lost_part(report) or {}).get("of") == "probe"
    scores.append(Line("kept", 1, [] if has_probe else _curve_points(curves, "keep")))
    agreement = [Line("agreement", 1, _curve_points(curves, "keep") if has_probe else [])]
    text = [Line("kept text", 1, _curve_points(curves, "text"))]
    kept_step = (report.get("training") or {}).get("kept_step")
    bits: dict[str, Any] = {"show_names": False, "last": last, "least": 0.05, "kept_step": kept_step}
    panels = [
        lines_plot(loss, "curve-loss", "Training loss", "training loss", **{**bits, "least": 0.02}),
        lines_plot(held_out, "curve-held-out", "Held-out loss", "held-out loss, bits per token", **bits),
        lines_plot(scores, "curve-scores", "Scores during training", "score in points", last=last, kept_step=kept_step),
        lines_plot(agreement, "curve-probe", "Agreement on the probe", AGREEMENT, **{**bits, "least": 4.0}),
        lines_plot(text, "curve-text", "Bits of the kept text", "kept text, bits per byte", **bits),
    ]
    return [p for p in panels if p]


def _mean_series(seeds: Sequence[Sequence[dict[str, Any]]], key: str) -> list[tuple[float, float]]:
    """Mean over seeds at each step that all seeds have."""
    tables = [dict(_curve_points(curves, key)) for curves in seeds if curves]
    common_steps = sorted(set.intersection(*(set(t) for t in tables))) if tables else []
    return [(step, sum(t[step] for t in tables) / len(tables)) for step in common_steps]


def compare_curves(compare: dict[str, Any], colours: Sequence[int] = ()) -> list[Markup]:
    """Target, kept score, held-out loss and text of every method, mean over seeds.

    Training losses of different objectives do not compare.
    """
    runs = compare.get("runs") or []
    all_in_points = all(in_points(run.get("gain")) for run in runs)
    kinds = [
        ("target", "Target score", "target score in points", 4.0),
        ("keep", "Kept score", "kept score in points", 4.0),
        ("held_out", "Held-out loss", "held-out loss, bits per token", 0.05),
        ("text", "Bits of the kept text", "kept text, bits per byte", 0.05),
    ]
    if any((lost_part(run) or {}).get("of") == "probe" for run in runs):
        kinds[1] = ("keep", "Agreement on the probe", AGREEMENT, 4.0)
    last = max((_last_step(curves) for run in runs for curves in run.get("curves") or []), default=0)
    panels = []
    for key, title, unit, least in kinds[0 if all_in_points else 1 :]:
        lines = [
            Line(run["method"], i, _mean_series(run.get("curves") or [], key))
            for run, i in zip(runs, colours or range(len(runs)), strict=True)
        ]
        panels.append(lines_plot(lines, f"curve-{key}", f"{title} during training", unit, last=last, least=least))
    return [p for p in panels if p]
