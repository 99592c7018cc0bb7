"""Learning rates of a claim's arms, each chosen by the same small sweep on questions that no verdict counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.evaluation.statistics.rates import find_rate_beyond
from holdfast.evaluation.statistics.verdicts import MARGIN
from holdfast.pipeline.damage import read_report

if TYPE_CHECKING:
    from holdfast.core.progress import Progress

SWEEP = (0.3, 1, 3)
"""Multiples of its own learning rate that every arm is swept over."""
MAX_FURTHER_RATES = 3
"""How many learning rates an arm may run at beyond those of its claim, while it gains most at the outermost of them."""
SEED = 100
"""Of the runs of a sweep: of none that is judged, so that no rate is judged by the luck it was chosen by."""


@dataclass(frozen=True, slots=True)
class SweptArm:
    """An arm and what its sweep found.

    Args:
        overrides: At the learning rate that scored best; of equal ones the lowest.
        rate: That rate.
        scores: The target's score at every rate, in points, on the questions of the validation split.
    """

    overrides: Sequence[str]
    rate: float
    scores: Mapping[float, float]


def sweep_arms(
    arms: Mapping[str, Sequence[str]],
    recipe: Mapping[str, Any],
    skill: str,
    multiples: Sequence[float],
    folder: Path,
    ui: Progress | None,
) -> dict[str, SweptArm]:
    """Train every arm at each multiple of its learning rate, by one seed and for the steps it will be judged after.

    Args:
        skill: Asked for validation: as many questions of it as the recipe has, after those that the verdict counts.
        folder: Of the claim; the sweep has one of its own in it.
    """
    from holdfast.pipeline.compare import compare

    plans = {label: spread_rates(overrides, recipe, multiples) for label, overrides in arms.items()}
    target = {
        "path": str(write_validation_file(folder / "validation.jsonl", skill, recipe["evaluate"]["items"])),
        "judge": {"name": "lab", "skill": skill},
    }
    swept_recipe = {**recipe, "evaluate": {**recipe["evaluate"], "target": target, "keep": ["none"]}}
    for num_left in reversed(range(1 + MAX_FURTHER_RATES)):
        flat = {f"{label} at {rate:g}": plan for label, rates in plans.items() for rate, plan in rates.items()}
        comparison = compare(swept_recipe, flat, seeds=[SEED], out=folder / "sweep", ui=ui)
        points = {run["method"]: float(run["target"]) for run in comparison["runs"]}
        scores = {label: {rate: points[f"{label} at {rate:g}"] for rate in rates} for label, rates in plans.items()}
        further = find_further_rates(scores, ui if num_left else None)
        if not further or not num_left:
            break
        for label, rate in further.items():
            plans[label][rate] = plan_rate(arms[label], recipe, rate)
    return {label: choose_rate(plans[label], of_arm) for label, of_arm in scores.items()}


def find_further_rates(
    gains: Mapping[str, Mapping[float, float]], ui: Progress | None, margin: float = MARGIN
) -> dict[str, float]:
    """Find for every arm that needs one the learning rate to try next (`find_rate_beyond`), and say so."""
    further = {label: rate for label, rates in gains.items() if (rate := find_rate_beyond(rates, margin)) is not None}
    if ui and further:
        texts = (f"{label} at {rate:g}" for label, rate in further.items())
        ui.write_line(f"gained most at the outermost learning rate, and goes on beyond it: {', '.join(texts)}")
    return further


def plan_rate(overrides: Sequence[str], recipe: Mapping[str, Any], rate: float) -> list[str]:
    """The overrides of an arm at a learning rate."""
    (own,) = spread_rates(overrides, recipe, (1,))
    (plan,) = spread_rates(overrides, recipe, (rate / own,)).values()
    return plan


def spread_rates(
    overrides: Sequence[str], recipe: Mapping[str, Any], multiples: Sequence[float]
) -> dict[float, list[str]]:
    """The overrides of an arm at every multiple of its learning rate; with stages, that of the last one."""
    from holdfast.recipe.loader import resolve_any

    own = resolve_any(dict(recipe), list(overrides)).recipe
    last = own.stages[-1] if own.stages else None
    rate = (last or own).optimizer.learning_rate
    key = f"stages.{last.name}.optimizer.learning_rate" if last else "optimizer.learning_rate"
    rates = sorted(float(f"{rate * multiple:g}") for multiple in multiples)
    return {at: [*overrides, f"{key}={at:g}"] for at in rates}


def write_validation_file(path: Path, skill: str, items: int) -> Path:
    """Write questions of a skill that come after those it is measured by, of which it has none."""
    from holdfast.skills.rows import FRESH, lab_rows

    rows = lab_rows(f"lab:{skill}", "test", 2 * items, FRESH)[items:]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.to_line() for row in rows), encoding="utf-8")
    return path


def choose_rate(plans: Mapping[float, Sequence[str]], scores: Mapping[float, float]) -> SweptArm:
    """The arm at the rate that scored best; of equal ones the lowest."""
    best = max(sorted(scores), key=lambda rate: scores[rate])
    return SweptArm(plans[best], best, scores)


def describe_arms(swept_arms: Mapping[str, SweptArm], runs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row for each arm, as of a figure: its learning rate, what the sweep found, the tokens it trained on."""
    rows = []
    for run in runs:
        arm = swept_arms[run["method"]]
        sweep = ", ".join(f"{rate:g}: {score:.1f}" for rate, score in sorted(arm.scores.items()))
        text = f"{arm.rate:g} (validation {sweep}); {describe_tokens(run)}"
        rows.append({"what": f"learning rate, {run['method']}", "paper": "", "ours": text, "low": None, "high": None})
    return rows


def describe_tokens(run: Mapping[str, Any]) -> str:
    """How many of the tokens that it read an arm trained on, in the mean of its seeds."""
    reports = [read_report(Path(folder) / "report.json") for folder in run["dirs"]]
    num_trained, num_read = (
        sum(report["training"][name] for report in reports) / len(reports) for name in ("trained_tokens", "tokens")
    )
    return f"{num_trained:,.0f} of {num_read:,.0f} tokens trained on"
