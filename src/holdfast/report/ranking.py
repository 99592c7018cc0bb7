"""What a comparison says in words: who is ahead, who is not, and what its few seeds and wide intervals leave open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.report.arms import arm_lines
from holdfast.report.phrasing import (
    bracket,
    change,
    digits,
    direction,
    figure,
    in_points,
    known,
    lost_part,
    points,
    signed,
    unit_of,
)

Methods = Sequence[dict[str, Any]]
MOST_NAMED = 6
"""Methods that one sentence of a verdict names."""


def ranked(runs: Methods) -> list[dict[str, Any]]:
    """The methods in the one order they are shown in everywhere: by gain, those without one last."""
    return sorted(runs, key=lambda run: -gain["delta"] if (gain := change(run.get("gain"))) else float("inf"))


def overlap(a: dict[str, Any], b: dict[str, Any], part: str) -> bool:
    """Whether "gain" or "loss" of two methods cannot be told apart.

    By the interval of their paired difference; in comparisons of before that has none, by whether their own overlap.
    """
    paired = ((a.get("versus") or {}).get(b["method"]) or {}).get(part)
    if paired:
        return not (known(paired["low"]) and known(paired["high"])) or paired["low"] <= 0 <= paired["high"]
    parts = [(lost_part(run) if part == "loss" else run[part]) or {} for run in (a, b)]
    (low, high), (other_low, other_high) = ((found.get("low"), found.get("high")) for found in parts)
    if not (known(low) and known(high) and known(other_low) and known(other_high)):
        return True
    return low <= other_high and other_low <= high


def placed(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods that have a place on the plane: both a gain and something lost or kept."""
    return [run for run in compare.get("runs") or [] if change(run.get("gain")) and lost_part(run)]


