"""Any runs side by side: paired where they answered the same questions from the same base, each by itself elsewhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from holdfast.board.run_view import read_finished_report
from holdfast.errors import HoldfastError
from holdfast.evaluation.answers import collect_answers
from holdfast.evaluation.statistics.paired import MeasuredRun
from holdfast.evaluation.summary import read_run, summarise_comparison
from holdfast.recipe.yaml_writer import find_leaf_values, format_scalar
from holdfast.report import phrasing, plots, ranking

MOST_RUNS = 8
"""As many as the plots have colours."""
MOST_SETTINGS = 60
NOT_COMPARED = ("output",)


def compare_directories(runs: Mapping[str, Path]) -> dict[str, Any]:
    """The values of the page that compares some runs.

    Args:
        runs: Directory by name.
    """
    reports = {name: report for name, path in runs.items() if (report := read_finished_report(path))}
    shared_runs = _find_shared_runs({name: runs[name] for name in reports}, reports)
    summary = summarise_comparison({name: [run] for name, run in shared_runs.items()}) if shared_runs else None
    singles: list[dict[str, Any]] = [
        {
            "method": name, "gain": report.get("gain"), "loss": report.get("loss"), "text": report.get("text"),
            "probe": report.get("probe"),
        }
        for name, report in reports.items()
    ]  # fmt: skip
    content: dict[str, Any] = {**summary, "runs": [*summary["runs"]]} if summary else {"runs": singles}
    rows = [
        {
            "name": run["method"], "method": phrasing.method_of(reports[run["method"]]),
            "gain": phrasing.change_of(run.get("gain")), "loss": phrasing.lost_part(run), "pareto": run.get("pareto"),
            "tasks": run.get("tasks") or {}, "seconds": phrasing.total_seconds(reports[run["method"]].get("cost")),
        }
        for run in content["runs"]
    ]  # fmt: skip
    return {
        "rows": rows,
        "missing": [name for name in runs if name not in reports],
        "is_paired": summary is not None,
        "tasks": summary["tasks"] if summary else [],
        "contrasts": ranking.build_contrasts(content) if summary else [],
        "plane": plots.compare_plane(content) if content["runs"] else "",
        "settings": list_settings_that_differ({name: report.get("recipe") or {} for name, report in reports.items()}),
        "questions": collect_answers(shared_runs) if shared_runs else [],
    }


def _find_shared_runs(runs: Mapping[str, Path], reports: Mapping[str, Mapping[str, Any]]) -> dict[str, MeasuredRun]:
    """The measurements of runs from one base, with the tasks whose questions are the same in all; empty for none."""
    if len(runs) < 2 or len({(report.get("model") or {}).get("fingerprint") for report in reports.values()}) > 1:
        return {}
    try:
        measured_runs = {name: read_run(path) for name, path in runs.items()}
    except HoldfastError:  # a run whose items were removed has its report still
        return {}
    question_ids = [
        {task.name: {item.id for item in run.base[task.name]} for task in run.tasks} for run in measured_runs.values()
    ]
    names = [name for name, ids in question_ids[0].items() if all(other.get(name) == ids for other in question_ids)]
    if not any(task.name in names for task in next(iter(measured_runs.values())).tasks):
        return {}
    return {
        name: replace(run, tasks=[task for task in run.tasks if task.name in names])
        for name, run in measured_runs.items()
    }


def list_settings_that_differ(recipes: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, Sequence[str]]]:
    """The settings that are not the same in all runs, with the value in each; "" where one has no such setting."""
    flat = {
        name: {".".join(map(str, path)): format_scalar(value) for path, value in find_leaf_values(dict(recipe))}
        for name, recipe in recipes.items()
    }
    keys = dict.fromkeys(key for settings in flat.values() for key in settings if key not in NOT_COMPARED)
    rows: list[tuple[str, Sequence[str]]] = [
        (key, [settings.get(key, "") for settings in flat.values()]) for key in keys
    ]
    return [row for row in rows if len(set(row[1])) > 1][:MOST_SETTINGS]
