"""What a recipe refuses: the limits of `evaluate.gate`, held against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast.errors import UserError
from holdfast.evaluation.statistics.paired import tasks_in_bits, tasks_in_points, tasks_with_role
from holdfast.evaluation.task import Task, TaskInfo


class GateLimits(Protocol):
    """When a result is refused (`recipe.Gate`)."""

    @property
    def max_loss(self) -> float | None: ...
    @property
    def max_bits(self) -> float | None: ...
    @property
    def max_kl(self) -> float | None: ...
    @property
    def min_gain(self) -> float | None: ...


def refuse_gate(limits: GateLimits, tasks: Sequence[Task | TaskInfo]) -> None:
    """Refuse a gate that nothing measured could trip, before anything is trained.

    Raises:
        UserError: If a limit has no task to be held against.
    """
    kept_tasks = tasks_with_role(tasks, "keep")
    has_probe = any(task.info.kind == "probe" for task in kept_tasks)
    if limits.max_kl is not None and not has_probe:
        raise UserError("evaluate.gate.max_kl needs the probe, but it is not kept; add probe to evaluate.keep")
    if limits.max_loss is not None and has_probe and not tasks_in_points(kept_tasks):
        raise UserError(
            "evaluate.gate.max_loss is in points of kept tasks, but what is kept is the probe, where the base is the "
            "reference; set evaluate.gate.max_kl (bits per token), or keep a task with scores"
        )
    if limits.max_loss is not None and kept_tasks and not tasks_in_points(kept_tasks):
        raise UserError(
            "evaluate.gate.max_loss is in points, but what is kept is text, measured in bits; set "
            "evaluate.gate.max_bits (per cent of bits it may rise), or keep a task with scores"
        )
    if limits.max_loss is not None and not kept_tasks:
        raise UserError("evaluate.gate.max_loss needs something to keep, but evaluate.keep names nothing to measure")
    if limits.max_bits is not None and not tasks_in_bits(kept_tasks):
        raise UserError("evaluate.gate.max_bits needs a kept text, but none is kept; add text:FILE to evaluate.keep")
    if limits.min_gain is not None and not tasks_with_role(tasks, "target"):
        raise UserError("evaluate.gate.min_gain needs a target, but no target is measured; give data.test some rows")


def apply_gate(limits: GateLimits, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `gate` of report.json: whether the result passes `evaluate.gate`, and why not; `None` without limits.

    The limits are held against the measured figures; the intervals are given with the reasons. `unsure`, where it is
    there, says of a limit that is met that the interval reaches beyond it: more questions might show that it is not.
    """
    if all(limit is None for limit in (limits.max_loss, limits.max_bits, limits.max_kl, limits.min_gain)):
        return None
    rules = (_check_loss, _check_bits, _check_kl, _check_gain)
    checks = [rule(limits, summary) for rule in rules]
    reasons = [reason for reason in checks if reason]
    unsure = [] if reasons else _describe_uncertain_limits(limits, summary)
    return {"passed": not reasons, "reasons": reasons} | ({"unsure": unsure} if unsure else {})


def _describe_uncertain_limits(limits: GateLimits, summary: Mapping[str, Any]) -> list[str]:
    """Which limits are met by the figure, but not by its whole interval."""
    loss, text, probe, gain = (summary.get(part) for part in ("loss", "text", "probe", "gain"))
    kl = probe["kl"] if probe else None
    most = (("max_loss", limits.max_loss, loss), ("max_bits", limits.max_bits, text), ("max_kl", limits.max_kl, kl))
    reasons = [
        f"{name} is {limit:g}, and the {_format_interval(part, 3 if name == 'max_kl' else 1)} reaches beyond it"
        for name, limit, part in most
        if limit is not None and part and part["high"] is not None and part["high"] > limit
    ]
    least = limits.min_gain
    if least is not None and gain and "percent" not in gain and gain["low"] is not None and gain["low"] < least:
        reasons.append(f"min_gain is {least:g}, and the {_format_interval(gain)} begins below it")
    return reasons


def _check_loss(limits: GateLimits, summary: Mapping[str, Any]) -> str | None:
    loss, most = summary["loss"], limits.max_loss
    if most is None:
        return None
    if loss is None or loss.get("of") == "probe":
        return f"max_loss is {most:g} points, but no kept task has points"
    if loss["delta"] <= most:  # not the other way round, so that NaN does not pass
        return None
    figure, interval = _format_figure(loss["delta"], most), _format_interval(loss)
    phrase = f"{figure} points on the kept tasks ({interval}; most on {loss['worst']})"
    return f"lost {phrase}, where max_loss allows {most:g}"


def _check_bits(limits: GateLimits, summary: Mapping[str, Any]) -> str | None:
    text, most = summary["text"], limits.max_bits
    if most is None:
        return None
    if text is None:
        return f"max_bits is {most:g} %, but no text is kept"
    if text["percent"] <= most:
        return None
    phrase = f"{_format_figure(text['percent'], most)} % more bits ({_format_interval(text)}; most: {text['worst']})"
    return f"the kept texts take {phrase}, where max_bits allows {most:g} %"


def _check_kl(limits: GateLimits, summary: Mapping[str, Any]) -> str | None:
    most = limits.max_kl
    if most is None:
        return None
    probe = summary["probe"]
    if probe is None:
        return f"max_kl is {most:g} bits per token, but the probe was not measured"
    kl = probe["kl"]
    if kl["value"] <= most:
        return None
    phrase = (
        f"{_format_figure(kl['value'], most, 3)} bits per token from the base on the probe ({_format_interval(kl, 3)})"
    )
    return f"the model is {phrase}, where max_kl allows {most:g}"


def _check_gain(limits: GateLimits, summary: Mapping[str, Any]) -> str | None:
    gain, least = summary["gain"], limits.min_gain
    if least is None:
        return None
    if gain is None:
        return f"min_gain is {least:g}, but no target was measured"
    value, unit = (gain["percent"], "%") if "percent" in gain else (gain["delta"], "points")
    if value >= least:
        return None
    size, less = _format_figure(abs(value), abs(least)), value < 0
    if unit == "%":
        phrase = f"the target takes {size} % {'more' if less else 'fewer'} bits"
        return f"{phrase}, where min_gain asks for {least:g} % fewer"
    ends = {"low": -gain["high"], "high": -gain["low"]} if less and gain["low"] is not None else gain
    phrase = f"{'lost' if less else 'gained'} {size} points on the target ({_format_interval(ends)})"
    return f"{phrase}, where min_gain asks for {'a gain of ' if less else ''}{least:g}"


def _format_figure(value: float, limit: float, digits: int = 1) -> str:
    """A figure with so many decimals that it does not look like the limit it is beyond."""
    texts = [f"{value:.{places}f}" for places in range(digits, 8)]
    return next((text for text in texts if float(text) != limit), texts[-1])


def _format_interval(part: Mapping[str, float | None], digits: int = 1) -> str:
    if part["low"] is None:
        return "no interval"
    return f"95 % interval {part['low']:.{digits}f} to {part['high']:.{digits}f}"
