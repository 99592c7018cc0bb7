"""What a task's score does while arms train: in a line of a claim's table, and drawn for its page."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

Arms = Mapping[str, dict[str, Any]]
"""Label to entry of `compare.json`."""
Curve = list[tuple[float, float]]
"""(step, score in points), from the base to the end."""


def curve_of(label: str, task: str) -> Callable[[Arms], tuple[str, None, None]]:
    """A task's score while an arm trains, as its mean over the seeds: the base, each look, the end."""

    def read_curve(arms: Arms) -> tuple[str, None, None]:
        return " > ".join(f"{score:.1f}" for _, score in mean_curve(read_seed_curves(arms[label], task))), None, None

    return read_curve


def read_seed_curves(arm: Mapping[str, Any], task: str) -> list[Curve]:
    """A task's curve in every run of an arm."""
    ends = [max(point["step"] for point in points) for points in arm["curves"]]
    return [read_curve(Path(folder), task, end) for folder, end in zip(arm["dirs"], ends, strict=True)]


def read_curve(folder: Path, task: str, last: float) -> Curve:
    """A task's score at each measurement of a run in order, in points; all on the questions of the looks.

    Args:
        last: The step after which the run was measured at its end.
    """
    from holdfast.evaluation.results_store import ResultsStore

    looks = sorted((folder / "eval").glob("step-*"))
    places = {0.0: folder / "eval" / "base", **{float(look.name[5:]): look for look in looks}}
    places[last] = folder / "eval" / "final"  # of a look at the last step, all questions instead of some
    measurements = [ResultsStore(place).read_measurements()[task][1] for place in places.values()]
    few = min(len(items) for items in measurements)
    scores = [100 * sum(item.score for item in items[:few]) / few for items in measurements]
    return list(zip(places, scores, strict=True))


def mean_curve(curves: Sequence[Curve]) -> Curve:
    """Their mean at every step."""
    return [(points[0][0], sum(score for _, score in points) / len(points)) for points in zip(*curves, strict=True)]


def draw_scores(title: str, task: str, labels: Sequence[str], arms: Arms) -> dict[str, Any]:
    """A task's curve of each arm as a figure's data: means over the seeds, and how far these lie apart."""
    series = []
    for label in labels:
        curves = read_seed_curves(arms[label], task)
        spans = [[min(s for _, s in points), max(s for _, s in points)] for points in zip(*curves, strict=True)]
        points = [list(point) for point in mean_curve(curves)]
        series.append({"name": label, "points": points, "spans": spans if len(curves) > 1 else []})
    return {"kind": "lines", "title": title, "x": "step", "y": "score in points", "series": series}


def draw_ends(title: str, tasks: Sequence[str], labels: Sequence[str], arms: Arms) -> dict[str, Any]:
    """What each arm scores at its end on some tasks beside the start that all share, as a figure's data of bars."""
    ends = {label: [arms[label]["tasks"][task]["tuned"] for task in tasks] for label in labels}
    ends["start"] = [arms[labels[0]]["tasks"][task]["base"] for task in tasks]
    series = [{"name": name, "points": [list(point) for point in enumerate(scores)]} for name, scores in ends.items()]
    return {"kind": "bars", "title": title, "x": "", "y": "score in points", "series": series, "labels": list(tasks)}
