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
from holdfast.evaluation.gate import gate, refuse_gate
from holdfast.evaluation.summary import figures, summarise
from holdfast.pipeline.damage import read_report, weights_lack
from holdfast.pipeline.live_evaluation import refuse_unmeasured
from holdfast.pipeline.phases import EXAMPLES, Work, measured
from holdfast.pipeline.readiness import look_ahead
from holdfast.pipeline.results import Run, outcome_of, write_report
from holdfast.pipeline.run import Ranks, open_folder, prepare, refuse_adapter, train_one
from holdfast.pipeline.run_dir import Folder, is_finished, versions
from holdfast.pipeline.run_record import RunRecord
from holdfast.pipeline.subject import subject_of
from holdfast.recipe.loader import Resolved
from holdfast.recipe.schema import Recipe, Stage
from holdfast.recipe.stages import BASE, REFERENCE
from holdfast.report.schema import RunReport, write_as

if TYPE_CHECKING:
    from holdfast.evaluation.task import Item

    Items = dict[str, list[Item]]


def train_stages(resolved: Resolved, ui: Progress, again: str, *, restart: bool = False) -> Run:
    """Run the stages that are not done, then measure the first base and the result of every stage.

    Raises:
        UserError, RunError, Interrupted, GateRefused: As `run.train`.
    """
    ranks = Ranks(resolved.recipe.device)
    with RunRecord(ui, writes=ranks.main) as record:
        for note in resolved.notes:
            ui.line(note)
        look_over(resolved)
        folder = open_folder(resolved, ranks, ui, restart)
        if folder.finished:
            ui.line(f"{folder.path}: already finished; the report is {folder.path / 'report.html'}")
            return Run(folder.path, folder.read_json("report.json"))
        record.begin(folder, resolved.recipe)
        return run_stages(resolved, ui, ranks, folder, again)


def run_stages(resolved: Resolved, ui: Progress, ranks: Ranks, folder: Folder, again: str) -> Run:
    """Run the stages that are not done and report over all, once everything was looked at."""
    stages = resolved.recipe.stages
    for number, stage in enumerate(stages):
        told = f"stage {number + 1} of {len(stages)}, {stage.name}"
        plan = planned(resolved, number, folder.path, _start(resolved, number, folder.path, ranks))
        ui.close()  # the last line of what was before comes first
        if is_finished(Path(plan.recipe.output), plan.recipe):
            ui.line(f"{told}: already finished")
        else:
            ui.line(f"{told}: from {plan.recipe.model}")
            train_one(plan, ui, again, hand_on=True)
        ranks.wait()
        _pass_gate(told, home(folder.path, stages, number))
    if not ranks.main:
        return Run(folder.path, {})
    return finish(resolved, folder.path, ui)


def home(root: Path, stages: tuple[Stage, ...], number: int) -> Path:
    """The run directory of a stage."""
    return root / "stages" / f"{number + 1}-{stages[number].name}"


def planned(resolved: Resolved, number: int, root: Path, start: str) -> Resolved:
    """One stage as a recipe of its own, `stage:NAME` replaced by run directories.

    Args:
        root: The whole run's directory.
        start: The model to start from.
    """
    stages = resolved.recipe.stages
    homes = {stage.name: str(home(root, stages, i)) for i, stage in enumerate(stages)}
    output = homes[stages[number].name].replace("{", "{{").replace("}", "}}")
    data = _replaced(stages[number].model_dump(mode="json", exclude={"name"}), homes)
    recipe = Recipe.model_validate({**data, "model": start, "output": output, "track": resolved.recipe.track})
    prefix = f"stages.{number}."
    sources = {key.removeprefix(prefix): text for key, text in resolved.sources.items() if key.startswith(prefix)}
    sources["output"] = f"derived: stage {number + 1} of {root.name}"
    return Resolved(recipe, sources, (), f"{resolved.name}: stage {stages[number].name}")


def _replaced(value: Any, homes: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: inner if key == "name" else _replaced(inner, homes) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, homes) for inner in value]
    found = REFERENCE.fullmatch(value) if isinstance(value, str) else None
    return homes[found[1]] if found else value


def before(stage: Stage, stages: tuple[Stage, ...]) -> int | None:
    """The number of the stage that a stage starts from; `None` when it starts from no stage."""
    found = REFERENCE.fullmatch(stage.model)
    return [other.name for other in stages].index(found[1]) if found else None


