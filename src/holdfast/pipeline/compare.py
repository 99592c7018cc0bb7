"""Several methods on the same work: same data, same budget of steps, same questions; one table, one report."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from holdfast.axes.axis import METHOD_AXES
from holdfast.core.progress import Progress
from holdfast.errors import GateRefused, UserError
from holdfast.evaluation.answers import side_by_side
from holdfast.evaluation.summary import compare_summary, read_run
from holdfast.pipeline.comparability import doubts
from holdfast.pipeline.damage import read_report
from holdfast.pipeline.learning_rates import Families, at_rates, matched
from holdfast.pipeline.phases import before_curation, encode, trained
from holdfast.pipeline.results import Run
from holdfast.pipeline.run_dir import (
    MARK,
    data_name,
    free_name,
    held_by,
    move_aside,
    output_of,
    outputs_of,
    replace_json,
    versions,
)
from holdfast.pipeline.train import train
from holdfast.recipe.changes import differences, in_short
from holdfast.recipe.loader import Resolved, as_resolved, for_method, is_written
from holdfast.recipe.schema import Recipe, Train
from holdfast.recipe.shorthand import label_of
from holdfast.report.arms import count_answers, mean_clipped
from holdfast.report.schema import CompareReport, write_as

REPORT = "compare.json"


def compare(
    recipe: Resolved | Recipe | dict[str, Any] | str | Path,
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
        steps: Optimizer steps of every run; default: what the recipe's epochs take on the untouched rows.
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
    ui, resolved = ui or Progress.silent(), as_resolved(recipe)
    if not methods:
        raise UserError("--methods: name at least one method")
    arms = _arms(resolved, methods)
    families: Families = {}
    if learning_rates:
        arms, families = at_rates(arms, learning_rates)
    chosen = list(range(seeds)) if isinstance(seeds, int) else list(seeds)
    if not chosen:
        raise UserError("--seeds: at least one seed")
    look_over_arms(arms)
    root = Path(out).expanduser() if out else directory_of(resolved.recipe)
    if restart and holds_comparison(root):
        ui.line(f"{root}: begun anew; the comparison that was there is now {move_aside(root)}")
    budget = budget_of(with_epochs_of(resolved, arms), steps)
    plans = [(label, seed, _plan(arm, label, seed, budget, root)) for label, arm in arms.items() for seed in chosen]
    refuse_another(root, resolved.recipe, [plan for _, _, plan in plans])
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{root}: cannot be written ({error.strerror}); set another output") from error
    runs: dict[str, list[tuple[int, Run]]] = {label: [] for label in arms}
    refused: dict[str, list[str]] = {}
    for number, (label, seed, plan) in enumerate(plans, 1):
        ui.close()  # the last line of what was before comes first
        ui.line(f"{label}, seed {seed} ({number} of {len(plans)})")
        try:
            runs[label].append((seed, train(plan, ui=ui)))
        except GateRefused as error:  # of a stage: what comes after it was not run, so there is nothing to compare
            refused.setdefault(label, []).append(f"seed {seed}, {error}")
            ui.line(f"{label}, seed {seed}: {error}")
    runs = {label: group for label, group in runs.items() if label not in refused}
    if not runs:
        raise GateRefused("; ".join(f"{label}: {reason}" for label, told in refused.items() for reason in told))
    report = summarise_runs(resolved.recipe, runs, budget, root, refused, families)
    from holdfast.report.html import render_compare, write_page

    write_page(root / "report.html", render_compare(report))
    return {**report, "directory": str(root)}


def directory_of(recipe: Recipe) -> Path:
    """Where a comparison goes by its recipe: `output`, beside a run that is there already, or `runs/compare-DATA`.

    In `output`, {method} stands for "compare"; {time} for that of the newest comparison that is not finished.
    """
    if "output" not in recipe.model_fields_set:
        return Path(f"runs/compare-{data_name(recipe)}")
    path = output_of(recipe, method="compare")
    if "{time}" in recipe.output:
        begun = [p for p in outputs_of(recipe, method="compare") if holds_comparison(p)]
        path = next((p for p in begun if not (p / REPORT).exists()), path)
    return path if not (path / MARK).exists() else path.with_name(f"{path.name}-compare")


def holds_comparison(root: Path) -> bool:
    """Whether there is a comparison in a directory, finished or begun."""
    return (root / REPORT).exists() or (not (root / MARK).exists() and any(root.glob(f"*/{MARK}")))


def refuse_another(root: Path, recipe: Recipe, plans: Sequence[Resolved]) -> None:
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
        if text := held_by(path, plan.recipe):
            raise UserError(f"{root}: holds another comparison, whose run {path.name} is {text}{end}")
    if (root / REPORT).exists():
        changed = [text for text in differences(recipe, _common(root)) if not _varied(text)]
        if changed:
            raise UserError(f"{root}: holds another comparison: {in_short(changed)}{end}")


def _varied(difference: str) -> bool:
    """Whether a setting is one that methods choose themselves."""
    return re.split(r"[. ]", difference, maxsplit=1)[0] in {"method", "stages", *METHOD_AXES}


def _common(root: Path) -> Recipe:
    """The recipe of the comparison in a directory."""
    known = read_report(root / REPORT).get("recipe")
    try:
        return Recipe.model_validate(known)
    except ValidationError as error:
        raise UserError(
            f"{root / REPORT}: its recipe cannot be read, an older version may have written it; set another output"
        ) from error


def gate_of(seeds: Sequence[int], reports: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Whether the runs of all seeds passed the recipe's gate, and why not; `None` without a gate."""
    found = [(seed, report["gate"]) for seed, report in zip(seeds, reports, strict=True) if report.get("gate")]
    if not found:
        return None
    reasons = [f"seed {seed}: {reason}" for seed, gate in found for reason in gate["reasons"]]
    return {"passed": all(gate["passed"] for _, gate in found), "reasons": reasons}


