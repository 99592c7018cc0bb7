"""What stands behind the figures of each arm of a comparison: answers without an end or a verdict, how far its seeds
are from each other, clipped steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from holdfast.report import phrasing

COUNTS = {
    "unreadable": "unreadable for the judge",
    "cut": "cut at their longest",
    "unended": "with a thought that did not end",
}
"""Kinds of answers that say little about what a model knows, in words."""


def count_answers(reports: Sequence[Mapping[str, Any]], when: str) -> dict[str, int]:
    """How many answers there were over all tasks and seeds, and how many of each kind in `COUNTS`.

    Args:
        reports: The contents of `report.json`, one a seed.
        when: "base" or "tuned".
    """
    tasks = [task for report in reports for task in report["tasks"] if task["kind"] == "generate"]
    return {
        "answers": sum(task["n"] for task in tasks),
        "unreadable": sum(task.get(f"unreadable_{when}") or 0 for task in tasks),
        "cut": sum(((task.get("unanswered") or {}).get(when) or {}).get("cut", 0) for task in tasks),
        "unended": sum(((task.get("thoughts") or {}).get(when) or {}).get("unended", 0) for task in tasks),
    }


def mean_answering(reports: Sequence[Mapping[str, Any]]) -> dict[str, float] | None:
    """How often the model was asked for an answer and how many tokens it wrote for it, means over the sampled tasks and
    seeds; `None` where every answer is one.
    """
    tasks = [task for report in reports for task in report["tasks"] if (task.get("answering") or {}).get("calls")]
    if not tasks:
        return None
    return {key: sum(task["answering"][key] for task in tasks) / len(tasks) for key in ("calls", "tokens")}


def mean_clipped(reports: Sequence[Mapping[str, Any]]) -> float:
    """The mean share of clipped steps over seeds, 0 to 1."""
    return sum(report["training"].get("clipped") or 0.0 for report in reports) / max(1, len(reports))


def arm_lines(compare: Mapping[str, Any]) -> list[str]:
    """A line for the base and every arm that has such answers, several for one, held-out pairs, several seeds, or
    clipped steps; empty without any.
    """
    arms: list[tuple[str, Any, Mapping[str, Any]]] = [("base", compare.get("base_answers"), {})]
    arms += [(run["method"], run.get("answers"), run) for run in compare.get("runs") or []]
    lines = []
    for name, answers, run in arms:
        clipped_share, answering = run.get("clipped"), run.get("answering")
        counts = [(answers[key], what) for key, what in COUNTS.items() if answers[key]] if answers else []
        parts = [f"{phrasing.format_count(n)} {what}" for n, what in counts]
        statements = (
            [f"of {phrasing.format_count(answers['answers'])} answers {', '.join(parts)}"] if answers and parts else []
        )
        if share := run.get("chosen_gains"):
            statements.append(
                f"in {phrasing.format_points(share['delta'])} % of the held-out pairs the chosen answer gained on the "
                f"rejected one {phrasing.format_bracket(share['low'], share['high'], sign=False)}"
            )
        if apart := run.get("seeds_apart"):
            nats = apart.get("divergence")
            options = "" if nats is None else f", options {nats:.2g} nats apart (Jensen-Shannon)"
            statements.append(
                f"two seeds judge {phrasing.format_points(apart['judged'])} % of the questions differently and answer "
                f"{phrasing.format_points(apart['answered'])} % otherwise (Fleiss' kappa {apart['kappa']:.2f}){options}"
            )
        if clipped_share:
            statements.append(f"gradient clipped in {phrasing.format_percent(clipped_share)} of the steps")
        if answering:
            measuring = ((run.get("cost") or {}).get("seconds") or {}).get("evaluate")
            statements.append(
                f"asked {phrasing.format_points(answering['calls'])} times an answer, "
                f"{phrasing.format_points(answering['tokens'])} tokens written for it"
                + (f", {phrasing.format_duration(measuring)} of measuring base and answers" if measuring else "")
            )
        if statements:
            lines.append(f"{name}: {'; '.join(statements)}")
    return lines
