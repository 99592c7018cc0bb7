"""What a comparison says in words: who is ahead, who is not, and what its few seeds and wide intervals leave open."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from holdfast.evaluation.statistics.rates import find_rate_beyond
from holdfast.report.arms import arm_lines
from holdfast.report.phrasing import (
    change_of,
    decimals_of,
    format_bracket,
    format_figure,
    format_points,
    format_signed,
    in_points,
    interval_direction,
    is_known,
    lost_part,
    unit_of,
)

Methods = Sequence[dict[str, Any]]
MOST_NAMED = 6
"""Methods that one sentence of a verdict names."""


def rank_methods(runs: Methods) -> list[dict[str, Any]]:
    """The methods in the one order they are shown in everywhere: by gain, those without one last."""
    return sorted(runs, key=lambda run: -gain["delta"] if (gain := change_of(run.get("gain"))) else float("inf"))


def are_indistinguishable(a: dict[str, Any], b: dict[str, Any], part: str) -> bool:
    """Whether "gain" or "loss" of two methods cannot be told apart.

    By the interval of their paired difference; in comparisons of before that has none, by whether their own overlap.
    """
    difference = ((a.get("versus") or {}).get(b["method"]) or {}).get(part)
    if difference:
        return (
            not (is_known(difference["low"]) and is_known(difference["high"]))
            or difference["low"] <= 0 <= difference["high"]
        )
    parts = [(lost_part(run) if part == "loss" else run[part]) or {} for run in (a, b)]
    (low, high), (other_low, other_high) = ((entry.get("low"), entry.get("high")) for entry in parts)
    if not (is_known(low) and is_known(high) and is_known(other_low) and is_known(other_high)):
        return True
    return low <= other_high and other_low <= high


def methods_on_plane(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods that have a place on the plane: both a gain and something lost or kept."""
    return [run for run in compare.get("runs") or [] if change_of(run.get("gain")) and lost_part(run)]


