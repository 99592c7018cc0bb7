"""What the probe says of a tuned model: the part `probe` of report.json, from the paired items of base and tuned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from holdfast.evaluation.statistics.summary_statistics import PairedScores, compute_interval
from holdfast.evaluation.task import ItemResult

MOST_CHANGED = 20
"""Changed answers that are shown."""


def summarise_probe(base: Sequence[ItemResult], tuned: Sequence[ItemResult]) -> dict[str, Any]:
    """How far a model is from its base on the probe.

    `kl` (bits per token) and `agreement` (per cent of tokens) each have `value`, the 95 % interval `low` and `high`
    over prompts (`None` where there is none), and `noise`: what the base shows against itself when its batches have
    another shape, on a few of the prompts. `same_answers`, `stop_base` and `stop_tuned` are shares from 0 to 1, lengths
    are mean tokens. `by` has the same per kind and per language, `changed` the answers furthest from the base's.
    """
    before = {item.id: item for item in base}
    item_pairs = [(before[item.id], item) for item in tuned]
    return {
        "n": len(item_pairs),
        "kl": {
            "unit": "bits per token", **_summarise_kl(item_pairs),
            "noise": _summarise_noise(base, "noise_kl", lambda value: value),
        },
        "agreement": {
            "unit": "%", **_summarise_agreement(item_pairs),
            "noise": _summarise_noise(base, "noise_agreement", lambda value: 100 * (1 - value)),
        },
        **_summarise_answers(item_pairs),
        "by": {part: _group_figures(item_pairs, part) for part in ("kind", "language")},
        "changed": _list_changed(item_pairs),
    }  # fmt: skip


ItemPairs = Sequence[tuple[ItemResult, ItemResult]]
"""`(base, tuned)` of every prompt."""


def _compute_mean(values: Sequence[float]) -> float:
    return float(np.mean(values))


def _summarise_kl(item_pairs: ItemPairs) -> dict[str, float | None]:
    """The mean KL, of which there is no most, and its interval; never below 0."""
    values = np.array([tuned.extra["kl"] for _, tuned in item_pairs])
    ids = tuple(tuned.id for _, tuned in item_pairs)
    ends = compute_interval([[PairedScores(ids, np.zeros(len(values)), values, sizes=np.ones(len(values)))]])
    return {"value": ends.value, "low": None if ends.low is None else max(0.0, ends.low), "high": ends.high}


def _summarise_agreement(item_pairs: ItemPairs) -> dict[str, float | None]:
    """The mean agreement in per cent and its interval; that of the base with itself is 100."""
    values = np.array([tuned.score for _, tuned in item_pairs])
    ends = compute_interval([[PairedScores(tuple(tuned.id for _, tuned in item_pairs), np.ones(len(values)), values)]])
    low, high = (None if end is None else 100 * min(1.0, 1 + end) for end in (ends.low, ends.high))
    return {"value": 100 * float(values.mean()), "low": low, "high": high}


def _summarise_noise(base: Sequence[ItemResult], name: str, change: Callable[[float], float]) -> float | None:
    values = [item.extra[name] for item in base if name in item.extra]
    return change(_compute_mean(values)) if values else None


def _summarise_answers(item_pairs: ItemPairs) -> dict[str, float]:
    """Shares of equal answers and of answers that end, and mean lengths."""
    return {
        "same_answers": _compute_mean([tuned.passed for _, tuned in item_pairs]),
        "stop_base": _compute_mean([base.stopped for base, _ in item_pairs]),
        "stop_tuned": _compute_mean([tuned.stopped for _, tuned in item_pairs]),
        "length_base": _compute_mean([base.tokens for base, _ in item_pairs]),
        "length_tuned": _compute_mean([tuned.tokens for _, tuned in item_pairs]),
    }


def _group_figures(item_pairs: ItemPairs, part: str) -> list[dict[str, Any]]:
    """The figures of each kind or language, the furthest from the base first."""
    groups: dict[str, list[tuple[ItemResult, ItemResult]]] = {}
    for pair in item_pairs:
        groups.setdefault(str(pair[1].extra.get(part, "")), []).append(pair)
    rows = [
        {
            "name": name,
            "n": len(some),
            "kl": _compute_mean([tuned.extra["kl"] for _, tuned in some]),
            "agreement": 100 * _compute_mean([tuned.score for _, tuned in some]),
            **_summarise_answers(some),
        }
        for name, some in groups.items()
    ]
    return sorted(rows, key=lambda row: row["agreement"])


def _list_changed(item_pairs: ItemPairs) -> list[Mapping[str, Any]]:
    """The answers that are not the base's, the furthest first."""
    furthest = sorted((pair for pair in item_pairs if not pair[1].passed), key=lambda pair: -pair[1].extra["kl"])
    return [
        {
            "id": tuned.id, "prompt": tuned.prompt, "base": base.response, "tuned": tuned.response,
            "kl": tuned.extra["kl"], "agreement": 100 * tuned.score,
        }
        for base, tuned in furthest[:MOST_CHANGED]
    ]  # fmt: skip