def _arms(resolved: Resolved, methods: Sequence[str] | Mapping[str, Sequence[str]]) -> dict[str, Resolved]:
    """The recipe of every arm. A named method chooses its own axes, whatever the common recipe says of them."""
    if isinstance(methods, Mapping):
        return {label: as_resolved(resolved, overrides) for label, overrides in methods.items()}
    labels = [label_of(name) for name in methods]
    if len(set(labels)) < len(set(methods)):  # two classes of one name
        labels = [name.replace(":", ".") for name in methods]
    return {label: for_method(resolved, name, among=methods) for label, name in zip(labels, methods, strict=True)}


@dataclass(frozen=True, slots=True)
class Budget:
    """What every method gets: a number of steps, each of so many tokens."""

    steps: int
    batch_tokens: int

    def __str__(self) -> str:
        return f"{self.steps} steps of {self.batch_tokens:,} tokens"


def look_over_arms(arms: Mapping[str, Resolved]) -> None:
    """Open every arm's rows, so that none is refused after another has trained.

    Raises:
        UserError: What the arm would raise in its turn; it names the arm.
    """
    from holdfast.pipeline.multi_stage import look_over
    from holdfast.pipeline.sources import read_sources

    ignore = lambda text: None  # noqa: E731
    for label, arm in arms.items():
        try:
            refuse_no_question(arm.recipe)
            if arm.recipe.stages:
                look_over(arm)
            else:
                read_sources(arm.recipe, ignore, ignore)
        except UserError as error:
            raise UserError(f"{label}: {error}") from error


def refuse_no_question(recipe: Recipe) -> None:
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


def _plan(arm: Resolved, label: str, seed: int, budget: Budget, root: Path) -> Resolved:
    """One run: the arm with its seed, the common budget and a directory of its own. Stages share the budget."""
    folder = root / f"{label.replace(' ', '-')}-seed{seed}"
    settings = [f"output={folder}"]
    if arm.recipe.stages:
        shares = _shares(arm.recipe, budget.steps)
        for number, (stage, steps) in enumerate(zip(arm.recipe.stages, shares, strict=True)):
            settings += _limits(f"stages.{number}.train", stage.train, seed, replace(budget, steps=steps))
    else:
        settings += _limits("train", arm.recipe.train, seed, budget)
    return replace(as_resolved(arm, settings), notes=())  # what the recipe says of its steps is not what runs here


def _limits(key: str, train: Train, seed: int, budget: Budget) -> list[str]:
    """Overrides of `train`; a size of steps that an arm gives itself stays."""
    size = [f"{key}.batch_tokens={budget.batch_tokens}"] if train.batch_tokens == "auto" else []
    return [f"{key}.seed={seed}", f"{key}.max_steps={budget.steps}", *size]


def _shares(recipe: Recipe, steps: int) -> list[int]:
    """The steps of each stage: in the proportion of their `max_steps` where all have one, else alike."""
    wanted = [stage.train.max_steps or 0 for stage in recipe.stages]
    weights = wanted if all(wanted) else [1] * len(wanted)
    ends = [round(steps * sum(weights[: i + 1]) / sum(weights)) for i in range(len(weights))]
    return [max(1, end - start) for start, end in zip([0, *ends], ends, strict=False)]


