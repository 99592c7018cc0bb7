"""The result of a run in the reader's language, out of the figures of its report: nobody translates its sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from holdfast.board.texts import DEFAULT, Texts
from holdfast.report import phrasing


def describe_result(report: dict[str, Any], t: Texts) -> str:
    """The result in one plain sentence: in the report's own words, or in those of the catalogue."""
    if t.language == DEFAULT:
        return phrasing.describe_result(report)
    return "".join(_list_sentences(report, t))


def _list_sentences(report: dict[str, Any], t: Texts) -> Iterator[str]:
    gain, loss = phrasing.change_of(report.get("gain")), phrasing.change_of(report.get("loss"))
    text = report.get("text") or {}
    yield _describe_change(t, "gain", gain) if gain else t("verdict_no_target")
    if loss and loss.get("of") == "probe":
        yield t("verdict_probe", **_format_figures(loss, "%"))
    elif loss:
        yield _describe_change(t, "kept", _turn_round(loss))  # of a loss less is better
    elif not phrasing.is_known(text.get("percent")):
        yield t("verdict_no_kept")
    worst = phrasing.worst_of(report)
    if worst and sum(task.get("role") == "keep" and phrasing.in_points(task) for task in report["tasks"]) > 1:
        yield t("verdict_worst", name=worst["name"], delta=phrasing.format_points(-worst["delta"]))
    if phrasing.is_known(text.get("percent")):
        yield t("verdict_text", **_format_figures({**text, "delta": text["percent"]}, "%", sign=True))
    if report.get("training"):
        yield t("verdict_seed")


def _describe_change(t: Texts, which: str, change: Mapping[str, Any]) -> str:
    """What became of the target ("gain") or of the rest ("kept")."""
    unit = str(change["unit"])
    name = t("points") if unit == phrasing.POINTS else unit
    if not (phrasing.is_known(change.get("low")) and phrasing.is_known(change.get("high"))):
        return t(f"verdict_{which}_alone", delta=_format_figures(change, unit, sign=True)["delta"], unit=name)
    match phrasing.interval_direction(change["low"], change["high"]):
        case "up":
            return t(f"verdict_{which}_better", unit=name, **_format_figures(change, unit))
        case "down":
            return t(f"verdict_{which}_worse", unit=name, **_format_figures(_turn_round(change), unit))
    return t(f"verdict_{which}_unclear", unit=name, **_format_figures(change, unit, sign=True))


def _turn_round(change: Mapping[str, Any]) -> dict[str, Any]:
    """A change counted the other way."""
    low, high = (-end if phrasing.is_known(end) else None for end in (change.get("high"), change.get("low")))
    return {**change, "delta": -change["delta"], "low": low, "high": high}


def _format_figures(change: Mapping[str, Any], unit: str, *, sign: bool = False) -> dict[str, str]:
    """A change and its interval as texts."""
    show = phrasing.format_signed if sign else phrasing.format_points
    return {key: show(change.get(key), phrasing.decimals_of(unit)) for key in ("delta", "low", "high")}
