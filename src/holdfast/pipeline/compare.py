"""Several methods on the same work: same data, same budget of steps, same questions; one table, one report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.axes.axis import METHOD_AXES
from holdfast.core.files import remove_path
from holdfast.core.progress import Progress
from holdfast.errors import GateRefused, UserError
from holdfast.evaluation.answers import collect_answers
from holdfast.evaluation.summary import read_run, summarise_comparison
from holdfast.pipeline.budget import Budget, compute_budget, find_own_steps, take_epochs_of_arms
from holdfast.pipeline.comparability import find_doubts
from holdfast.pipeline.damage import read_report
from holdfast.pipeline.learning_rates import Families, build_arms_at_rates, compare_at_equal_gain
from holdfast.pipeline.phases import sample_rows_for_objective
from holdfast.pipeline.results import RunResult
from holdfast.pipeline.run_dir import (
    MARK,
    data_name,
    dependency_versions,
    describe_other_run,
    find_output_directories,
    free_name,
    move_aside,
    output_directory,
    replace_json,
)
from holdfast.pipeline.train import train
from holdfast.recipe.changes import list_differences, shorten_differences
from holdfast.recipe.loader import ResolvedRecipe, is_written, resolve_any, switch_method
from holdfast.recipe.schema import Recipe, Train
from holdfast.recipe.shorthand import label_of
from holdfast.report.arms import count_answers, mean_answering, mean_clipped
from holdfast.report.schema import CompareReport, validate_report

REPORT = "compare.json"
OF_ANSWERS = ("answer_seconds", "forward_passes", "questions")
COST_MEANS = ("tokens_per_second", "peak_memory_gib", "sampled_tokens", "sampled_for_training", *OF_ANSWERS)


def compare(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str | Path,
    methods: Sequence[str] | Mapping[str, Sequence[str]],
    *,
    seeds: int | Sequence[int] = 1,
    out: str | Path | None = None,
    steps: int | None = None,
    learning_rates: Sequence[float] = (),
    ui: Progress | None = None,
    restart: bool = False,
) -> dict[str, Any]:
    """Run every method with every seed and write `compare.json` and `report.html`.

    A recipe's gate is held against every run; `gate` of a method says whether all its seeds passed. A method that a
    stage's own gate stops is left out of `runs`; `refused` says why.

    Args:
        recipe: What the methods have in common.
        methods: Names (`s3ft`, `s3ft+half`), or labels with the overrides that make them: `{"dial": ["tuner=half"]}`.
        seeds: How many, or which.
        out: Directory; default: the recipe's `output`, with OUTPUT-compare where a run of the recipe alone is, or
            `runs/compare-DATA` where the recipe says none. Finished runs in it are not repeated.
        steps: Optimizer steps of every run but of methods that set `train.max_steps` themselves; default: what the
            recipe's epochs take on the untouched rows.
        learning_rates: Run every method at each of these, and compare what is lost where all have gained the same
            (`matched`).
        ui: Where progress is shown.
        restart: Begin anew where the directory holds a comparison, which is kept as `DIRECTORY.old-1`.
    Returns:
        The content of `compare.json`, and its `directory`.
    Raises:
        UserError: If the directory holds a comparison of another recipe, with what differs.
        GateRefused: If stages' own gates stopped every method.
    """
    ui, resolved_recipe = ui or Progress.create_silent(), resolve_any(recipe)
    if not methods:
        raise UserError("--methods: name at least one method")
    arms = _build_arms(resolved_recipe, methods)
    families: Families = {}
    if learning_rates:
        arms, families = build_arms_at_rates(arms, learning_rates)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise UserError("--seeds: at least one seed")
    refuse_own_settings(arms, resolved_recipe.recipe)
    check_arms(arms)
    root = Path(out).expanduser() if out else comparison_directory(resolved_recipe.recipe)
    if restart and holds_comparison(root):
        ui.write_line(f"{root}: begun anew; the comparison that was there is now {move_aside(root)}")
    plans, budget = _plan_runs(resolved_recipe, arms, chosen, steps, root)
    refuse_other_comparison(root, resolved_recipe.recipe, [plan for _, _, plan in plans])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); set another output") from error
    runs: dict[str, list[tuple[int, RunResult]]] = {label: [] for label in arms}
    refusals: dict[str, list[str]] = {}
    for number, (label, seed, plan) in enumerate(plans, 1):
        ui.close()  # the last line of what was before comes first
        ui.write_line(f"{label}, seed {seed} ({number} of {len(plans)})")
        try:
            runs[label].append((seed, train(plan, ui=ui)))
            drop_checkpoints(plan.recipe)
        except GateRefused as error:  # of a stage: what comes after it was not run, so there is nothing to compare
            refusals.setdefault(label, []).append(f"seed {seed}, {error}")
            ui.write_line(f"{label}, seed {seed}: {error}")
    runs = {label: group for label, group in runs.items() if label not in refusals}
    if not runs:
        raise GateRefused("; ".join(f"{label}: {reason}" for label, reasons in refusals.items() for reason in reasons))
    report = summarise_runs(resolved_recipe.recipe, runs, budget, root, refusals, families)
    from holdfast.report.html import render_compare, write_page

    write_page(root / "report.html", render_compare(report))
    return {**report, "directory": str(root)}


def drop_checkpoints(recipe: Recipe) -> None:
    """Free the disk of what a finished run no longer resumes from: several times its model, for every arm and seed.

    A run that was stopped early goes on from there, and a recipe that asks for more than one checkpoint wants them.
    """
    if recipe.train.keep_checkpoints == 1 and recipe.train.stop_at == 1:
        run = Path(recipe.output)
        for checkpoints in (run / "checkpoints", *run.glob("stages/*/checkpoints")):
            remove_path(checkpoints)


def comparison_directory(recipe: Recipe) -> Path:
    """Where a comparison goes by its recipe: `output`, beside a run that is there already, or `runs/compare-DATA`.

    In `output`, {method} stands for "compare"; {time} for that of the newest comparison that is not finished.
    """
    if "output" not in recipe.model_fields_set:
        return Path(f"runs/compare-{data_name(recipe)}")
    path = output_directory(recipe, method="compare")
    if "{time}" in recipe.output:
        comparisons = [p for p in find_output_directories(recipe, method="compare") if holds_comparison(p)]
        path = next((p for p in comparisons if not (p / REPORT).exists()), path)
    return path if not (path / MARK).exists() else path.with_name(f"{path.name}-compare")


def holds_comparison(root: Path) -> bool:
    """Whether there is a comparison in a directory, finished or begun."""
    return (root / REPORT).exists() or (not (root / MARK).exists() and any(root.glob(f"*/{MARK}")))


def refuse_other_comparison(root: Path, recipe: Recipe, plans: Sequence[ResolvedRecipe]) -> None:
    """Stop where a directory holds a comparison of another recipe, before anything is written.

    Raises:
        UserError: With what differs.
    """
    if root.exists() and not root.is_dir():
        raise UserError(f"{root}: is a file, and a comparison needs a directory; set another output, or move it away")
    if (root / MARK).exists():
        raise UserError(f"{root}: holds a run; a comparison needs a directory of its own, set another --out")
    end = f"; set another output (or --out), or add --restart, which keeps the old ones as {free_name(root)}"
    for plan in plans:
        path = Path(plan.recipe.output)
        if text := describe_other_run(path, plan.recipe):
            raise UserError(f"{root}: holds another comparison, whose run {path.name} is {text}{end}")
    if (root / REPORT).exists():
        changes = [text for text in list_differences(recipe, _read_common_recipe(root)) if not _is_method_setting(text)]
        if changes:
            raise UserError(f"{root}: holds another comparison: {shorten_differences(changes)}{end}")


def _is_method_setting(difference: str) -> bool:
    """Whether a setting is one that methods choose themselves."""
    return re.split(r"[. ]", difference, maxsplit=1)[0] in {"method", "stages", *METHOD_AXES}


def _read_common_recipe(root: Path) -> Recipe:
    """The recipe of the comparison in a directory."""
    recipe_data = read_report(root / REPORT).get("recipe")
    try:
        return Recipe.model_validate(recipe_data)
    except ValidationError as error:
        raise UserError(
            f"{root / REPORT}: its recipe cannot be read, an older version may have written it; set another output"
        ) from error


def join_gates(seeds: Sequence[int], reports: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Whether the runs of all seeds passed the recipe's gate, and why not; `None` without a gate."""
    gates = [(seed, report["gate"]) for seed, report in zip(seeds, reports, strict=True) if report.get("gate")]
    if not gates:
        return None
    reasons = [f"seed {seed}: {reason}" for seed, gate in gates for reason in gate["reasons"]]
    return {"passed": all(gate["passed"] for _, gate in gates), "reasons": reasons}