def with_epochs_of(resolved: Resolved, arms: Mapping[str, Resolved]) -> Recipe:
    """The recipe with the epochs of its arms, where it says none itself and their objectives agree on a number."""
    recipe, epochs = resolved.recipe, {arm.recipe.train.epochs for arm in arms.values()}
    if len(epochs) > 1 or is_written(resolved.sources.get("train.epochs", "default")):
        return recipe
    return recipe.model_copy(update={"train": recipe.train.model_copy(update={"epochs": epochs.pop()})})


def budget_of(recipe: Recipe, steps: int | None) -> Budget:
    """The recipe's steps and their size, derived where it leaves them open from the rows as they come.

    Args:
        steps: Wanted instead of the recipe's.
    """
    steps, tokens = steps or recipe.train.max_steps, recipe.train.batch_tokens
    if steps is not None and tokens != "auto":
        return Budget(steps, tokens)
    from holdfast.data.batching.step_size import step_size
    from holdfast.data.chat.settings import make_chat
    from holdfast.models.loading import load_context, load_tokenizer
    from holdfast.pipeline.sources import read_sources

    ignore = lambda text: None  # noqa: E731
    sources = read_sources(recipe, ignore, ignore)
    chat = make_chat(recipe.data, load_tokenizer(recipe.model), sources.train, sources.test)
    recipe, rows = before_curation(recipe, sources.train)
    table, _ = encode(recipe, trained(recipe, rows), chat, load_context(recipe.model))
    table, train = table.firsts(recipe.objective.in_steps()), recipe.train
    size = step_size(tokens, table, train.seed, recipe.objective.usual.batch).tokens
    return Budget(steps or table.sampler(batch_tokens=size, seed=train.seed).steps(train.epochs), size)


def summarise_runs(
    recipe: Recipe,
    runs: Mapping[str, list[tuple[int, Run]]],
    budget: Budget,
    root: Path,
    refused: Mapping[str, Sequence[str]],
    families: Families,
) -> dict[str, Any]:
    """`compare.json`: measurements of all runs, what they cost, and where their rows came from.

    Args:
        refused: Methods that a stage's own gate stopped, and why.
        families: Of each arm its method and learning rate, where methods run at several.
    """
    items = {label: [read_run(run.path, seed) for seed, run in group] for label, group in runs.items()}
    measured = compare_summary(items)
    for entry in measured["runs"]:
        reports = [run.report for _, run in runs[entry["method"]]]
        origins: Counter[str] = Counter()
        for report in reports:
            origins.update(report["curation"]["counts"])
        entry["gate"] = gate_of([seed for seed, _ in runs[entry["method"]]], reports)
        entry["dirs"] = [str(run.path) for _, run in runs[entry["method"]]]
        entry["origins"] = {k: v / len(reports) for k, v in origins.items()}
        entry["cost"] = _mean_cost(reports)
        entry["curves"] = [report["curves"] for report in reports]
        entry["steps"] = [report["training"]["steps"] for report in reports]
        entry["stopped_early"] = any(report["training"].get("stopped_early") for report in reports)
        if entry["method"] in families:
            entry["of"] = dict(zip(("method", "learning_rate"), families[entry["method"]], strict=True))
        entry["doubts"] = doubts(entry, reports)
        entry["answers"], entry["clipped"] = count_answers(reports, "tuned"), mean_clipped(reports)
        entry["kept_steps"] = [report["training"].get("kept_step") for report in reports]
    first = next(iter(runs.values()))[0][1].report
    content = {
        "name": root.name,
        "created": first["created"],
        "recipe": recipe.model_dump(mode="json"),
        "budget": str(budget),
        "versions": versions(),
        "model": first["model"],
        "base_answers": count_answers([first], "base"),
        "refused": {label: list(told) for label, told in refused.items()},
        **measured,
        "matched": matched(items, families, [task["name"] for task in measured["tasks"]]),
        "answers": side_by_side({label: seeds[0] for label, seeds in items.items()}),
    }
    report = write_as(CompareReport, content)
    replace_json(root / REPORT, report)
    return report


def _mean_cost(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds."""
    costs = [report["cost"] for report in reports]
    phases = {name for cost in costs for name in cost["seconds"]}
    mean = {
        key: sum(cost.get(key, 0) for cost in costs) / len(costs)
        for key in ("tokens_per_second", "peak_memory_gib", "sampled_tokens", "sampled_for_training")
    }
    return {"seconds": {p: sum(c["seconds"].get(p, 0.0) for c in costs) / len(costs) for p in sorted(phases)}, **mean}
