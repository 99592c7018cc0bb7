"""What the probe says of a tuned model: the part `probe` of report.json, from the paired items of base and tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.evaluation.statistics.summary_statistics import Pairs, interval
from holdfast.evaluation.task import Item

CHANGED = 20
"""Changed answers that are shown."""


def probe_part(base: Sequence[Item], tuned: Sequence[Item]) -> dict[str, Any]:
    """How far a model is from its base on the probe.

    `kl` (bits per token) and `agreement` (per cent of tokens) each have `value`, the 95 % interval `low` and `high`
    over prompts (`None` where there is none), and `noise`: what the base shows against itself when its batches have
    another shape, on a few of the prompts. `same_answers`, `stop_base` and `stop_tuned` are shares from 0 to 1, lengths
    are mean tokens. `by` has the same per kind and per language, `changed` the answers furthest from the base's.
    """
    before = {item.id: item for item in base}
    matched = [(before[item.id], item) for item in tuned]
    return {
        "n": len(matched),
        "kl": {
            "unit": "bits per token", **_divergence(matched),
            "noise": _noise(base, "noise_kl", lambda value: value),
        },
        "agreement": {
            "unit": "%", **_agreement(matched),
            "noise": _noise(base, "noise_agreement", lambda value: 100 * (1 - value)),
        },
        **_manner(matched),
        "by": {part: _by(matched, part) for part in ("kind", "language")},
        "changed": _changed(matched),
    }  # fmt: skip


Matched = Sequence[tuple[Item, Item]]
"""`(base, tuned)` of every prompt."""


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _divergence(matched: Matched) -> dict[str, float | None]:
    """The mean KL, of which there is no most, and its interval; never below 0."""
    values = np.array([tuned.extra["kl"] for _, tuned in matched])
    ids = tuple(tuned.id for _, tuned in matched)
    found = interval([[Pairs(ids, np.zeros(len(values)), values, sizes=np.ones(len(values)))]])
    return {"value": found.value, "low": None if found.low is None else max(0.0, found.low), "high": found.high}


def _agreement(matched: Matched) -> dict[str, float | None]:
    """The mean agreement in per cent and its interval; that of the base with itself is 100."""
    values = np.array([tuned.score for _, tuned in matched])
    found = interval([[Pairs(tuple(tuned.id for _, tuned in matched), np.ones(len(values)), values)]])
    low, high = (None if end is None else 100 * min(1.0, 1 + end) for end in (found.low, found.high))
    return {"value": 100 * float(values.mean()), "low": low, "high": high}


def _noise(base: Sequence[Item], name: str, change: Callable[[float], float]) -> float | None:
    values = [item.extra[name] for item in base if name in item.extra]
    return change(_mean(values)) if values else None


def _manner(matched: Matched) -> dict[str, float]:
    """Shares of equal answers and of answers that end, and mean lengths."""
    return {
        "same_answers": _mean([tuned.passed for _, tuned in matched]),
        "stop_base": _mean([base.stopped for base, _ in matched]),
        "stop_tuned": _mean([tuned.stopped for _, tuned in matched]),
        "length_base": _mean([base.tokens for base, _ in matched]),
        "length_tuned": _mean([tuned.tokens for _, tuned in matched]),
    }


def _by(matched: Matched, part: str) -> list[dict[str, Any]]:
    """The figures of each kind or language, the furthest from the base first."""
    groups: dict[str, list[tuple[Item, Item]]] = {}
    for pair in matched:
        groups.setdefault(str(pair[1].extra.get(part, "")), []).append(pair)
    rows = [
        {
            "name": name,
            "n": len(some),
            "kl": _mean([tuned.extra["kl"] for _, tuned in some]),
            "agreement": 100 * _mean([tuned.score for _, tuned in some]),
            **_manner(some),
        }
        for name, some in groups.items()
    ]
    return sorted(rows, key=lambda row: row["agreement"])


def _changed(matched: Matched) -> list[Mapping[str, Any]]:
    """The answers that are not the base's, the furthest first."""
    furthest = sorted((pair for pair in matched if not pair[1].passed), key=lambda pair: -pair[1].extra["kl"])
    return [
        {
            "id": tuned.id, "prompt": tuned.prompt, "base": base.response, "tuned": tuned.response,
            "kl": tuned.extra["kl"], "agreement": 100 * tuned.score,
        }
        for base, tuned in furthest[:CHANGED]
    ]  # fmt: skip