def _build_arms(
    resolved_recipe: ResolvedRecipe, methods: Sequence[str] | Mapping[str, Sequence[str]]
) -> dict[str, ResolvedRecipe]:
    """The recipe of every arm. A named method chooses its own axes, whatever the common recipe says of them."""
    if isinstance(methods, Mapping):
        return {label: resolve_any(resolved_recipe, overrides) for label, overrides in methods.items()}
    labels = [label_of(name) for name in methods]
    if len(set(labels)) < len(set(methods)):  # two classes of one name
        labels = [name.replace(":", ".") for name in methods]
    return {
        label: switch_method(resolved_recipe, name, among=methods) for label, name in zip(labels, methods, strict=True)
    }


OF_COMPARISON = {
    "train.epochs": "all of a comparison take as many steps, unless one sets train.max_steps",
    "train.seed": "--seeds says which seeds all of them have",
    "output": "--out says where all of them go",
}
"""What every run of a comparison is given, and what to set instead of it."""


def check_arms(arms: Mapping[str, ResolvedRecipe]) -> None:
    """Open every arm's rows, so that none is refused after another has trained.

    Raises:
        UserError: What the arm would raise in its turn; it names the arm.
    """
    from holdfast.pipeline.multi_stage import check_stages
    from holdfast.pipeline.sources import read_sources

    ignore = lambda text: None  # noqa: E731
    for label, arm in arms.items():
        try:
            require_measurement(arm.recipe)
            if arm.recipe.stages:
                check_stages(arm)
            else:
                sources = read_sources(arm.recipe, ignore, ignore)
                if arm.recipe.credit is None:  # online there are prompts alone
                    sample_rows_for_objective(arm.recipe, sources.train)
        except UserError as error:
            raise UserError(f"{label}: {error}") from error


