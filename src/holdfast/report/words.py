"""Numbers and sentences of the report, so that page, card and terminal say the same thing in the same words.

Scores are points (0 to 100, higher is better), likelihoods are bits (lower is better); what does not say its unit is in
points. The change of a task is tuned minus base; in `report.json` a loss is base minus tuned, so it is shown here with
its sign turned: what was lost always carries a minus. A gain is positive where the target became better.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

MISSING = "\u2013"
MINUS = "\u2212"
POINTS = "points"


def known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: not None, not NaN, not infinite."""
    return value is not None and math.isfinite(value)


def points(value: float | None, digits: int = 1) -> str:
    """`12.3`; a real minus sign; a dash when there is no number."""
    if not known(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def signed(value: float | None, digits: int = 1) -> str:
    """`+12.3`, `−4.1`, `0.0`."""
    text = points(value, digits)
    return f"+{text}" if known(value) and value > 0 and float(text) != 0 else text


def unit_of(part: Mapping[str, Any] | None) -> str:
    """The unit of a task, a gain or a loss; points where nothing is said, as in reports of version 0.1."""
    return str((part or {}).get("unit") or POINTS)


def digits(unit: str) -> int:
    """Decimals that figures of a unit are shown with."""
    return 1 if unit in (POINTS, "%") else 3


def in_points(part: Mapping[str, Any] | None) -> bool:
    """Whether a task, a gain or a loss is counted in points."""
    return unit_of(part) == POINTS


def figure(value: float | None, unit: str = POINTS) -> str:
    """`12.3` points, `0.912` bits; a dash when there is no number."""
    return points(value, digits(unit))


def span(low: float | None, high: float | None, *, sign: bool = False, unit: str = POINTS) -> str:
    """An interval in words: `8.1 to 16.4`."""
    if not (known(low) and known(high)):
        return MISSING
    show = signed if sign else points
    return f"{show(low, digits(unit))} to {show(high, digits(unit))}"


def bracket(low: float | None, high: float | None, unit: str = POINTS) -> str:
    """An interval in brackets, signed: `[+8.1, +16.4]`; empty when there is none."""
    places = digits(unit)
    return f"[{signed(low, places)}, {signed(high, places)}]" if known(low) and known(high) else ""


def change(part: dict[str, Any] | None, *, lost: bool = False) -> dict[str, Any] | None:
    """A gain (or, with `lost`, a loss turned to a change) as {"delta", "low", "high", "unit"}; None if not measured."""
    if not part or not known(part.get("delta")):
        return None
    delta, low, high, unit = part["delta"], part.get("low"), part.get("high"), unit_of(part)
    if not lost:
        return {"delta": delta, "low": low, "high": high, "unit": unit}
    low, high = None if high is None else -high, None if low is None else -low
    return {"delta": -delta, "low": low, "high": high, "unit": unit}


def direction(low: float | None, high: float | None) -> str:
    """`up` or `down` when the interval leaves out 0, else `flat`: not to be told from no change."""
    if known(low) and low > 0:
        return "up"
    if known(high) and high < 0:
        return "down"
    return "flat"


def way(part: Mapping[str, Any]) -> str:
    """`direction` of a task or a gain: `up` where it became better, whichever way its unit counts."""
    low, high = part.get("low"), part.get("high")
    if part.get("better") == "lower" and known(low) and known(high):
        low, high = -high, -low
    return direction(low, high)


def pvalue(value: float | None) -> str:
    """`0.03`, `0.004`, `<0.001`; a dash where no test applies."""
    if not known(value):
        return MISSING
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.01 else f"{value:.2f}"


def percent(value: float | None) -> str:
    """A share in [0, 1] as `97 %`."""
    return f"{100 * value:.0f} %" if known(value) else MISSING


def count(value: float | None) -> str:
    """`12,345`; from a million on `4.1 M`."""
    if not known(value):
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,.0f}"


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min 12 s`, `1 h 04 min`."""
    if not known(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def total_seconds(cost: dict[str, Any] | None) -> float | None:
    """Wall time of all phases together; None when none was timed."""
    seconds = [s for s in ((cost or {}).get("seconds") or {}).values() if known(s)]
    return sum(seconds) if seconds else None


def ordered(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Targets first, then what was only watched, then the kept tasks: points, then bits, most lost first."""
    roles = {"target": 0, "watch": 1}

    def key(task: dict[str, Any]) -> tuple[int, bool, float, str]:
        delta = -task["percent"] if known(task.get("percent")) else task.get("delta")
        rank = roles.get(task.get("role") or "", 2)
        return (rank, not in_points(task), delta if known(delta) else math.inf, task["name"])

    return sorted(tasks, key=key)


def mean_score(tasks: list[dict[str, Any]], role: str, field: str) -> float | None:
    """Mean of `field` ("base", "tuned") over the tasks of one role, of the kept ones those in points; None for none."""
    wanted = [t for t in tasks if t.get("role") == role and (role == "target" or in_points(t))]
    values = [t[field] for t in wanted if known(t.get(field))]
    return sum(values) / len(values) if values else None


def method_of(report: dict[str, Any]) -> str:
    """The name a run goes by: the recipe's method (or its stages), else the run's own name."""
    return str(report.get("method") or (report.get("recipe") or {}).get("method") or report.get("name") or "run")


def worst_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """The kept task that fell furthest; None when none fell."""
    name = (report.get("loss") or {}).get("worst")
    for task in report.get("tasks") or []:
        if task["name"] == name and known(task.get("delta")) and task["delta"] < 0:
            return task
    return None


def _target_words(gain: dict[str, Any] | None) -> str:
    if gain is None:
        return "no target was measured"
    if not in_points(gain):
        return _target_bits(gain)
    low, high = gain["low"], gain["high"]
    inside = f"95 % interval {span(low, high)}"
    if not known(low):
        return f"changed the target by {signed(gain['delta'])} points (no interval)"
    match direction(low, high):
        case "up":
            return f"gained {points(gain['delta'])} points on the target ({inside})"
        case "down":
            return f"lost {points(-gain['delta'])} points on the target (95 % interval {span(-high, -low)})"
    if low == high == 0:
        return "changed nothing on the target"
    return f"shows no clear change on the target ({signed(gain['delta'])}, {inside})"


def _target_bits(gain: dict[str, Any]) -> str:
    """A target in bits: its loss is lowered or raised."""
    low, high, unit = gain["low"], gain["high"], gain["unit"]
    by = figure(abs(gain["delta"]), unit)
    match direction(low, high):
        case "up":
            return f"lowered the target's loss by {by} {unit} (95 % interval {span(low, high, unit=unit)})"
        case "down":
            return f"raised the target's loss by {by} {unit} (95 % interval {span(-high, -low, unit=unit)})"
    if low == high == 0:
        return "changed nothing on the target"
    inside = f"95 % interval {span(-high, -low, sign=True, unit=unit)}"
    return f"shows no clear change of the target's loss ({signed(-gain['delta'], digits(unit))} {unit}, {inside})"


def text_words(text: Mapping[str, Any] | None) -> str:
    """What became of the kept texts: `the kept texts take 12.3 % more bits (8.1 to 16.4)`; empty when none is kept."""
    if not text or not known(text.get("percent")):
        return ""
    value, low, high = text["percent"], text.get("low"), text.get("high")
    match direction(low, high):
        case "up":
            return f"the kept texts take {points(value)} % more bits ({span(low, high)})"
        case "down":
            return f"the kept texts take {points(-value)} % fewer bits ({span(-high, -low)})"
    if low == high == 0:
        return "the kept texts are as likely as before"
    return f"the kept texts show no clear change ({signed(value)} % bits, {span(low, high, sign=True)})"


def _kept_words(loss: dict[str, Any] | None) -> str:
    if loss is None or not known(loss.get("delta")):
        return "what it lost elsewhere was not measured"
    low, high = loss.get("low"), loss.get("high")
    if not (known(low) and known(high)):
        return f"changed the kept tasks by {signed(-loss['delta'])} points (no interval)"
    match direction(low, high):
        case "up":
            return f"lost {points(loss['delta'])} elsewhere ({span(low, high)})"
        case "down":
            return f"gained {points(-loss['delta'])} elsewhere ({span(-high, -low)})"
    if low == high == 0:
        return "changed nothing elsewhere"
    return f"shows no clear loss elsewhere ({signed(-loss['delta'])}, {span(-high, -low)})"


def verdict(report: dict[str, Any]) -> str:
    """The result in one plain sentence: gain with interval, loss with interval, worst kept task."""
    gain, loss, bits = change(report.get("gain")), report.get("loss"), text_words(report.get("text"))
    measured = gain is not None and change(loss) is not None
    text = _target_words(gain)
    if measured or not bits:
        text += f"{' and' if measured else ';'} {_kept_words(loss)}"
    worst = worst_of(report)
    if worst:
        text += f"; worst: {worst['name']} {signed(worst['delta'])}"
    text += f"; {bits}" if bits else ""
    return text[0].upper() + text[1:] + "."


def compare_verdict(compare: dict[str, Any]) -> str:
    """Which methods lie on the gain/loss front, in one or two plain sentences."""
    placed = [r for r in compare.get("runs") or [] if change(r.get("gain")) and change(r.get("loss"))]
    if not placed:
        return "No method has both a gain and a loss, so none can be placed on the plane."
    front = sorted((r for r in placed if r.get("pareto")), key=lambda r: r["loss"]["delta"])

    def told(run: dict[str, Any]) -> str:
        unit = unit_of(run["gain"])
        gain = signed(run["gain"]["delta"], digits(unit)) + ("" if unit == POINTS else f" {unit} better")
        loss = signed(-run["loss"]["delta"])
        return f"{run['method']} ({gain} on the target, {loss} elsewhere)"

    if not front:
        return f"No method is ahead of the base, by their means: {', '.join(map(told, placed))}."
    worse = [r for r in placed if r["gain"]["delta"] <= 0 <= r["loss"]["delta"] and not r.get("pareto")]
    behind = [r for r in placed if not r.get("pareto") and r not in worse]
    if len(front) == 1:
        if not worse:
            rest = "; no other method gains more or loses less" if behind else ""
            return f"{'Ahead' if behind else 'Measured'}: {told(front[0])}{rest}."
        text = f"Ahead: {told(front[0])}."
    else:
        least = "Loses least of those that gain" if worse else "Loses least"
        text = f"Gains most: {told(front[-1])}. {least}: {told(front[0])}."
        if front[1:-1]:
            text += f" Between them on the front: {', '.join(told(r) for r in front[1:-1])}."
    text += f" Behind the front: {_listed(behind)}." if behind else ""
    return text + (f" Behind the base, with nothing gained: {', '.join(map(told, worse))}." if worse else "")


def _listed(runs: Sequence[dict[str, Any]]) -> str:
    return ", ".join(run["method"] for run in runs)