def descends(recipe: Recipe, stage: Stage) -> str:
    """The model at the beginning of the chain of stages that leads to this one."""
    number = before(stage, recipe.stages)
    if number is not None:
        return descends(recipe, recipe.stages[number])
    return recipe.model if stage.model == BASE else stage.model


def _start(resolved: Resolved, number: int, root: Path, ranks: Ranks) -> str:
    """The model a stage starts from. An adapter is folded in first, so that the next can be trained and stored."""
    from holdfast.models.files import is_adapter

    recipe = resolved.recipe
    stage = recipe.stages[number]
    origin = before(stage, recipe.stages)
    if origin is None:
        return descends(recipe, stage)
    left = home(root, recipe.stages, origin)
    if not is_adapter(left / "model"):
        return str(left)
    if ranks.main and weights_lack(left / "merged"):
        from holdfast.data.chat.settings import ChatSettings, settings_of
        from holdfast.models.loading import load
        from holdfast.models.merging import fold
        from holdfast.models.saving import save

        loaded = load(left, device=stage.device)
        chat = (settings_of(loaded.path) or ChatSettings()).chat(loaded.tokenizer)
        save(fold(loaded.model, loaded.tuner), loaded.tokenizer, left / "merged", dtype=loaded.dtype, chat=chat)
    ranks.wait()
    return str(left / "merged")


def look_over(resolved: Resolved, each: bool = True) -> None:
    """Look at everything that the recipe or a stage names, so that nothing is refused after hours of training.

    Args:
        each: Also at the rows and tasks of every stage.
    Raises:
        UserError: What the stage would raise in its turn.
    """
    from holdfast.models.loading import load_tokenizer, locate
    from holdfast.models.merging import refuse_unmergeable
    from holdfast.models.placement import choose_device

    recipe = resolved.recipe
    plans = [recipe]
    for number, stage in enumerate(recipe.stages):
        origin = before(stage, recipe.stages)
        tuner = recipe.stages[origin].tuner if origin is not None else None
        if tuner is not None and origin is not None:
            start = recipe.stages[origin].name
            refuse_unmergeable(tuner, f"{resolved.name}: stage {stage.name} cannot start from stage {start}: ")
        plans.append(planned(resolved, number, Path(recipe.output), descends(recipe, stage)).recipe)
    for device in sorted({plan.device for plan in plans}):
        choose_device(device)
    for model in sorted({plan.model for plan in plans}):
        refuse_adapter(locate(model), model)
        load_tokenizer(model)
    measured: list[Any] = []
    for plan in plans if each else plans[:1]:
        _read(plan, measured)


def _read(recipe: Recipe, measured: list[Any]) -> None:
    """Open the rows, and the tasks unless they are among those `measured` by recipes before."""
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.models.loading import is_lab
    from holdfast.pipeline.sources import read_sources

    sources = read_sources(recipe, lambda text: None, lambda text: None)
    if not recipe.stages:
        look_ahead(recipe, sources.judge, samples=False)  # a server may be there only when a stage needs it
    tasks = (recipe.data, recipe.evaluate, recipe.judge)
    if tasks not in measured:
        found = build_tasks(recipe, sources.test, sources.judge, lab=is_lab(recipe.model))
        if not recipe.stages:
            refuse_unmeasured(recipe, found)
        else:
            refuse_gate(recipe.evaluate.gate, found)
        measured.append(tasks)


def _pass_gate(told: str, path: Path) -> None:
    """Go no further from a stage that a gate of its own refused."""
    report = read_report(path / "report.json")
    if report["gate"] and not report["gate"]["passed"]:
        raise GateRefused(f"{told}: the gate refused this result: {'; '.join(report['gate']['reasons'])}")


@dataclass(frozen=True, slots=True)
class Done:
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


def finish(resolved: Resolved, root: Path, ui: Progress) -> Run:
    """Measure the base and every stage's model on the recipe's tasks, and report the last against the base."""
    work = prepare(resolved, Progress.silent(), Ranks.one(resolved.recipe.device), trains=False)
    work.ui, stages = ui, resolved.recipe.stages
    with work.journal:
        with work.folder.timed("evaluate"):
            subject = subject_of(work, work.base.model, work.base.fingerprint)
            base = measured(work, "measure base", work.tasks, subject, "base", shared=True)
            work.reference = subject.recorded
            done = [_measured(work, base, home(root, stages, i), i) for i in range(len(stages))]
        link_tree(home(root, stages, len(stages) - 1) / "model", root / "model")
        report = write_as(RunReport, _report(work, base, done))
    write_report(root, report)
    work.folder.write_json("report.json", report)
    work.folder.state["finished"] = True
    work.folder.save()
    ui.emit(outcome_of(report))
    return Run(root, report)