def refuse_own_settings(arms: Mapping[str, ResolvedRecipe], recipe: Recipe) -> None:
    """Refuse what an arm sets for itself and every run of a comparison is given.

    Args:
        recipe: What the arms have in common.
    Raises:
        UserError: With the arm, the setting and what to set instead.
    """
    for label, arm in arms.items():
        train, common = arm.recipe.train, recipe.train
        own = {"train.epochs": train.epochs != common.epochs, "train.seed": train.seed != common.seed}
        own["output"] = arm.recipe.output != recipe.output
        for key, is_own in own.items():
            if is_own and is_written(arm.sources.get(key, "default")):
                raise UserError(f"{label}: {key} is not an arm's own; {OF_COMPARISON[key]}")


def require_measurement(recipe: Recipe) -> None:
    """See that something is measured, without which there is nothing to compare.

    Raises:
        UserError: With what to add.
    """
    evaluate = recipe.evaluate
    if evaluate.target == "none" and not [name for name in evaluate.keep if name != "none"]:
        raise UserError(
            "nothing is measured (evaluate.target: none, evaluate.keep: []), so there is nothing to compare; add "
            "evaluate.keep: [probe], which works for any model, or an evaluate.target"
        )


def _plan_runs(
    resolved_recipe: ResolvedRecipe,
    arms: Mapping[str, ResolvedRecipe],
    seeds: Sequence[int],
    steps: int | None,
    root: Path,
) -> tuple[list[tuple[str, int, ResolvedRecipe]], str]:
    """Label, seed and recipe of every run, and what they are given in words."""
    budget = compute_budget(take_epochs_of_arms(resolved_recipe, arms), steps)
    own_steps = find_own_steps(arms, resolved_recipe.recipe)
    budgets = {label: replace(budget, steps=own_steps.get(label, budget.steps)) for label in arms}
    plans = [
        (label, seed, _plan_run(arm, label, seed, budgets[label], root))
        for label, arm in arms.items()
        for seed in seeds
    ]
    return plans, "; ".join([str(budget), *(f"{label}: {n:,} steps" for label, n in own_steps.items())])


def _plan_run(arm: ResolvedRecipe, label: str, seed: int, budget: Budget, root: Path) -> ResolvedRecipe:
    """One run: the arm with its seed, the common budget and a directory of its own. Stages share the budget."""
    folder = root / f"{label.replace(' ', '-')}-seed{seed}"
    settings = [f"output={folder}"]
    if arm.recipe.stages:
        shares = _split_steps(arm.recipe, budget.steps)
        for number, (stage, steps) in enumerate(zip(arm.recipe.stages, shares, strict=True)):
            settings += _budget_overrides(f"stages.{number}.train", stage.train, seed, replace(budget, steps=steps))
    elif arm.recipe.credit is not None:  # rounds are its budget
        settings += [f"train.seed={seed}"]
    else:
        settings += _budget_overrides("train", arm.recipe.train, seed, budget)
    return replace(resolve_any(arm, settings), notes=())  # what the recipe says of its steps is not what runs here


