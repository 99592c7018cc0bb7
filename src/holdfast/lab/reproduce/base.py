"""What a reproduction is made of: arms that differ in one choice, and the figures the paper's claim is about."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from holdfast.core.progress import Progress
from holdfast.data.rows import Row, fingerprint_json
from holdfast.evaluation.statistics.verdicts import MARGIN
from holdfast.lab.reproduce.rule import (
    Arm,
    Expectation,
    StudyExpectation,
    arms_of,
    compute_gains,
    decide_expectation,
    decide_study,
    find_edge,
    outcome_of_all,
    student_interval,
)
from holdfast.lab.reproduce.sweep import (
    MAX_FURTHER_RATES,
    SweptArm,
    describe_arms,
    find_further_rates,
    plan_rate,
    spread_rates,
    sweep_arms,
)
from holdfast.pipeline.run_dir import dependency_versions, replace_json

COMMON: dict[str, Any] = {
    "model": "lab",
    "data": {"train": "lab:story", "limit": 1000},
    "optimizer": {"learning_rate": 1e-3, "clip": "running", "max_grad_norm": 2},
    "sampling": {"max_tokens": 80},
    "train": {"batch_tokens": 2048, "max_steps": 120},
    "evaluate": {"items": 200, "every": 0, "max_tokens": 80},
}
"""The work all reproductions share unless their claim says otherwise, so that arms they have in common are run once.

Gradients are clipped at twice the running mean of their norms: a fixed norm cuts losses of another scale (sums, token
means, sigmoids) more often or less, which is another learning rate for each method.
"""

RATES = (0.3, 1, 2)
"""At 1e-3 SFT on the whole answers has half learned the new manner, at 2e-3 all of it; what is lost goes with that."""
HIGH_RATES = (1, 2, 3)
"""For what moves the weights less than SFT does at the same rate."""

REPLAY_SHARE = 0.1
REHEARSAL = f"data.replay={{path: lab, share: {REPLAY_SHARE}}}"
"""Override of an arm that rehearses rows of the laboratory; on a work of one's own those of its `data.replay`."""

WIDE_RATES = (0.3, 1, 3)
"""For tuners, of which each has a rate of its own to begin with."""

FIXED_CLIPPING = ("optimizer.clip=fixed", "optimizer.max_grad_norm=1")
"""For arms that need every step cut to one norm."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of a reproduction: what the paper measured, and where ours is found.

    Args:
        what: The quantity, in words.
        paper: The paper's number.
        ours: From the comparison's arms (label to entry of `compare.json`) to `(text, low, high)`.
    """

    what: str
    paper: str
    ours: Callable[[Mapping[str, dict[str, Any]]], tuple[str, float | None, float | None]]


@dataclass(frozen=True, slots=True)
class ArmChange:
    """What an arm changed, as a figure's `ours`: "gain" on the target, "loss" elsewhere, or one of the "tasks"."""

    label: str
    of: Literal["gain", "loss", "tasks"]
    task: str = ""

    def __call__(self, arms: Mapping[str, dict[str, Any]]) -> tuple[str, float | None, float | None]:
        part = arms[self.label][self.of]
        if part is None:  # a work of one's own that keeps nothing
            return "not measured", None, None
        return _format_change(part[self.task] if self.of == "tasks" else part)


def gain_and_loss(arms: Mapping[str, str]) -> tuple[Figure, ...]:
    """What each arm gained on the target and lost elsewhere; the paper's number of each beside it."""
    return (
        *(Figure(f"target, {arm}", paper, gain_of(arm)) for arm, paper in arms.items()),
        *(Figure(f"lost elsewhere, {arm}", "not measured", loss_of(arm)) for arm in arms),
    )


def write_rows(path: Path, rows: Iterable[Row]) -> str:
    """Write the rows of a claim as JSON lines; the path, as a recipe names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(row.to_line() for row in rows), encoding="utf-8")
    return str(path)


def write_records(path: Path, records: Iterable[Mapping[str, Any]]) -> str:
    """Write what is no row, or not yet, as JSON lines; the path, as a recipe names it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8", newline="\n")
    return str(path)


def describe_gains_and_losses(arms: Mapping[str, dict[str, Any]]) -> str:
    """What each arm gained on the target and lost elsewhere, in one sentence."""
    each = (
        f"{label} gained {points_gained(arms, label):.1f}"
        + (f" and lost {points_lost(arms, label):.1f} points" if arms[label]["loss"] else " points")
        for label in arms
    )
    return "; ".join(each) + "."


