"""What the page of a run shows, out of its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.board.run_index import DAMAGED, FINISHED, REFUSED, RunEntry, parse_events, read_last_events
from holdfast.core.files import read_json
from holdfast.errors import UserError
from holdfast.pipeline.damage import read_report
from holdfast.report import curve_plots, plots

MOST_EVENTS = 60
LARGEST_RECORD = 16 << 20
"""Bytes at the end of a run's events that its curves are drawn from."""
LONGEST = 200
"""Characters of an event that are shown."""
OFTEN = ("step_finished", "phase_ended", "phase_started")
"""Events that are seen in the curves and the progress; in the list they would hide the others."""


def read_text(path: Path, most: int = 200_000) -> str:
    """The beginning of a text file; "" where there is none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as handle:
            return handle.read(most)
    except OSError:
        return ""


def describe_run(path: Path, entry: RunEntry) -> dict[str, Any]:
    """The values of a run's page that do not change while it is looked at."""
    report = read_finished_report(path)
    return {
        "report": report,
        "tasks": list(report.get("tasks") or []) if report else [],
        "plane": plots.run_plane(report) if report else "",
        "deltas": plots.delta_bars(report["tasks"]) if report and report.get("tasks") else "",
        "plan": read_plan(path, report),
        "resolved": read_text(path / "resolved.yaml"),
        "page": (path / "report.html").is_file(),
        "stages": sorted(stage.name for stage in path.glob("stages/*") if stage.is_dir()),
        "has_rows": (path / "curated.jsonl").is_file(),
    }


def check_report(path: Path, entry: RunEntry) -> RunEntry:
    """The entry of a run whose whole report was read, of which the list reads an outline alone."""
    if entry.state not in (FINISHED, REFUSED):
        return entry
    try:
        read_report(path / "report.json")
    except UserError as error:
        return RunEntry(entry.name, DAMAGED, created=entry.created, why=str(error))
    return entry


def read_finished_report(path: Path) -> dict[str, Any] | None:
    """The report of a run; `None` where there is none that can be read."""
    if not (path / "report.json").is_file():
        return None
    try:
        return read_report(path / "report.json")
    except UserError:
        return None


def read_plan(path: Path, report: Mapping[str, Any] | None) -> list[tuple[str, Any]]:
    """What was planned and counted before training: keys of the catalogue, and values."""
    data, training = read_json(path / "data.json"), (report or {}).get("training") or {}
    data = data if isinstance(data, dict) else {}
    facts = [
        ("plan_data", data.get("train")), ("plan_rows", data.get("rows")), ("plan_curated", data.get("curated")),
        ("plan_test", data.get("test")), ("plan_steps", training.get("planned_steps")),
        ("plan_batch", training.get("batch")), ("plan_rate", training.get("learning_rate")),
    ]  # fmt: skip
    return [(key, value) for key, value in facts if value is not None]


def describe_progress(path: Path, entry: RunEntry) -> dict[str, Any]:
    """The values of a run's page that change while it works: curves and events."""
    events = read_last_events(path / "events.jsonl", LARGEST_RECORD)
    report = read_finished_report(path)
    lines = [event for event in events if event.get("event") not in OFTEN][-MOST_EVENTS:]
    return {
        "curves": curve_plots.run_curves(report or {"curves": build_curves(events)}),
        "events": [describe_event(event) for event in reversed(lines)],
        "phase": next((event for event in reversed(events) if event.get("event") == "phase_started"), None),
    }


def build_curves(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The curves of a run that is not finished: loss of every step, and what was measured between."""
    steps: dict[int, dict[str, Any]] = {}
    for event in events:
        step = event.get("step")
        if not isinstance(step, int):
            continue
        if event.get("event") == "step_finished":
            steps.setdefault(step, {"step": step}).update(loss=event.get("loss"), tokens=event.get("tokens"))
        elif event.get("event") == "step_measured" and isinstance(event.get("figures"), dict):
            steps.setdefault(step, {"step": step}).update(event["figures"])
    return [steps[step] for step in sorted(steps)]


def describe_event(event: Mapping[str, Any]) -> dict[str, Any]:
    """An event as a line: when, which, and what it says."""
    rest = {key: value for key, value in event.items() if key not in ("time", "event") and value is not None}
    text = (
        rest["text"]
        if set(rest) == {"text"}
        else ", ".join(f"{key} {_shorten_value(value)}" for key, value in rest.items())
    )
    return {"time": event.get("time"), "kind": str(event.get("event", "")), "text": str(text)[:LONGEST]}


def _shorten_value(value: object) -> str:
    """A value of an event in few letters."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_shorten_value(inner)}" for key, inner in value.items())
    return str(value)


def read_log(path: Path, most: int = 200) -> list[Mapping[str, Any]]:
    """What a process of the board said, as lines with `event` and `text`: its last words."""
    try:
        lines = path.read_bytes()[-(1 << 18) :].split(b"\n")
    except OSError:
        return []
    return [event for event in parse_events(lines) if event.get("event") in ("line", "warning", "error")][-most:]
