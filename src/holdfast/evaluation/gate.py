"""What a recipe refuses: the limits of `evaluate.gate`, held against what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from holdfast.errors import UserError
from holdfast.evaluation.statistics.paired import tasks_in_bits, tasks_in_points, tasks_with_role
from holdfast.evaluation.task import Task, TaskInfo


class Gate(Protocol):
    """When a result is refused (`recipe.Gate`)."""

    @property
    def max_loss(self) -> float | None: ...
    @property
    def max_bits(self) -> float | None: ...
    @property
    def max_kl(self) -> float | None: ...
    @property
    def min_gain(self) -> float | None: ...


def refuse_gate(limits: Gate, tasks: Sequence[Task | TaskInfo]) -> None:
    """Refuse a gate that nothing measured could trip, before anything is trained.

    Raises:
        UserError: If a limit has no task to be held against.
    """
    kept = tasks_with_role(tasks, "keep")
    probed = any(task.info.kind == "probe" for task in kept)
    if limits.max_kl is not None and not probed:
        raise UserError("evaluate.gate.max_kl needs the probe, but it is not kept; add probe to evaluate.keep")
    if limits.max_loss is not None and probed and not tasks_in_points(kept):
        raise UserError(
            "evaluate.gate.max_loss is in points of kept tasks, but what is kept is the probe, where the base is the "
            "reference; set evaluate.gate.max_kl (bits per token), or keep a task with scores"
        )
    if limits.max_loss is not None and kept and not tasks_in_points(kept):
        raise UserError(
            "evaluate.gate.max_loss is in points, but what is kept is text, measured in bits; set "
            "evaluate.gate.max_bits (per cent of bits it may rise), or keep a task with scores"
        )
    if limits.max_loss is not None and not kept:
        raise UserError("evaluate.gate.max_loss needs something to keep, but evaluate.keep names nothing to measure")
    if limits.max_bits is not None and not tasks_in_bits(kept):
        raise UserError("evaluate.gate.max_bits needs a kept text, but none is kept; add text:FILE to evaluate.keep")
    if limits.min_gain is not None and not tasks_with_role(tasks, "target"):
        raise UserError("evaluate.gate.min_gain needs a target, but no target is measured; give data.test some rows")


def gate(limits: Gate, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part `gate` of report.json: whether the result passes `evaluate.gate`, and why not; `None` without limits.

    The limits are held against the measured figures; the intervals are given with the reasons. `unsure`, where it is
    there, says of a limit that is met that the interval reaches beyond it: more questions might show that it is not.
    """
    if all(limit is None for limit in (limits.max_loss, limits.max_bits, limits.max_kl, limits.min_gain)):
        return None
    rules = (_gate_loss, _gate_bits, _gate_kl, _gate_gain)
    checks = [rule(limits, summary) for rule in rules]
    reasons = [reason for reason in checks if reason]
    unsure = [] if reasons else _unsure(limits, summary)
    return {"passed": not reasons, "reasons": reasons} | ({"unsure": unsure} if unsure else {})


def _unsure(limits: Gate, summary: Mapping[str, Any]) -> list[str]:
    """Which limits are met by the figure, but not by its whole interval."""
    loss, text, probe, gain = (summary.get(part) for part in ("loss", "text", "probe", "gain"))
    kl = probe["kl"] if probe else None
    most = (("max_loss", limits.max_loss, loss), ("max_bits", limits.max_bits, text), ("max_kl", limits.max_kl, kl))
    found = [
        f"{name} is {limit:g}, and the {_between(part, 3 if name == 'max_kl' else 1)} reaches beyond it"
        for name, limit, part in most
        if limit is not None and part and part["high"] is not None and part["high"] > limit
    ]
    least = limits.min_gain
    if least is not None and gain and "percent" not in gain and gain["low"] is not None and gain["low"] < least:
        found.append(f"min_gain is {least:g}, and the {_between(gain)} begins below it")
    return found


def _gate_loss(limits: Gate, summary: Mapping[str, Any]) -> str | None:
    loss, most = summary["loss"], limits.max_loss
    if most is None:
        return None
    if loss is None or loss.get("of") == "probe":
        return f"max_loss is {most:g} points, but no kept task has points"
    if loss["delta"] <= most:  # not the other way round, so that NaN does not pass
        return None
    said = f"{_beside(loss['delta'], most)} points on the kept tasks ({_between(loss)}; most on {loss['worst']})"
    return f"lost {said}, where max_loss allows {most:g}"


def _gate_bits(limits: Gate, summary: Mapping[str, Any]) -> str | None:
    text, most = summary["text"], limits.max_bits
    if most is None:
        return None
    if text is None:
        return f"max_bits is {most:g} %, but no text is kept"
    if text["percent"] <= most:
        return None
    said = f"{_beside(text['percent'], most)} % more bits ({_between(text)}; most: {text['worst']})"
    return f"the kept texts take {said}, where max_bits allows {most:g} %"


def _gate_kl(limits: Gate, summary: Mapping[str, Any]) -> str | None:
    most = limits.max_kl
    if most is None:
        return None
    probe = summary["probe"]
    if probe is None:
        return f"max_kl is {most:g} bits per token, but the probe was not measured"
    kl = probe["kl"]
    if kl["value"] <= most:
        return None
    said = f"{_beside(kl['value'], most, 3)} bits per token from the base on the probe ({_between(kl, 3)})"
    return f"the model is {said}, where max_kl allows {most:g}"


def _gate_gain(limits: Gate, summary: Mapping[str, Any]) -> str | None:
    gain, least = summary["gain"], limits.min_gain
    if least is None:
        return None
    if gain is None:
        return f"min_gain is {least:g}, but no target was measured"
    value, unit = (gain["percent"], "%") if "percent" in gain else (gain["delta"], "points")
    if value >= least:
        return None
    size, less = _beside(abs(value), abs(least)), value < 0
    if unit == "%":
        said = f"the target takes {size} % {'more' if less else 'fewer'} bits"
        return f"{said}, where min_gain asks for {least:g} % fewer"
    ends = {"low": -gain["high"], "high": -gain["low"]} if less and gain["low"] is not None else gain
    said = f"{'lost' if less else 'gained'} {size} points on the target ({_between(ends)})"
    return f"{said}, where min_gain asks for {'a gain of ' if less else ''}{least:g}"


def _beside(value: float, limit: float, digits: int = 1) -> str:
    """A figure with so many decimals that it does not look like the limit it is beyond."""
    texts = [f"{value:.{places}f}" for places in range(digits, 8)]
    return next((text for text in texts if float(text) != limit), texts[-1])


def _between(part: Mapping[str, float | None], digits: int = 1) -> str:
    if part["low"] is None:
        return "no interval"
    return f"95 % interval {part['low']:.{digits}f} to {part['high']:.{digits}f}"