def verdict_with_remark(text: str) -> Callable[[Mapping[str, dict[str, Any]]], str]:
    """The same, and what else there is to say."""
    return lambda arms: f"{describe_gains_and_losses(arms)} {text}"


@dataclass(frozen=True, slots=True)
class Claim:
    """A paper's claim and how it is tested here.

    Args:
        claim: In one sentence.
        paper: Authors, year, arXiv number.
        arms: Label to recipe overrides.
        figures: What is shown.
        expects: The parts of the claim, each decided by the one rule (`rule.weigh`); all must hold.
        verdict: What else to say of the result in words, from the same arms.
        margin: In points: what smaller a difference counts as none.
        rates: Multiples of its own learning rate that an arm runs at too, where a part is decided at equal gain or
            at the best rate; with `validation`, that it is swept over.
        rates_of_arms: More such multiples of single arms.
        validation: A skill; every arm is judged at the learning rate that a sweep on other questions of it chose.
        common: What differs from `COMMON`, as a nested mapping.
        draw: Figures of the claim's page as data (`report.section_plots`), from the same arms.
        files: Writes what the arms need into a directory; gives what that changes in the recipe. In the arms' overrides
            {files} stands for the directory.
    """

    claim: str
    paper: str
    arms: Mapping[str, Sequence[str]]
    figures: Sequence[Figure]
    expects: Sequence[Expectation]
    verdict: Callable[[Mapping[str, dict[str, Any]]], str] = field(default=describe_gains_and_losses)
    margin: float = MARGIN
    rates: Sequence[float] = ()
    rates_of_arms: Mapping[str, Sequence[float]] = field(default_factory=dict)
    validation: str | None = None
    common: Mapping[str, Any] = field(default_factory=dict)
    draw: Callable[[Mapping[str, dict[str, Any]]], list[dict[str, Any]]] | None = None
    files: Callable[[Path], Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Study:
    """A claim tested by a programme of its own: on a table of probabilities, or on models that it trains and asks.

    Args:
        claim: In one sentence.
        paper: Authors, year, arXiv number.
        measure: From a seed to named quantities. One that can be asked of another model and other rows takes their
            recipe too, as `work`.
        figures: What is shown: in words, the paper's number, the quantity; those that were not measured are left out.
        expects: The parts of the claim, each decided over the seeds (`rule.read`); all must hold.
        verdict: What to say of the result in words, from the same.
        seeds: How many at least.
        asks_kept: Whether it asks what is lost elsewhere, so that another work must keep something.
    """

    claim: str
    paper: str
    measure: Callable[..., dict[str, float]]
    figures: Sequence[tuple[str, str, str]]
    expects: Sequence[StudyExpectation]
    verdict: Callable[[Mapping[str, list[float]]], str] = field(default=lambda values: "")
    seeds: int = 5
    asks_kept: bool = False


def run_claim(name: str, claim: Claim | Study, *, seeds: int, out: Path, ui: Progress | None) -> dict[str, Any]:
    """Test the claim and weigh it; the result is also written to `out/NAME.json`, and as a page to `out/NAME.html`."""
    if isinstance(claim, Study):
        return write_result(out, name, claim, run_study(claim, seeds, out / f"{name}.seeds.json", ui))
    recipe, folder = merge_settings(COMMON, claim.common), out / folder_of(name, claim)
    settings = fingerprint_settings(claim)
    if claim.files is not None:
        recipe = merge_settings(recipe, claim.files(folder / "data"))
        claim = replace(claim, arms=name_files(claim.arms, folder / "data"))
    result, _ = run_arms(claim, recipe, seeds=seeds, folder=folder, ui=ui)
    return write_result(out, name, claim, {**result, "settings": settings})


def write_result(out: Path, name: str, claim: Claim | Study, result: Mapping[str, Any]) -> dict[str, Any]:
    """Write what came out as `out/NAME.json`, and as a page; the same with the claim's own words."""
    from holdfast.report.html import write_page
    from holdfast.report.reproduction_page import render_reproduction

    complete_result = {"name": name, "claim": claim.claim, "paper": claim.paper, **result}
    out.mkdir(parents=True, exist_ok=True)
    replace_json(out / f"{name}.json", complete_result)
    write_page(out / f"{name}.html", render_reproduction(complete_result))
    return complete_result


def run_study(study: Study, seeds: int, record: Path, ui: Progress | None = None) -> dict[str, Any]:
    """Measure with every seed; intervals are 95 % of the mean over seeds (Student).

    Args:
        record: File of the seeds that are measured, while there are more to come: broken off and repeated it goes
            on with the next. One that another program's code made is not read.
    """
    if ui and seeds < study.seeds:
        ui.write_line(f"{study.seeds} seeds: with fewer the interval of this claim says nothing")
    seeds = max(seeds, study.seeds)
    code = fingerprint_code(study.measure)
    done: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    by_seed: list[dict[str, float]] = done["seeds"][:seeds] if done.get("code") == code else []
    if ui:
        ui.start_phase("measure", seeds)
        ui.advance(len(by_seed))
    for seed in range(len(by_seed), seeds):
        by_seed.append({quantity: float(value) for quantity, value in study.measure(seed).items()})
        record.parent.mkdir(parents=True, exist_ok=True)
        replace_json(record, {"code": code, "seeds": by_seed})
        if ui:
            ui.advance()
    record.unlink(missing_ok=True)
    measurements = {quantity: [values[quantity] for values in by_seed] for quantity in by_seed[0]}
    rows = []
    for what, paper, quantity in study.figures:
        if quantity not in measurements:
            continue
        mean, low, high = student_interval(measurements[quantity])
        rows.append({"what": what, "paper": paper, "ours": f"{mean:.3g}", "low": low, "high": high})
    checks = decide_study(study.expects, measurements)
    return {
        "rows": rows, **decide_claim(checks), "verdict": study.verdict(measurements), "seeds": seeds,
        "budget": "by its own programme, anew with every seed", "points": False, "versions": dependency_versions(),
    }  # fmt: skip


def fingerprint_code(measure: Callable[..., Any]) -> str:
    """Of the file in which a study's programme is written."""
    while isinstance(measure, partial):
        measure = measure.func
    return hashlib.sha256(Path(inspect.getfile(measure)).read_bytes()).hexdigest()


def run_arms(
    claim: Claim, recipe: dict[str, Any], *, seeds: int, folder: Path, ui: Progress | None = None
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Run the arms on the work of a recipe, with every seed, and decide the parts of the claim.

    Args:
        recipe: What the arms have in common.
        folder: Where the runs go; those that are finished there are not repeated.
    Returns:
        What came out, and the comparison's entry of every arm.
    """
    swept_arms: dict[str, SweptArm] = {}
    if claim.validation:
        swept_arms = sweep_arms(claim.arms, recipe, claim.validation, claim.rates, folder, ui)
        claim = replace(claim, arms={label: arm.overrides for label, arm in swept_arms.items()})
    comparison, arms_by_label = compare_at_rates(claim, recipe, seeds=seeds, folder=folder, ui=ui)
    arms = {run["method"]: run for run in comparison["runs"]}
    rows = []
    for figure in claim.figures:
        text, low, high = figure.ours(arms)
        rows.append({"what": figure.what, "paper": figure.paper, "ours": text, "low": low, "high": high})
    rows += describe_arms(swept_arms, comparison["runs"]) if swept_arms else []
    for label, swept in swept_arms.items():
        arm = arms_by_label[label]
        arms_by_label[label] = replace(arm, doubts={**arm.doubts, **find_edge(swept.scores, claim.margin)})
    checks = [decide_expectation(part, arms_by_label, claim.margin) for part in claim.expects]
    result = {
        "rows": rows, **decide_claim(checks), "verdict": claim.verdict(arms), "seeds": seeds,
        "budget": comparison["budget"], "points": True, "versions": comparison["versions"],
        "plots": claim.draw(arms) if claim.draw else [], "comparison": f"{folder.name}/report.html",
    }  # fmt: skip
    return result, comparison["runs"]


def compare_at_rates(
    claim: Claim, recipe: dict[str, Any], *, seeds: int, folder: Path, ui: Progress | None
) -> tuple[dict[str, Any], dict[str, Arm]]:
    """Run every arm at the learning rates that the claim asks, and beyond them while it gains most at the outermost.

    "At its best rate" is else "at the highest that somebody thought of", and the arm that needs more looks worse.

    Returns:
        The comparison, and the arms as the rule reads them.
    """
    from holdfast.pipeline.compare import compare

    plans, families = plans_of(claim, recipe)
    best_rate_arms = {name for part in claim.expects if part.at == "best" for name in (part.arm, part.than) if name}
    asked_rates = {label: frozenset(rates) for label, rates in families.items()}
    for num_left in reversed(range(1 + MAX_FURTHER_RATES)):
        comparison = compare(recipe, plans, seeds=seeds, out=folder, ui=ui)
        arms = arms_of(comparison["runs"], families)
        gains = {label: compute_gains(arms[label]) for label in sorted(best_rate_arms)}
        further = find_further_rates(gains, ui if num_left else None, claim.margin)
        if not further or not num_left:
            break
        for label, rate in further.items():
            families[label][rate] = f"{label} at {rate:g}"
            plans[families[label][rate]] = plan_rate(claim.arms[label], recipe, rate)
    for label, rates in asked_rates.items():
        arms[label] = replace(arms[label], further=frozenset(arms[label].at_rates) - rates)
    return comparison, arms


def fingerprint_settings(claim: Claim) -> str:
    """A name of what a claim runs, by which a recorded result is known to be of these settings or of older ones."""
    return fingerprint_json(
        [merge_settings(COMMON, claim.common), claim.arms, claim.rates, claim.validation, claim.files is not None]
    )[:16]


def name_files(arms: Mapping[str, Sequence[str]], folder: Path) -> dict[str, list[str]]:
    """The overrides of every arm with the directory of the claim's files where {files} stands."""
    return {label: [text.replace("{files}", str(folder)) for text in overrides] for label, overrides in arms.items()}


def folder_of(name: str, claim: Claim) -> str:
    """The directory of a claim's runs: one for all claims on the same work, so that an arm they share is run once."""
    if claim.files is not None:
        return name
    return f"shared-{fingerprint_json(claim.common)[:8]}" if claim.common else "shared"


def plans_of(claim: Claim, recipe: dict[str, Any]) -> tuple[dict[str, Sequence[str]], dict[str, dict[float, str]]]:
    """The arms to run, and of each that is compared at equal gain its label at every learning rate."""
    plans: dict[str, Sequence[str]] = dict(claim.arms)
    families: dict[str, dict[float, str]] = {}
    multi_rate_arms = {
        name for part in claim.expects if part.at in ("best", "gain", "front") for name in (part.arm, part.than) if name
    }
    for label in sorted(multi_rate_arms):
        (own,) = spread_rates(claim.arms[label], recipe, (1,))
        families[label] = {own: label}
        multiples = (*claim.rates, *claim.rates_of_arms.get(label, ()))
        for rate, overrides in spread_rates(claim.arms[label], recipe, multiples).items():
            if rate != own:
                families[label][rate] = f"{label} at {rate:g}"
                plans[families[label][rate]] = overrides
    return plans, families


def decide_claim(checks: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The outcome of a claim, its parts, and for older readers whether it held."""
    outcome = outcome_of_all(checks)
    return {"outcome": outcome, "held": outcome == "held", "checks": list(checks)}


def merge_settings(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    out = deepcopy(dict(base))
    for key, value in changes.items():
        out[key] = merge_settings(out.get(key, {}), value) if isinstance(value, Mapping) else value
    return out


def gain_of(label: str) -> ArmChange:
    """Gain on the target of one arm, with its interval."""
    return ArmChange(label, "gain")


def loss_of(label: str) -> ArmChange:
    """Mean loss elsewhere of one arm, with its interval."""
    return ArmChange(label, "loss")


def task_change_of(label: str, name: str) -> ArmChange:
    """Change of one task in one arm, with its interval."""
    return ArmChange(label, "tasks", name)


def _format_change(part: Mapping[str, float]) -> tuple[str, float, float]:
    return f"{part['delta']:+.1f}", part["low"], part["high"]


def points_lost(arms: Mapping[str, dict[str, Any]], label: str) -> float:
    """Points lost elsewhere."""
    return arms[label]["loss"]["delta"]


def points_gained(arms: Mapping[str, dict[str, Any]], label: str) -> float:
    """Points gained on the target."""
    return arms[label]["gain"]["delta"]
