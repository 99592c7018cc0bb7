"""The page of a paper's claim that was tested on the laboratory."""

from __future__ import annotations

from typing import Any

from holdfast.report.claim_words import OUTCOMES, UNCLEAR, format_check, format_interval, unclear_reasons
from holdfast.report.html import build_environment
from holdfast.report.section_plots import draw_figure


def render_reproduction(result: dict[str, Any]) -> str:
    """The page of a claim, from the content of `NAME.json`; the same input always gives the same text."""
    figures, in_points = result.get("plots") or [], result["points"]
    return (
        build_environment()
        .get_template("reproduction.html.j2")
        .render(
            name=result["name"],
            result=result,
            outcome=OUTCOMES.get(result["outcome"], UNCLEAR),
            checks=[(check, format_check(check, in_points)) for check in result["checks"]],
            rows=[(row, format_interval(row["low"], row["high"], in_points)) for row in result["rows"]],
            reasons=unclear_reasons(result),
            plots=[draw_figure(figure, f"plot-{number}", figure["title"]) for number, figure in enumerate(figures)],
        )
    )
