"""Why a comparison cannot tell: what makes a method's gain or loss say nothing, read off its finished runs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from holdfast.evaluation.statistics.verdicts import MARGIN

PREFERENCE_LIMIT = 0.95
"""Share of pairs that the base ranks rightly, above which pairs have nothing to teach it."""
INFORMATIVE = 0.10
"""Share of questions with better and worse answers, below which groups of answers have nothing to teach."""
ROOM = 3
"""Margins below the highest score within which methods cannot be told apart: all that learn arrive there."""
FIRST = 3
"""Logged steps that are still the base's: the rate has hardly begun to rise."""


def find_doubts(
    entry: Mapping[str, Any], reports: Sequence[Mapping[str, Any]], margin: float = MARGIN
) -> dict[str, str]:
    """Reasons, by their kind, for which a method's figures do not answer what was asked; mostly none.

    Args:
        entry: A method of `compare.json`, with `gain`, `target` and `dirs`.
        reports: The report of each of its runs.
    Returns:
        Sentences without a full stop under "pairs", "groups", "rows", "rate", "ceiling" and "base".
    """
    reasons = {
        "pairs": _find_pairs_doubt(entry["dirs"]),
        "groups": _find_groups_doubt(reports),
        "rows": _find_rows_doubt(reports),
        "rate": _find_rate_doubt(entry.get("gain"), reports),
    }
    return {kind: text for kind, text in reasons.items() if text} | _find_ceiling_doubts(entry, margin)


def _find_pairs_doubt(folders: Sequence[str]) -> str | None:
    """Whether the base already ranked the first pairs of the training rightly."""
    shares = [share for folder in folders for share in _read_metric(Path(folder), "logps/accuracy")[:FIRST]]
    if not shares or sum(shares) / len(shares) <= PREFERENCE_LIMIT:
        return None
    return f"the base already prefers the chosen answer in {100 * sum(shares) / len(shares):.0f} % of the pairs"


def _read_metric(folder: Path, name: str) -> list[float]:
    path = folder / "log.jsonl"
    if not path.exists():  # of a run in stages
        return []
    lines = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [line[name] for line in lines if name in line]


def _find_groups_doubt(reports: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether hardly any question had answers of unlike worth, where curator `pairs` scored the model's own."""
    notes = [(report.get("curation") or {}).get("notes") or {} for report in reports]
    questions = sum(note.get(name, 0) for note in notes for name in ("pairs", "ties left out", "too few answers"))
    if not questions or (share := sum(note.get("pairs", 0) for note in notes) / questions) >= INFORMATIVE:
        return None
    return f"only {100 * share:.0f} % of the questions have better and worse answers"


def _find_rows_doubt(reports: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether a curator that puts the model's answers in the place of gold ones hardly found any it could take."""
    parts = [report.get("curation") or {} for report in reports]
    notes = [part.get("notes") or {} for part in parts]
    rows = sum(sum((part.get("counts") or {}).values()) for part in parts)
    n_gold, n_sampled = (sum(note.get(name, 0) for note in notes) for name in ("gold kept", "sampled"))
    if not n_gold or not n_sampled or (share := 1 - n_gold / rows) >= INFORMATIVE:
        return None
    return f"only {100 * share:.0f} % of its rows are not the gold ones"


def _find_rate_doubt(gain: Mapping[str, Any] | None, reports: Sequence[Mapping[str, Any]]) -> str | None:
    """Whether the target did not move, or fell: then nothing was learned that could have cost something."""
    is_untrained = (reports[0].get("training") or {}).get("steps") == 0
    if is_untrained or not gain or (gain["low"] is not None and gain["low"] > 0):
        return None
    recipe = reports[0].get("recipe") or {}
    rate = (recipe.get("optimizer") or {}).get("learning_rate")
    at = f" at learning rate {rate:g}" if rate and not recipe.get("stages") else ""
    fell = gain["high"] is not None and gain["high"] < 0
    return f"the target {'fell' if fell else 'did not clearly move'}{at}"


def _find_ceiling_doubts(entry: Mapping[str, Any], margin: float) -> dict[str, str]:
    """Whether target ("ceiling") or base ("base") stand so near to all right that what is added cannot be seen."""
    gain, score = entry.get("gain"), entry.get("target")
    if not gain or gain.get("unit") != "points" or score is None:
        return {}
    scores = {
        "ceiling": (score, "the target is at its ceiling"),
        "base": (score - gain["delta"], "the base is at the ceiling already"),
    }
    return {kind: f"{text}, {own:.1f} of 100" for kind, (own, text) in scores.items() if own >= 100 - ROOM * margin}
