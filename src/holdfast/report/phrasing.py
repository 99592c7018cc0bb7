"""Numbers and sentences of the report, so that page, card and terminal say the same thing in the same words.

Scores are points (0 to 100, higher is better), likelihoods are bits (lower is better); what does not say its unit is in
points. A change is tuned minus base and carries its sign; what was *lost* is a positive number (below 0 it was gained),
in tiles, plane, tables and sentences alike. A gain is positive where the target became better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeGuard

from holdfast.evaluation.statistics.verdicts import MARGIN, is_within_margin

MISSING = "\u2013"
MINUS = "\u2212"
POINTS = "points"


def is_known(value: float | None) -> TypeGuard[float]:
    """Whether there is a number to show: not None, not NaN, not infinite."""
    return value is not None and math.isfinite(value)


def format_points(value: float | None, digits: int = 1) -> str:
    """`12.3`; a real minus sign; a dash when there is no number."""
    if not is_known(value):
        return MISSING
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def format_signed(value: float | None, digits: int = 1) -> str:
    """`+12.3`, `−4.1`, `0.0`."""
    text = format_points(value, digits)
    return f"+{text}" if is_known(value) and value > 0 and float(text) != 0 else text


def unit_of(part: Mapping[str, Any] | None) -> str:
    """The unit of a task, a gain or a loss; points where nothing is said, as in reports of version 0.1."""
    return str((part or {}).get("unit") or POINTS)


def decimals_of(unit: str) -> int:
    """Decimals that figures of a unit are shown with."""
    return 1 if unit in (POINTS, "%", "% agreement") else 3


def in_points(part: Mapping[str, Any] | None) -> bool:
    """Whether a task, a gain or a loss is counted in points."""
    return unit_of(part) == POINTS


def format_figure(value: float | None, unit: str = POINTS) -> str:
    """`12.3` points, `0.912` bits; a dash when there is no number."""
    return format_points(value, decimals_of(unit))


def format_interval(low: float | None, high: float | None, *, sign: bool = False, unit: str = POINTS) -> str:
    """An interval in words: `8.1 to 16.4`."""
    if not (is_known(low) and is_known(high)):
        return MISSING
    show = format_signed if sign else format_points
    return f"{show(low, decimals_of(unit))} to {show(high, decimals_of(unit))}"


def format_bracket(low: float | None, high: float | None, unit: str = POINTS, *, sign: bool = True) -> str:
    """An interval in brackets: `[+8.1, +16.4]`; empty when there is none, or one without a width."""
    if not (is_known(low) and is_known(high)) or low == high:
        return ""
    show = format_signed if sign else format_points
    return f"[{show(low, decimals_of(unit))}, {show(high, decimals_of(unit))}]"


def change_of(part: dict[str, Any] | None) -> dict[str, Any] | None:
    """A gain, a loss or a task's change as {"delta", "low", "high", "unit"}; None when it was not measured.

    A gain in bits also says "percent", a loss what it is "of" ("tasks" or "probe").
    """
    if not part or not is_known(part.get("delta")):
        return None
    result = {"delta": part["delta"], "low": part.get("low"), "high": part.get("high"), "unit": unit_of(part)}
    return result | {key: part[key] for key in ("percent", "of") if part.get(key) is not None}


def lost_part(run: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a run lost, as `change_of` gives it: in points of its kept tasks, else in per cent of its kept texts' bits.

    `of` says of what: "tasks", "probe" (agreement with the base) or "text".
    """
    loss, text = change_of(run.get("loss")), run.get("text")
    if loss:
        return {"of": "tasks", **loss}
    if text and is_known(text.get("percent")):
        return {"delta": text["percent"], "low": text.get("low"), "high": text.get("high"), "unit": "%", "of": "text"}
    return None


def interval_direction(low: float | None, high: float | None, *, is_loss: bool = False) -> str:
    """`up` (better) or `down` (worse) when the interval leaves out 0, else `flat`: not to be told from no change.

    Args:
        is_loss: The interval is of a loss, of which more is worse.
    """
    if is_known(low) and low > 0:
        return "down" if is_loss else "up"
    if is_known(high) and high < 0:
        return "up" if is_loss else "down"
    return "flat"


def part_direction(part: Mapping[str, Any]) -> str:
    """`interval_direction` of a task or a gain: `up` where it became better, whichever way its unit counts."""
    return interval_direction(part.get("low"), part.get("high"), is_loss=part.get("better") == "lower")


def format_pvalue(value: float | None) -> str:
    """`0.03`, `0.004`, `<0.001`; a dash where no test applies."""
    if not is_known(value):
        return MISSING
    if value < 0.001:
        return "<0.001"
    return f"{value:.3f}" if value < 0.01 else f"{value:.2f}"