def front_of(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods on the gain/loss front, from the one that loses least to the one that gains most."""
    return sorted((run for run in placed(compare) if run.get("pareto")), key=_lost)


def _lost(run: dict[str, Any]) -> float:
    found = lost_part(run)
    return found["delta"] if found else float("inf")


def against_text(compare: dict[str, Any]) -> bool:
    """Whether all that was kept is text, in per cent of bits: then there is no front, which is drawn in points."""
    return all((lost_part(run) or {}).get("of") == "text" for run in placed(compare))


def verdict(compare: dict[str, Any]) -> str:
    """Which methods lie on the gain/loss front and which behind it, in a few plain sentences."""
    runs, front = placed(compare), front_of(compare)
    if not runs:
        return "No method has both a gain and a loss, so none can be placed on the plane."
    if against_text(compare):
        return f"By gain: {_listed(_told, ranked(runs), '; ')}."
    if not front:
        return f"No method is ahead of the base: {_listed(_outcome, ranked(runs), '; ')}."
    rest = [run for run in ranked(runs) if not run.get("pareto")]
    worse = [run for run in rest if run["gain"]["delta"] <= 0 <= _lost(run)]
    rest = [run for run in rest if run not in worse]
    behind = [run for run in rest if any(_clearly_behind(run, best) for best in front)]
    near = [run for run in rest if run not in behind]
    parts = [_ahead(front, alone=len(runs) == 1)]
    if behind:
        parts.append(f"Behind: {_names(behind)}.")
    if near:
        whom = front[0]["method"] if len(front) == 1 else "those"
        why = "the paired differences may be 0" if near[0].get("versus") else "the intervals overlap"
        parts.append(f"{_names(near)} cannot be told apart from {whom}: {why}.")
    if worse:
        parts.append(f"Behind the base: {_listed(_outcome, worse, '; ')}.")
    return " ".join(parts)


def contrasts(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """Every method but the first beside the first, on the same questions and seeds: `method`, `than`, `gain`, `loss`.

    `loss` is of the kept texts where nothing was kept in points; a part is None where it was not measured.
    """
    first, *rest = compare.get("runs") or [{}]
    found = [(run["method"], (run.get("versus") or {}).get(first.get("method"))) for run in rest]
    return [
        {
            "method": method,
            "than": first["method"],
            "margin": one["margin"],
            "gain": one["gain"],
            "loss": one["loss"] or one["text"],
        }
        for method, one in found
        if one
    ]


def matched_words(compare: dict[str, Any]) -> list[str]:
    """What each method lost where all have gained the same, and beside the first; empty where each ran at one rate."""
    found = compare.get("matched")
    if not found:
        return []
    if found["gain"] is None:
        return ["no gain that every method reaches: one gained nothing at any of its learning rates"]
    first, *rest = found["methods"]
    unit, bits = found["unit"], "" if found["unit"] == "points" else f" {found['unit']}"
    lines = [f"where all gain {figure(found['gain'], unit)}{bits}: {first['method']} loses {points(first['loss'])}"]
    for row in rest:
        one = row["versus"][first["method"]]
        lines.append(
            f"{row['method']} loses {points(row['loss'])}, {signed(one['delta'])} {bracket(one['low'], one['high'])} "
            f"beside {first['method']}: {one['reading']}"
        )
    return lines


def doubted(compare: dict[str, Any]) -> list[str]:
    """Of each method why its figures do not answer what was asked: `dpo: the target did not clearly move`."""
    runs = compare.get("runs") or []
    return [f"{run['method']}: {'; '.join(run['doubts'].values())}" for run in runs if run.get("doubts")]


def sayings(compare: dict[str, Any], given: Methods) -> dict[str, Any]:
    """What the page says of a comparison, by the template's names.

    Args:
        given: The methods in the order they were named in: the first is what the others are held against.
    """
    return {
        "verdict": verdict(compare),
        "limits": limits(compare),
        "doubted": doubted(compare),
        "arm_lines": arm_lines(compare),
        "contrasts": contrasts({"runs": given}),
        "matched_words": matched_words(compare),
        "against_text": against_text(compare),
        "front": front_of(compare),
    }


def limits(compare: dict[str, Any]) -> str:
    """What the comparison cannot settle, in sentences; empty when every method ran to its end with several seeds."""
    runs = compare.get("runs") or []
    told = [
        f"{method} is left out, a stage's own gate stopped it ({'; '.join(reasons)})."
        for method, reasons in (compare.get("refused") or {}).items()
    ]
    if len(runs) > 1 and all(len(run.get("seeds") or [0]) < 2 for run in runs):
        told.append(
            "One seed each, so for these training runs: seeds not varied. The intervals are of the questions alone, "
            "and another seed may order the methods otherwise."
        )
    return " ".join(told)


def _ahead(front: Methods, *, alone: bool) -> str:
    if len(front) == 1:
        return f"{'Measured' if alone else 'Ahead'}: {_told(front[0])}."
    text = f"Gains most: {_told(front[-1])}. Loses least of those that gain: {_told(front[0])}."
    same = [what for part, what in (("gain", "gains"), ("loss", "losses")) if overlap(front[0], front[-1], part)]
    if same:
        text = f"{text[:-1]}; their {' and '.join(same)} cannot be told apart."
    if front[1:-1]:
        text += f" Between them: {_listed(_told, front[1:-1], ', ')}."
    return text


def _clearly_behind(run: dict[str, Any], best: dict[str, Any]) -> bool:
    """Whether `best` is not worse on either axis by the means, and on one of them the intervals do not meet."""
    if best["gain"]["delta"] < run["gain"]["delta"] or _lost(best) > _lost(run):
        return False
    return not (overlap(run, best, "gain") and overlap(run, best, "loss"))


def _told(run: dict[str, Any]) -> str:
    """`s3ft (+17.6 on the target, 1.9 lost elsewhere)`."""
    gain = run["gain"]
    unit = unit_of(gain)
    better = "" if in_points(gain) else f" {unit} better"
    doubt = "" if direction(gain.get("low"), gain.get("high")) != "flat" else ", which may be chance"
    gained = f"{signed(gain['delta'], digits(unit))}{better} on the target{doubt}"
    return f"{run['method']} ({gained}, {_elsewhere(lost_part(run) or {})})"


def _elsewhere(lost: dict[str, Any]) -> str:
    """`1.9 lost elsewhere`, `0.4 gained elsewhere`, `4.1 points of agreement lost`, `2.5 % fewer bits for the text`."""
    value, less = points(abs(lost["delta"])), points(lost["delta"]).startswith("\u2212")
    match lost["of"]:
        case "text":
            return f"{value} % {'fewer' if less else 'more'} bits for the kept text"
        case "probe":
            return f"{value} points of agreement with the base lost"
    return f"{value} {'gained' if less else 'lost'} elsewhere"


def _outcome(run: dict[str, Any]) -> str:
    """`sft lost 30.8 on the target and lost 12.0 elsewhere`; what intervals do not settle is said to be not clear."""
    gain, lost = run["gain"], lost_part(run) or {}
    unit = unit_of(gain)
    bits = "" if in_points(gain) else f" {unit}"
    moved = {"up": f"gained {figure(gain['delta'], unit)}", "down": f"lost {figure(-gain['delta'], unit)}"}
    way = direction(gain.get("low"), gain.get("high"))
    shown = signed(gain["delta"], digits(unit)) + bits
    target = f"{moved[way]}{bits} on the target" if way in moved else _unclear("change on the target", shown)
    where = "agreement with the base" if lost["of"] == "probe" else "elsewhere"
    moved = {"up": f"gained {points(-lost['delta'])}", "down": f"lost {points(lost['delta'])}"}
    way = direction(lost.get("low"), lost.get("high"), lost=True)
    if way in moved:
        kept = f"{moved[way]} {'points of ' if where != 'elsewhere' else ''}{where}"
    else:
        kept = _unclear(f"loss {'of ' if where != 'elsewhere' else ''}{where}", points(lost["delta"]))
    return f"{run['method']} {target} and {kept}"


def _unclear(what: str, value: str) -> str:
    return f"shows no clear {what} ({value})"


def _names(runs: Methods) -> str:
    return _listed(lambda run: str(run["method"]), runs, ", ")


def _listed(say: Callable[[dict[str, Any]], str], runs: Methods, between: str) -> str:
    """What is said of each of a few methods, and how many more there are: the table has them all."""
    more = len(runs) - MOST_NAMED
    return between.join(map(say, runs[:MOST_NAMED])) + (f"{between}and {more} more" if more > 0 else "")