def front_of(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """The methods on the gain/loss front, from the one that loses least to the one that gains most."""
    return sorted((run for run in methods_on_plane(compare) if run.get("pareto")), key=_loss_delta)


def _loss_delta(run: dict[str, Any]) -> float:
    loss = lost_part(run)
    return loss["delta"] if loss else float("inf")


def against_text(compare: dict[str, Any]) -> bool:
    """Whether all that was kept is text, in per cent of bits: then there is no front, which is drawn in points."""
    return all((lost_part(run) or {}).get("of") == "text" for run in methods_on_plane(compare))


def describe_ranking(compare: dict[str, Any]) -> str:
    """Which methods lie on the gain/loss front and which behind it, in a few plain sentences."""
    runs, front = methods_on_plane(compare), front_of(compare)
    if not runs:
        return "No method has both a gain and a loss, so none can be placed on the plane."
    if against_text(compare):
        return f"By gain: {_join_few(_describe_method, rank_methods(runs), '; ')}."
    if not front:
        return f"No method is ahead of the base: {_join_few(_describe_outcome, rank_methods(runs), '; ')}."
    rest = [run for run in rank_methods(runs) if not run.get("pareto")]
    worse = [run for run in rest if run["gain"]["delta"] <= 0 <= _loss_delta(run)]
    rest = [run for run in rest if run not in worse]
    behind = [run for run in rest if any(_clearly_behind(run, best) for best in front)]
    near = [run for run in rest if run not in behind]
    parts = [_describe_front(front, alone=len(runs) == 1)]
    if behind:
        parts.append(f"Behind: {_join_names(behind)}.")
    if near:
        whom = front[0]["method"] if len(front) == 1 else "those"
        why = "the paired differences may be 0" if near[0].get("versus") else "the intervals overlap"
        parts.append(f"{_join_names(near)} cannot be told apart from {whom}: {why}.")
    if worse:
        parts.append(f"Behind the base: {_join_few(_describe_outcome, worse, '; ')}.")
    return " ".join(parts)


def build_contrasts(compare: dict[str, Any]) -> list[dict[str, Any]]:
    """Every method but the first beside the first, on the same questions and seeds: `method`, `than`, `gain`, `loss`.

    `loss` is of the kept texts where nothing was kept in points; a part is None where it was not measured.
    """
    first, *rest = compare.get("runs") or [{}]
    differences = [(run["method"], (run.get("versus") or {}).get(first.get("method"))) for run in rest]
    return [
        {
            "method": method,
            "than": first["method"],
            "margin": one["margin"],
            "gain": one["gain"],
            "loss": one["loss"] or one["text"],
        }
        for method, one in differences
        if one
    ]


def matched_words(compare: dict[str, Any]) -> list[str]:
    """What each method lost where all have gained the same, and beside the first; empty where each ran at one rate."""
    table = compare.get("matched")
    if not table:
        return []
    if table["gain"] is None:
        return [
            "no gain that every method reaches: one gained nothing at any of its learning rates",
            *rates_to_try(table),
        ]
    first, *rest = table["methods"]
    unit, bits = table["unit"], "" if table["unit"] == "points" else f" {table['unit']}"
    lines = [
        f"where all gain {format_figure(table['gain'], unit)}{bits}: {first['method']} loses "
        f"{format_points(first['loss'])}"
    ]
    for row in rest:
        one = row["versus"][first["method"]]
        lines.append(
            f"{row['method']} loses {format_points(row['loss'])}, {format_signed(one['delta'])} "
            f"{format_bracket(one['low'], one['high'])} beside {first['method']}: {one['reading']}"
        )
    return [*lines, *rates_to_try(table)]


def rates_to_try(table: dict[str, Any]) -> list[str]:
    """The line that names methods which gained most at their outermost learning rate, with one beyond it."""
    margin = table["margin"] if table["unit"] == "points" else 0.0
    beyond = {
        row["method"]: find_rate_beyond({rate["rate"]: rate["gain"] for rate in row["rates"]}, margin)
        for row in table["methods"]
    }
    texts = [f"{method} (try {rate:g} too)" for method, rate in beyond.items() if rate is not None]
    return [f"gained most at the outermost learning rate: {', '.join(texts)}"] if texts else []


def describe_doubts(compare: dict[str, Any]) -> list[str]:
    """Of each method why its figures do not answer what was asked: `dpo: the target did not clearly move`."""
    runs = compare.get("runs") or []
    return [f"{run['method']}: {'; '.join(run['doubts'].values())}" for run in runs if run.get("doubts")]


def collect_page_texts(compare: dict[str, Any], methods: Methods) -> dict[str, Any]:
    """What the page says of a comparison, by the template's names.

    Args:
        methods: The methods in the order they were named in: the first is what the others are held against.
    """
    return {
        "verdict": describe_ranking(compare),
        "limits": describe_limits(compare),
        "doubted": describe_doubts(compare),
        "arm_lines": arm_lines(compare),
        "contrasts": build_contrasts({"runs": methods}),
        "matched_words": matched_words(compare),
        "against_text": against_text(compare),
        "front": front_of(compare),
    }


def describe_limits(compare: dict[str, Any]) -> str:
    """What the comparison cannot settle, in sentences; empty when every method ran to its end with several seeds."""
    runs = compare.get("runs") or []
    sentences = [
        f"{method} is left out, a stage's own gate stopped it ({'; '.join(reasons)})."
        for method, reasons in (compare.get("refused") or {}).items()
    ]
    if len(runs) > 1 and all(len(run.get("seeds") or [0]) < 2 for run in runs):
        sentences.append(
            "One seed each, so for these training runs: seeds not varied. The intervals are of the questions alone, "
            "and another seed may order the methods otherwise."
        )
    return " ".join(sentences)


def _describe_front(front: Methods, *, alone: bool) -> str:
    if len(front) == 1:
        return f"{'Measured' if alone else 'Ahead'}: {_describe_method(front[0])}."
    text = f"Gains most: {_describe_method(front[-1])}. Loses least of those that gain: {_describe_method(front[0])}."
    same = [
        what
        for part, what in (("gain", "gains"), ("loss", "losses"))
        if are_indistinguishable(front[0], front[-1], part)
    ]
    if same:
        text = f"{text[:-1]}; their {' and '.join(same)} cannot be told apart."
    if front[1:-1]:
        text += f" Between them: {_join_few(_describe_method, front[1:-1], ', ')}."
    return text


def _clearly_behind(run: dict[str, Any], best: dict[str, Any]) -> bool:
    """Whether `best` is not worse on either axis by the means, and on one of them the intervals do not meet."""
    if best["gain"]["delta"] < run["gain"]["delta"] or _loss_delta(best) > _loss_delta(run):
        return False
    return not (are_indistinguishable(run, best, "gain") and are_indistinguishable(run, best, "loss"))


def _describe_method(run: dict[str, Any]) -> str:
    """`s3ft (+17.6 on the target, 1.9 lost elsewhere)`."""
    gain = run["gain"]
    unit = unit_of(gain)
    better = "" if in_points(gain) else f" {unit} better"
    doubt = "" if interval_direction(gain.get("low"), gain.get("high")) != "flat" else ", which may be chance"
    gain_text = f"{format_signed(gain['delta'], decimals_of(unit))}{better} on the target{doubt}"
    return f"{run['method']} ({gain_text}, {_describe_loss(lost_part(run) or {})})"


def _describe_loss(loss: dict[str, Any]) -> str:
    """`1.9 lost elsewhere`, `0.4 gained elsewhere`, `4.1 points of agreement lost`, `2.5 % fewer bits for the text`."""
    value, less = format_points(abs(loss["delta"])), format_points(loss["delta"]).startswith("\u2212")
    match loss["of"]:
        case "text":
            return f"{value} % {'fewer' if less else 'more'} bits for the kept text"
        case "probe":
            return f"{value} points of agreement with the base lost"
    return f"{value} {'gained' if less else 'lost'} elsewhere"


def _describe_outcome(run: dict[str, Any]) -> str:
    """`sft lost 30.8 on the target and lost 12.0 elsewhere`; what intervals do not settle is said to be not clear."""
    gain, loss = run["gain"], lost_part(run) or {}
    unit = unit_of(gain)
    bits = "" if in_points(gain) else f" {unit}"
    changes = {
        "up": f"gained {format_figure(gain['delta'], unit)}",
        "down": f"lost {format_figure(-gain['delta'], unit)}",
    }
    way = interval_direction(gain.get("low"), gain.get("high"))
    change_text = format_signed(gain["delta"], decimals_of(unit)) + bits
    target = (
        f"{changes[way]}{bits} on the target"
        if way in changes
        else _describe_unclear("change on the target", change_text)
    )
    where = "agreement with the base" if loss["of"] == "probe" else "elsewhere"
    changes = {"up": f"gained {format_points(-loss['delta'])}", "down": f"lost {format_points(loss['delta'])}"}
    way = interval_direction(loss.get("low"), loss.get("high"), is_loss=True)
    if way in changes:
        loss_text = f"{changes[way]} {'points of ' if where != 'elsewhere' else ''}{where}"
    else:
        loss_text = _describe_unclear(
            f"loss {'of ' if where != 'elsewhere' else ''}{where}", format_points(loss["delta"])
        )
    return f"{run['method']} {target} and {loss_text}"


def _describe_unclear(what: str, value: str) -> str:
    return f"shows no clear {what} ({value})"


def _join_names(runs: Methods) -> str:
    return _join_few(lambda run: str(run["method"]), runs, ", ")


def _join_few(say: Callable[[dict[str, Any]], str], runs: Methods, between: str) -> str:
    """What is said of each of a few methods, and how many more there are: the table has them all."""
    more = len(runs) - MOST_NAMED
    return between.join(map(say, runs[:MOST_NAMED])) + (f"{between}and {more} more" if more > 0 else "")