def format_percent(value: float | None) -> str:
    """A share in [0, 1] as `97 %`."""
    return f"{100 * value:.0f} %" if is_known(value) else MISSING


def format_count(value: float | None) -> str:
    """`12,345`; from a million on `4.1 M`."""
    if not is_known(value):
        return MISSING
    for size, unit in ((1e9, "B"), (1e6, "M")):
        if abs(value) >= size:
            return f"{value / size:.1f} {unit}"
    return f"{value:,.0f}"


def format_epochs(value: float | None) -> str:
    """`1 epoch`, `2.86 epochs`."""
    if not is_known(value):
        return MISSING
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return f"{text} epoch{'' if text == '1' else 's'}"


def format_steps(training: Mapping[str, Any]) -> str:
    """`240 steps`; `180 of 240 steps, stopped early, step 120 kept`."""
    steps_done, kept_step = training.get("steps"), training.get("kept_step")
    planned_steps = training.get("planned_steps")
    text = f"{format_count(steps_done)} steps"
    if training.get("stopped_early"):
        text = f"{format_count(steps_done)} of {format_count(planned_steps)} steps, stopped early"
    elif is_known(steps_done) and is_known(planned_steps) and steps_done < planned_steps:  # by train.stop_at
        text = f"{format_count(steps_done)} of {format_count(planned_steps)} steps"
    return text if kept_step in (None, steps_done) else f"{text}, step {format_count(kept_step)} kept"


def chose_a_step(part: Mapping[str, Any] | None) -> bool:
    """Whether a run ended otherwise than with the last of its planned steps."""
    known_of = part or {}
    return bool(known_of.get("stopped_early")) or known_of.get("kept_step") not in (None, known_of.get("steps"))


def format_steps_compared(run: Mapping[str, Any]) -> str:
    """The steps of each seed of a method: `180, 240 (kept 120, 240)`; empty where all are the budget's."""
    step_counts, kept_steps = run.get("steps") or [], run.get("kept_steps") or []
    if not run.get("stopped_early") and all(k in (None, d) for d, k in zip(step_counts, kept_steps, strict=False)):
        return ""
    text = ", ".join(map(format_count, step_counts))
    return (
        text if list(kept_steps) == list(step_counts) else f"{text} (kept {', '.join(map(format_count, kept_steps))})"
    )


def format_duration(seconds: float | None) -> str:
    """`42 s`, `3 min 12 s`, `1 h 04 min`."""
    if not is_known(seconds):
        return MISSING
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def passes_per_question(cost: dict[str, Any] | None) -> float | None:
    """Forward passes that a sampled answer took in the mean, over all models; `None` where that is not known."""
    passes, questions = (cost or {}).get("forward_passes"), (cost or {}).get("questions")
    return passes / questions if is_known(passes) and questions else None


def total_seconds(cost: dict[str, Any] | None) -> float | None:
    """Wall time of all phases together; None when none was timed."""
    seconds = [s for s in ((cost or {}).get("seconds") or {}).values() if is_known(s)]
    return sum(seconds) if seconds else None