def _measured(work: Work, base: Items, path: Path, number: int) -> Done:
    """One stage's model on the recipe's tasks; what the stage measured itself is not measured again."""
    from holdfast.generation.decoder import open_decoder
    from holdfast.models.loading import load

    stages = work.recipe.stages
    loaded = load(path, device=work.base.device)
    subject = subject_of(work, open_decoder(loaded), loaded.fingerprint)
    when = path.name if number + 1 < len(stages) else "final"
    items = measured(work, f"measure {stages[number].name}", work.tasks, subject, when, shared=True)
    report = read_report(path / "report.json")
    return Done(stages[number], report, items, summarise(work.tasks, base, items))


def _report(work: Work, base: Items, done: list[Done]) -> dict[str, Any]:
    """The content of `report.json`: as of any run, with a list of the stages."""
    folder, recipe, last, known = work.folder, work.recipe, done[-1], versions()
    return {
        "holdfast": known["holdfast"],
        "name": folder.path.name,
        "created": folder.state["created"],
        "method": recipe.label,
        "recipe": recipe.model_dump(mode="json"),
        "versions": known,
        "model": {
            **last.report["model"], "name": recipe.model, "fingerprint": work.base.fingerprint,
        },
        "chat": last.report.get("chat"),
        **last.summary,
        "gate": gate(recipe.evaluate.gate, last.summary),
        "stages": [_row(work, stage, number) for number, stage in enumerate(done, 1)],
        "curves": _curves(work, base, done),
        "curation": _curation(done),
        "training": _training(done),
        "cost": _cost(work, done),
    }  # fmt: skip


def _row(work: Work, done: Done, number: int) -> dict[str, Any]:
    """One stage in the table of stages."""
    stage, report = done.stage, done.report
    return {
        "name": stage.name, "method": stage.chosen, "model": stage.model,
        "directory": f"stages/{number}-{stage.name}",
        "rows": report["training"]["rows"], "steps": report["training"]["steps"],
        "tokens": report["training"]["tokens"], "seconds": sum(report["cost"]["seconds"].values()),
        "gain": done.summary["gain"], "loss": done.summary["loss"],
        "text": done.summary["text"], "held_out": done.summary["held_out"],
        **{part: value for part, value in figures(work.tasks, done.items).items() if part in ("target", "keep")},
    }  # fmt: skip


def _curves(work: Work, base: Items, done: list[Done]) -> list[dict[str, Any]]:
    """Scores before the first stage and after each; losses of different objectives make no curve."""
    out, step, tokens = [], 0, 0
    for items, training in [(base, None), *((stage.items, stage.report["training"]) for stage in done)]:
        step, tokens = (step + training["steps"], tokens + training["tokens"]) if training else (0, 0)
        out.append({"step": step, "tokens": tokens, "loss": None, "learning_rate": None, **figures(work.tasks, items)})
    return out


def _curation(done: list[Done]) -> dict[str, Any]:
    parts = [stage.report["curation"] for stage in done]
    each = max(1, EXAMPLES // len(parts))
    return {
        **{key: dict(sum((Counter(part[key]) for part in parts), Counter())) for key in ("counts", "notes")},
        "examples": [example for part in parts for example in part["examples"][:each]],
    }


def _training(done: list[Done]) -> dict[str, Any]:
    parts = [stage.report["training"] for stage in done]
    sums = {key: sum(part[key] for part in parts) for key in ("rows", "steps", "tokens", "trained_tokens")}
    warnings = [f"stage {stage.stage.name}: {text}" for stage in done for text in stage.report["training"]["warnings"]]
    dropped = dict(sum((Counter(part["dropped"]) for part in parts), Counter()))
    clipped = sum(part.get("clipped", 0.0) * part["steps"] for part in parts) / max(1, sums["steps"])
    factors = [part["clip_factor"] for part in parts if part.get("clip_factor")]
    told = {"clipped": clipped, "clip_factor": max(factors, default=None)}
    return {**sums, **told, "dropped": dropped, "warnings": warnings}


def _cost(work: Work, done: list[Done]) -> dict[str, Any]:
    parts = [stage.report["cost"] for stage in done]
    tokens = [stage.report["training"]["tokens"] for stage in done]
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