def _budget_overrides(key: str, train: Train, seed: int, budget: Budget) -> list[str]:
    """Overrides of `train`; a size of steps that an arm gives itself stays."""
    size = [f"{key}.batch_tokens={budget.batch_tokens}"] if train.batch_tokens == "auto" else []
    steps = 0 if train.max_steps == 0 else budget.steps  # what trains nothing has no use for a budget
    return [f"{key}.seed={seed}", f"{key}.max_steps={steps}", *size]


def _split_steps(recipe: Recipe, steps: int) -> list[int]:
    """The steps of each stage: in the proportion of their `max_steps` where all have one, else alike."""
    step_limits = [stage.train.max_steps or 0 for stage in recipe.stages]
    weights = step_limits if all(step_limits) else [1] * len(step_limits)
    ends = [round(steps * sum(weights[: i + 1]) / sum(weights)) for i in range(len(weights))]
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def summarise_runs(
    recipe: Recipe,
    runs: Mapping[str, list[tuple[int, RunResult]]],
    budget: str,
    root: Path,
    refusals: Mapping[str, Sequence[str]],
    families: Families,
) -> dict[str, Any]:
    """`compare.json`: measurements of all runs, what they cost, and where their rows came from.

    Args:
        refusals: Methods that a stage's own gate stopped, and why.
        families: Of each arm its method and learning rate, where methods run at several.
    """
    items = {label: [read_run(run.path, seed) for seed, run in group] for label, group in runs.items()}
    summary = summarise_comparison(items)
    for entry in summary["runs"]:
        reports = [run.report for _, run in runs[entry["method"]]]
        origins: Counter[str] = Counter()
        for report in reports:
            origins.update(report["curation"]["counts"])
        entry["gate"] = join_gates([seed for seed, _ in runs[entry["method"]]], reports)
        entry["dirs"] = [str(run.path) for _, run in runs[entry["method"]]]
        entry["origins"] = {k: v / len(reports) for k, v in origins.items()}
        entry["cost"] = _mean_cost(reports)
        entry["inference"] = ((reports[0].get("recipe") or {}).get("inference") or {}).get("name")
        entry["trainable"] = (reports[0].get("model") or {}).get("trainable")
        entry["curves"] = [report["curves"] for report in reports]
        entry["steps"] = [report["training"]["steps"] for report in reports]
        entry["stopped_early"] = any(report["training"].get("stopped_early") for report in reports)
        if entry["method"] in families:
            entry["of"] = dict(zip(("method", "learning_rate"), families[entry["method"]], strict=True))
        entry["doubts"] = find_doubts(entry, reports)
        entry["answers"], entry["clipped"] = count_answers(reports, "tuned"), mean_clipped(reports)
        if answering := mean_answering(reports):
            entry["answering"] = answering
        entry["kept_steps"] = [report["training"].get("kept_step") for report in reports]
    first = next(iter(runs.values()))[0][1].report
    content = {
        "name": root.name,
        "created": first["created"],
        "recipe": recipe.model_dump(mode="json"),
        "budget": budget,
        "versions": dependency_versions(),
        "model": first["model"],
        "base_answers": count_answers([first], "base"),
        "refused": {label: list(reasons) for label, reasons in refusals.items()},
        **summary,
        "matched": compare_at_equal_gain(items, families, [task["name"] for task in summary["tasks"]]),
        "answers": collect_answers({label: seeds[0] for label, seeds in items.items()}),
    }
    report = validate_report(CompareReport, content)
    replace_json(root / REPORT, report)
    return report


def _mean_cost(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    costs = [report["cost"] for report in reports]
    phases = {name for cost in costs for name in cost["seconds"]}
    mean = {
        key: sum(cost.get(key, 0) for cost in costs) / len(costs)
        for key in COST_MEANS
        if key in costs[0] or key not in OF_ANSWERS
    }
    return {"seconds": {p: sum(c["seconds"].get(p, 0.0) for c in costs) / len(costs) for p in sorted(phases)}, **mean}