def order_tasks(tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Targets first, then what was only watched, then the kept tasks: points, then bits, most lost first."""
    roles = {"target": 0, "watch": 1}

    def sort_key(task: dict[str, Any]) -> tuple[int, bool, float, str]:
        delta = -task["percent"] if is_known(task.get("percent")) else task.get("delta")
        rank = roles.get(task.get("role") or "", 2)
        return (rank, not in_points(task), delta if is_known(delta) else math.inf, task["name"])

    return sorted(tasks, key=sort_key)


def mean_score(tasks: list[dict[str, Any]], role: str, field: str) -> float | None:
    """Mean of `field` ("base", "tuned") over the tasks of one role, of the kept ones those in points; None for none."""
    role_tasks = [t for t in tasks if t.get("role") == role and (role == "target" or in_points(t))]
    values = [t[field] for t in role_tasks if is_known(t.get(field))]
    return sum(values) / len(values) if values else None


def method_of(report: dict[str, Any]) -> str:
    """The name a run goes by: the recipe's method (or its stages), else the run's own name."""
    return str(report.get("method") or (report.get("recipe") or {}).get("method") or report.get("name") or "run")


def make_sentence(text: str) -> str:
    """A reason as a sentence of the page: a capital, real minus signs, a full stop."""
    text = re.sub(r"(?<![\w.])-(?=\d)", MINUS, text)
    return text[:1].upper() + text[1:].rstrip(".") + "." if text else ""


def label_of(task: dict[str, Any], recipe: dict[str, Any] | None) -> str:
    """What a task is called: by its name, and the held-out rows by the data they come from."""
    if task["name"] != "test":
        return str(task["name"])
    data = (recipe or {}).get("data") or {}
    own = data.get("test")
    source = _file_name(own if isinstance(own, str) else data.get("train"))
    if not source:
        return str(task["name"])
    return source if isinstance(own, str) else f"held-out rows of {source}"


def _file_name(source: Any) -> str:
    """The last part of a path, of a setting that may also be a list or a mapping with a path."""
    if isinstance(source, dict):
        source = source.get("path")
    if isinstance(source, (list, tuple)):
        names = [name for name in map(_file_name, source) if name]
        return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "") if names else ""
    return str(source).rstrip("/").rpartition("/")[2] if source else ""


def worst_of(report: dict[str, Any]) -> dict[str, Any] | None:
    """The kept task that lost most; None when none lost anything, or the loss is of the probe."""
    loss = report.get("loss") or {}
    name = None if loss.get("of") == "probe" else loss.get("worst")
    for task in report.get("tasks") or []:
        if task["name"] == name and is_known(task.get("delta")) and task["delta"] < 0:
            return task
    return None


def nothing_flipped(part: dict[str, Any], n: int | None, flips: int | None, where: str) -> str | None:
    """What to say where no answer flipped; None where some did.

    Args:
        part: The change in points; n: of how many questions; flips: how many flipped, None in reports that do not say.
    """
    if part["delta"] or (flips if flips is not None else part["low"] != part["high"]):
        return None
    most = (3 / n * 100 if n else 0) if part["low"] == part["high"] else max(-part["low"], part["high"])
    if most <= MARGIN:
        return f"changed nothing {where}" + (
            f" (at most {format_points(most)} points)" if part["low"] != part["high"] else ""
        )
    return f"flipped no answer {where}{too_few(n)}"


def too_few(n: int | None) -> str:
    """` (8 questions are too few to tell)`, for an interval that reaches beyond the margin."""
    return f" ({format_count(n)} question{'s are' if n > 1 else ' is'} too few to tell)" if n else ""


def count_questions(report: dict[str, Any], role: str) -> int | None:
    """Questions of all tasks of a role; None when there are none, or a text, which asks nothing, is among them."""
    tasks = [task for task in report.get("tasks") or [] if task.get("role") == role and in_points(task)]
    if not tasks or any(task.get("kind") == "perplexity" or not is_known(task.get("n")) for task in tasks):
        return None
    return sum(task["n"] for task in tasks)


def count_flips(report: dict[str, Any], role: str) -> int | None:
    """How many answers of a role's tasks flipped; None where a task does not say."""
    tasks = [task for task in report.get("tasks") or [] if task.get("role") == role and in_points(task)]
    counts = [(task.get("won"), task.get("lost")) for task in tasks]
    return (
        sum(n_won + n_lost for n_won, n_lost in counts) if all(is_known(v) for pair in counts for v in pair) else None
    )


def _target_words(gain: dict[str, Any] | None, n: int | None, flips: int | None = None) -> str:
    if gain is None:
        return "no target was measured"
    if not in_points(gain):
        return _target_bits(gain)
    low, high = gain["low"], gain["high"]
    if not is_known(low) or not is_known(high):
        return f"changed the target by {format_signed(gain['delta'])} points (no interval)"
    match interval_direction(low, high):
        case "up":
            interval = format_interval(low, high)
            return f"gained {format_points(gain['delta'])} points on the target (95 % interval {interval})"
        case "down":
            interval = format_interval(-high, -low)
            return f"lost {format_points(-gain['delta'])} points on the target (95 % interval {interval})"
    interval = f"{format_signed(gain['delta'])} points, 95 % interval {format_interval(low, high, sign=True)}"
    few = "" if is_within_margin(low, high) else too_few(n).replace(" (", "; ").rstrip(")")
    return nothing_flipped(gain, n, flips, "on the target") or f"shows no clear change on the target ({interval}{few})"


def _target_bits(gain: dict[str, Any]) -> str:
    """A target in bits: its loss is lowered or raised."""
    low, high, unit = gain["low"], gain["high"], gain["unit"]
    share = f", {format_points(abs(gain['percent']))} %" if is_known(gain.get("percent")) else ""
    by = f"{format_figure(abs(gain['delta']), unit)} {unit}{share}"
    match interval_direction(low, high):
        case "up":
            return f"lowered the target's loss by {by} (95 % interval {format_interval(low, high, unit=unit)})"
        case "down":
            return f"raised the target's loss by {by} (95 % interval {format_interval(-high, -low, unit=unit)})"
    if not gain["delta"] and low == high:  # no interval, or one without a width in reports of before
        return "changed nothing on the target"
    if not is_known(low) or not is_known(high):
        return f"{'lowered' if gain['delta'] > 0 else 'raised'} the target's loss by {by} (no interval)"
    inside = f"95 % interval {format_interval(-high, -low, sign=True, unit=unit)}"
    change = format_signed(-gain["delta"], decimals_of(unit))
    return f"shows no clear change of the target's loss ({change} {unit}, {inside})"


def text_words(text: Mapping[str, Any] | None) -> str:
    """What became of the kept texts: `the kept texts take 12.3 % more bits (8.1 to 16.4)`; empty when none is kept."""
    if not text or not is_known(text.get("percent")):
        return ""
    value, low, high = text["percent"], text.get("low"), text.get("high")
    match interval_direction(low, high):
        case "up":
            return f"the kept texts take {format_points(value)} % more bits ({format_interval(low, high)})"
        case "down":
            ends = (-high, -low) if is_known(low) and is_known(high) else (None, None)
            return f"the kept texts take {format_points(-value)} % fewer bits ({format_interval(*ends)})"
    if not value and low == high:
        return "the kept texts are as likely as before"
    if not is_known(low):
        return f"the kept texts take {format_signed(value)} % bits (no interval)"
    return (
        f"the kept texts show no clear change ({format_signed(value)} % bits, {format_interval(low, high, sign=True)})"
    )


def probe_words(probe: Mapping[str, Any]) -> list[str]:
    """What the probe showed, in short lines: divergence and agreement with intervals, ends and lengths of answers."""
    kl, agreement = probe["kl"], probe["agreement"]
    if probe.get("base", "") is None:  # measured alone: nothing to compare with
        return [
            f"{format_percent(probe['stop_tuned'])} of its {format_count(probe['n'])} answers end by themselves, "
            f"{format_points(probe['length_tuned'])} tokens long in the mean"
        ]
    lines = [
        f"agrees with the base at {format_points(agreement['value'])} % of the tokens "
        f"({format_interval(agreement['low'], agreement['high'])}); {format_percent(probe['same_answers'])} of "
        f"{format_count(probe['n'])} answers are the same",
        f"{kl['value']:.3f} bits per token from the base ({format_interval(kl['low'], kl['high'], unit='bits')})",
        f"{format_percent(probe['stop_base'])} → {format_percent(probe['stop_tuned'])} of its answers end by "
        f"themselves, {format_points(probe['length_base'])} → {format_points(probe['length_tuned'])} tokens long",
    ]
    if is_known(kl.get("noise")) and is_known(agreement.get("noise")):
        noise = format_points(kl["noise"], 3) if kl["noise"] >= 0.0005 else "less than 0.001"
        lines[1] += f"; rounding in other batches alone makes {noise} bits and {agreement['noise']:.2g} % of the tokens"
    return lines


def probe_sentences(probe: Mapping[str, Any]) -> str:
    """`probe_words` as sentences of the page."""
    lines = probe_words(probe)
    if len(lines) > 1:
        lines = [f"the tuned model {lines[0]}", f"it is {lines[1]}", *lines[2:]]
    return " ".join(map(make_sentence, lines))


def _kept_words(loss: dict[str, Any] | None, n: int | None, flips: int | None = None) -> str:
    if loss is None:
        return "what it lost elsewhere was not measured"
    low, high = loss["low"], loss["high"]
    if loss.get("of") == "probe":
        if not loss["delta"]:
            return "answers the probe exactly as the base"
        share, interval = format_points(loss["delta"]), format_interval(low, high)
        return f"departs from the base at {share} % of the probe's tokens ({interval})"
    if not is_known(low) or not is_known(high):
        return f"lost {format_points(loss['delta'])} points elsewhere (no interval)"
    match interval_direction(low, high, is_loss=True):
        case "down":
            return f"lost {format_points(loss['delta'])} elsewhere ({format_interval(low, high)})"
        case "up":
            return f"gained {format_points(-loss['delta'])} elsewhere ({format_interval(-high, -low)})"
    interval = f"{format_points(loss['delta'])} lost, {format_interval(low, high)}"
    few = "" if is_within_margin(low, high) else too_few(n).replace(" (", "; ").rstrip(")")
    return nothing_flipped(loss, n, flips, "elsewhere") or f"shows no clear loss elsewhere ({interval}{few})"


def describe_result(report: dict[str, Any]) -> str:
    """The result in one plain sentence: gain with interval, loss with interval, the kept task that lost most, text."""
    gain, loss, bits = change_of(report.get("gain")), change_of(report.get("loss")), text_words(report.get("text"))
    text = _target_words(gain, count_questions(report, "target"), count_flips(report, "target"))
    if loss or not bits:
        kept_text = _kept_words(loss, count_questions(report, "keep"), count_flips(report, "keep"))
        text += f"{' and' if gain and loss else ';'} {kept_text}"
    worst = worst_of(report)
    if worst and sum(task.get("role") == "keep" and in_points(task) for task in report["tasks"]) > 1:
        text += f"; most on {worst['name']}: {format_points(-worst['delta'])}"
    text += f"; {bits}" if bits else ""
    one = " For this training run: seeds not varied." if report.get("training") else ""
    return text[0].upper() + text[1:] + "." + one
