"""A run of several stages: each is a whole run of its own, started from what another left; one report over all.

OUTPUT/
  README.md report.html report.json model/    the last stage's model, against the model before the first stage
  eval/{base,1-sft,...,final}/                the recipe's tasks, after each stage
  stages/1-sft/ stages/2-dpo/                 the runs
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.files import link_tree
from holdfast.core.progress import Progress
from holdfast.errors import GateRefused
from holdfast.evaluation.gate import apply_gate, refuse_gate
from holdfast.evaluation.summary import compute_role_figures, summarise_run
from holdfast.pipeline.damage import find_weight_damage, read_report
from holdfast.pipeline.live_evaluation import refuse_unmeasured
from holdfast.pipeline.phases import EXAMPLES, RunContext, measure_tasks
from holdfast.pipeline.readiness import check_readiness, refuse_adapter
from holdfast.pipeline.results import RunResult, build_outcome, write_report
from holdfast.pipeline.run import Ranks, open_run_directory, prepare_run, train_one
from holdfast.pipeline.run_dir import RunDirectory, dependency_versions, is_finished
from holdfast.pipeline.run_record import RunRecord
from holdfast.pipeline.subject import build_subject
from holdfast.recipe.loader import ResolvedRecipe
from holdfast.recipe.schema import Recipe, Stage
from holdfast.recipe.stages import BASE, REFERENCE
from holdfast.report.schema import RunReport, validate_report

if TYPE_CHECKING:
    from holdfast.evaluation.task import ItemResult

    Items = dict[str, list[ItemResult]]


def train_stages(resolved_recipe: ResolvedRecipe, ui: Progress, rerun_hint: str, *, restart: bool = False) -> RunResult:
    """Run the stages that are not done, then measure the first base and the result of every stage.

    Raises:
        UserError, RunError, Interrupted, GateRefused: As `run.train`.
    """
    ranks = Ranks(resolved_recipe.recipe.device)
    with RunRecord(ui, writes=ranks.main) as record:
        for note in resolved_recipe.notes:
            ui.write_line(note)
        check_stages(resolved_recipe)
        folder = open_run_directory(resolved_recipe, ranks, ui, restart)
        if folder.is_complete:
            ui.write_line(f"{folder.path}: already finished; the report is {folder.path / 'report.html'}")
            return RunResult(folder.path, folder.read_json("report.json"))
        record.begin(folder, resolved_recipe.recipe)
        return run_stages(resolved_recipe, ui, ranks, folder, rerun_hint)


def run_stages(
    resolved_recipe: ResolvedRecipe, ui: Progress, ranks: Ranks, folder: RunDirectory, rerun_hint: str
) -> RunResult:
    """Run the stages that are not done and report over all, once everything was looked at."""
    stages = resolved_recipe.recipe.stages
    for number, stage in enumerate(stages):
        stage_label = f"stage {number + 1} of {len(stages)}, {stage.name}"
        plan = plan_stage(
            resolved_recipe, number, folder.path, _prepare_start_model(resolved_recipe, number, folder.path, ranks)
        )
        ui.close()  # the last line of what was before comes first
        if is_finished(Path(plan.recipe.output), plan.recipe):
            ui.write_line(f"{stage_label}: already finished")
        else:
            ui.write_line(f"{stage_label}: from {plan.recipe.model}")
            train_one(plan, ui, rerun_hint, hand_on=True)
        ranks.wait_for_all()
        _require_passed_gate(stage_label, stage_directory(folder.path, stages, number))
    if not ranks.main:
        return RunResult(folder.path, {})
    return write_stages_report(resolved_recipe, folder.path, ui)


def stage_directory(root: Path, stages: tuple[Stage, ...], number: int) -> Path:
    """The run directory of a stage."""
    return root / "stages" / f"{number + 1}-{stages[number].name}"


def plan_stage(resolved_recipe: ResolvedRecipe, number: int, root: Path, start: str) -> ResolvedRecipe:
    """One stage as a recipe of its own, `stage:NAME` replaced by run directories.

    Args:
        root: The whole run's directory.
        start: The model to start from.
    """
    stages = resolved_recipe.recipe.stages
    homes = {stage.name: str(stage_directory(root, stages, i)) for i, stage in enumerate(stages)}
    output = homes[stages[number].name].replace("{", "{{").replace("}", "}}")
    data = _replace_stage_references(stages[number].model_dump(mode="json", exclude={"name"}), homes)
    recipe = Recipe.model_validate({**data, "model": start, "output": output, "track": resolved_recipe.recipe.track})
    prefix = f"stages.{number}."
    sources = {
        key.removeprefix(prefix): text for key, text in resolved_recipe.sources.items() if key.startswith(prefix)
    }
    sources["output"] = f"derived: stage {number + 1} of {root.name}"
    return ResolvedRecipe(recipe, sources, (), f"{resolved_recipe.name}: stage {stages[number].name}")


def _replace_stage_references(value: Any, homes: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {
            key: inner if key == "name" else _replace_stage_references(inner, homes) for key, inner in value.items()
        }
    if isinstance(value, list):
        return [_replace_stage_references(inner, homes) for inner in value]
    reference = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return homes[reference[1]] if reference else value


def find_origin(stage: Stage, stages: tuple[Stage, ...]) -> int | None:
    """The number of the stage that a stage starts from; `None` when it starts from no stage."""
    reference = REFERENCE.fullmatch(stage.model)
    return [other.name for other in stages].index(reference[1]) if reference else None


def first_model_of_chain(recipe: Recipe, stage: Stage) -> str:
    """The model at the beginning of the chain of stages that leads to this one."""
    number = find_origin(stage, recipe.stages)
    if number is not None:
        return first_model_of_chain(recipe, recipe.stages[number])
    return recipe.model if stage.model == BASE else stage.model


def _prepare_start_model(resolved_recipe: ResolvedRecipe, number: int, root: Path, ranks: Ranks) -> str:
    """The model a stage starts from. An adapter is folded in first, so that the next can be trained and stored."""
    from holdfast.models.files import is_adapter

    recipe = resolved_recipe.recipe
    stage = recipe.stages[number]
    origin = find_origin(stage, recipe.stages)
    if origin is None:
        return first_model_of_chain(recipe, stage)
    origin_directory = stage_directory(root, recipe.stages, origin)
    if not is_adapter(origin_directory / "model"):
        return str(origin_directory)
    if ranks.main and find_weight_damage(origin_directory / "merged"):
        from holdfast.data.chat.settings import ChatSettings, settings_of
        from holdfast.models.loading import load_model
        from holdfast.models.merging import fold_adapter
        from holdfast.models.saving import save_model

        loaded_model = load_model(origin_directory, device=stage.device)
        chat = (settings_of(loaded_model.path) or ChatSettings()).build_chat(loaded_model.tokenizer)
        save_model(
            fold_adapter(loaded_model.model, loaded_model.tuner),
            loaded_model.tokenizer,
            origin_directory / "merged",
            dtype=loaded_model.dtype,
            chat=chat,
        )
    ranks.wait_for_all()
    return str(origin_directory / "merged")


def check_stages(resolved_recipe: ResolvedRecipe, each: bool = True) -> None:
    """Look at everything that the recipe or a stage names, so that nothing is refused after hours of training.

    Args:
        each: Also at the rows and tasks of every stage.
    Raises:
        UserError: What the stage would raise in its turn.
    """
    from holdfast.models.loading import load_tokenizer, locate_model
    from holdfast.models.merging import refuse_unmergeable
    from holdfast.models.placement import choose_device

    recipe = resolved_recipe.recipe
    plans = [recipe]
    for number, stage in enumerate(recipe.stages):
        origin = find_origin(stage, recipe.stages)
        tuner = recipe.stages[origin].tuner if origin is not None else None
        if tuner is not None and origin is not None:
            start = recipe.stages[origin].name
            refuse_unmergeable(tuner, f"{resolved_recipe.name}: stage {stage.name} cannot start from stage {start}: ")
        plans.append(
            plan_stage(resolved_recipe, number, Path(recipe.output), first_model_of_chain(recipe, stage)).recipe
        )
    for device in sorted({plan.device for plan in plans}):
        choose_device(device)
    for model in sorted({plan.model for plan in plans}):
        refuse_adapter(locate_model(model), model)
        load_tokenizer(model)
    checked_tasks: list[Any] = []
    for plan in plans if each else plans[:1]:
        _check_rows_and_tasks(plan, checked_tasks)


def _check_rows_and_tasks(recipe: Recipe, checked_tasks: list[Any]) -> None:
    """Open the rows, and the tasks unless they are among those `measured` by recipes before."""
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.models.loading import is_lab
    from holdfast.pipeline.sources import read_sources

    sources = read_sources(recipe, lambda text: None, lambda text: None)
    if not recipe.stages:
        check_readiness(recipe, sources.judge, samples=False)  # a server may be there only when a stage needs it
    tasks = (recipe.data, recipe.evaluate, recipe.judge)
    if tasks not in checked_tasks:
        built_tasks = build_tasks(recipe, sources.test, sources.judge, lab=is_lab(recipe.model))
        if not recipe.stages:
            refuse_unmeasured(recipe, built_tasks)
        else:
            refuse_gate(recipe.evaluate.gate, built_tasks)
        checked_tasks.append(tasks)


def _require_passed_gate(stage_label: str, path: Path) -> None:
    """Go no further from a stage that a gate of its own refused."""
    report = read_report(path / "report.json")
    if report["gate"] and not report["gate"]["passed"]:
        raise GateRefused(f"{stage_label}: the gate refused this result: {'; '.join(report['gate']['reasons'])}")


@dataclass(frozen=True, slots=True)
class StageResult:
    """A finished stage, measured on the recipe's tasks.

    Args:
        stage: As the recipe has it.
        report: Its own report.
        items: What its model answered.
        summary: Its change from the very first base.
    """

    stage: Stage
    report: dict[str, Any]
    items: Items
    summary: dict[str, Any]


def write_stages_report(resolved_recipe: ResolvedRecipe, root: Path, ui: Progress) -> RunResult:
    """Measure the base and every stage's model on the recipe's tasks, and report the last against the base."""
    work = prepare_run(
        resolved_recipe, Progress.create_silent(), Ranks.single_process(resolved_recipe.recipe.device), trains=False
    )
    work.ui, stages = ui, resolved_recipe.recipe.stages
    with work.journal:
        with work.folder.time_phase("evaluate"):
            subject = build_subject(work, work.base.model, work.base.fingerprint)
            base = measure_tasks(work, "measure base", work.tasks, subject, "base", use_shared_store=True)
            work.reference = subject.own_reference
            results = [_measure_stage(work, base, stage_directory(root, stages, i), i) for i in range(len(stages))]
        link_tree(stage_directory(root, stages, len(stages) - 1) / "model", root / "model")
        report = validate_report(RunReport, _build_report(work, base, results))
    write_report(root, report)
    work.folder.write_json("report.json", report)
    work.folder.state["finished"] = True
    work.folder.save_state()
    ui.emit(build_outcome(report))
    return RunResult(root, report)


def _measure_stage(work: RunContext, base: Items, path: Path, number: int) -> StageResult:
    """One stage's model on the recipe's tasks; what the stage measured itself is not measured again."""
    from holdfast.generation.decoder import open_decoder
    from holdfast.models.loading import load_model

    stages = work.recipe.stages
    loaded_model = load_model(path, device=work.base.device)
    subject = build_subject(work, open_decoder(loaded_model), loaded_model.fingerprint, loaded_model.tuner)
    when = path.name if number + 1 < len(stages) else "final"
    items = measure_tasks(work, f"measure {stages[number].name}", work.tasks, subject, when, use_shared_store=True)
    report = read_report(path / "report.json")
    return StageResult(stages[number], report, items, summarise_run(work.tasks, base, items))


def _build_report(work: RunContext, base: Items, results: list[StageResult]) -> dict[str, Any]:
    """The content of `report.json`: as of any run, with a list of the stages."""
    folder, recipe, last, version_table = work.folder, work.recipe, results[-1], dependency_versions()
    return {
        "holdfast": version_table["holdfast"],
        "name": folder.path.name,
        "created": folder.state["created"],
        "method": recipe.label,
        "recipe": recipe.model_dump(mode="json"),
        "versions": version_table,
        "model": {
            **last.report["model"], "name": recipe.model, "fingerprint": work.base.fingerprint,
        },
        "chat": last.report.get("chat"),
        **last.summary,
        "gate": apply_gate(recipe.evaluate.gate, last.summary),
        "stages": [_build_stage_entry(work, stage, number) for number, stage in enumerate(results, 1)],
        "curves": _build_curves(work, base, results),
        "curation": _sum_curation(results),
        "training": _sum_training(results),
        "cost": _sum_cost(work, results),
    }  # fmt: skip


def _build_stage_entry(work: RunContext, result: StageResult, number: int) -> dict[str, Any]:
    """One stage in the table of stages."""
    stage, report = result.stage, result.report
    return {
        "name": stage.name, "method": stage.method_label, "model": stage.model,
        "directory": f"stages/{number}-{stage.name}",
        "rows": report["training"]["rows"], "steps": report["training"]["steps"],
        "tokens": report["training"]["tokens"], "seconds": sum(report["cost"]["seconds"].values()),
        "gain": result.summary["gain"], "loss": result.summary["loss"],
        "text": result.summary["text"], "held_out": result.summary["held_out"],
        **{
            part: value
            for part, value in compute_role_figures(work.tasks, result.items).items()
            if part in ("target", "keep")
        },
    }  # fmt: skip


def _build_curves(work: RunContext, base: Items, results: list[StageResult]) -> list[dict[str, Any]]:
    """Scores before the first stage and after each; losses of different objectives make no curve."""
    out, step, tokens = [], 0, 0
    for items, training in [(base, None), *((stage.items, stage.report["training"]) for stage in results)]:
        step, tokens = (step + training["steps"], tokens + training["tokens"]) if training else (0, 0)
        out.append(
            {
                "step": step,
                "tokens": tokens,
                "loss": None,
                "learning_rate": None,
                **compute_role_figures(work.tasks, items),
            }
        )
    return out


def _sum_curation(results: list[StageResult]) -> dict[str, Any]:
    parts = [stage.report["curation"] for stage in results]
    each = max(1, EXAMPLES // len(parts))
    return {
        **{key: dict(sum((Counter(part[key]) for part in parts), Counter())) for key in ("counts", "notes")},
        "examples": [example for part in parts for example in part["examples"][:each]],
    }


def _sum_training(results: list[StageResult]) -> dict[str, Any]:
    parts = [stage.report["training"] for stage in results]
    sums = {key: sum(part[key] for part in parts) for key in ("rows", "steps", "tokens", "trained_tokens")}
    warnings = [
        f"stage {stage.stage.name}: {text}" for stage in results for text in stage.report["training"]["warnings"]
    ]
    drop_counts = dict(sum((Counter(part["dropped"]) for part in parts), Counter()))
    clip_share = sum(part.get("clipped", 0.0) * part["steps"] for part in parts) / max(1, sums["steps"])
    factors = [part["clip_factor"] for part in parts if part.get("clip_factor")]
    clipping = {"clipped": clip_share, "clip_factor": max(factors, default=None)}
    return {**sums, **clipping, "dropped": drop_counts, "warnings": warnings}


def _sum_cost(work: RunContext, results: list[StageResult]) -> dict[str, Any]:
    parts = [stage.report["cost"] for stage in results]
    tokens = [stage.report["training"]["tokens"] for stage in results]
    seconds: Counter[str] = Counter(work.folder.state["seconds"])
    for part in parts:
        seconds.update(part["seconds"])
    speed = sum(n * part["tokens_per_second"] for n, part in zip(tokens, parts, strict=True)) / max(1, sum(tokens))
    return {
        "seconds": dict(seconds), "tokens_per_second": speed,
        "peak_memory_gib": max(part["peak_memory_gib"] for part in parts),
        "sampled_tokens": work.journal.sampled_tokens + sum(part["sampled_tokens"] for part in parts),
        "sampled_for_training": sum(part.get("sampled_for_training", 0) for part in parts),
    }  # fmt: skip
