"""One run: recipe -> rows -> curate -> train(objective, tuner, optimizer) -> evaluate -> report."""

from __future__ import annotations

import contextlib
import html
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import Diverged, UserError
from holdfast.evaluation.base import POINTS
from holdfast.evaluation.gate import gate, refuse_gate
from holdfast.evaluation.summary import figures, held_out_of, summarise
from holdfast.folder import Folder, environment, is_curated, replace_text, versions
from holdfast.readiness import look_ahead
from holdfast.recipe import Recipe
from holdfast.recipe_file import Resolved, as_resolved
from holdfast.stages import (
    Work,
    beyond_context,
    curate,
    encode,
    look_at_lengths,
    measured,
    preview,
    subject_of,
    trained,
)
from holdfast.ui import Progress

if TYPE_CHECKING:
    from holdfast.data.rows import Rows
    from holdfast.data.table import TableReport
    from holdfast.evaluation.base import Item, Task
    from holdfast.trainer.events import StepLog, TrainResult
    from holdfast.trainer.plan import Plan


@dataclass(frozen=True, slots=True)
class Run:
    """A finished run.

    Args:
        path: Its directory; accepted wherever a model is.
        report: The content of `report.json`.
    """

    path: Path
    report: dict[str, Any]

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}: {self._outcome()})"

    def _repr_html_(self) -> str:
        """What a notebook shows: the outcome, and a link to the report."""
        page = html.escape(str(self.path / "report.html"), quote=True)
        return f'<p><b>{html.escape(self._outcome())}</b><br><a href="{page}" target="_blank">{page}</a></p>'

    def _outcome(self) -> str:
        from holdfast.report.words import verdict

        return verdict(self.report) if self.report else "not measured in this process"


def train(
    recipe: Resolved | Recipe | dict[str, Any] | str | Path,
    *,
    ui: Progress | None = None,
    again: str = "it again",
    restart: bool = False,
) -> Run:
    """Curate, train, measure before and after, and write the report. Killed and repeated, it goes on where it was.

    Args:
        recipe: A recipe, its mapping, or the path of its file.
        ui: Where progress is shown; default silent.
        again: How a user runs this once more, for the message after Ctrl-C.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
    Raises:
        UserError: If the recipe or the data cannot be used; nothing is written then.
        RunError: If training had to stop; the same call goes on from the last checkpoint.
        Interrupted: After Ctrl-C; everything is saved.
        GateRefused: If a stage with a gate of its own did not pass it; the stages after it have not run.
    """
    ui, resolved = ui or Progress.silent(), as_resolved(recipe)
    if resolved.recipe.stages:
        from holdfast.staged import train_stages

        return train_stages(resolved, ui, again, restart=restart)
    return train_one(resolved, ui, again, restart=restart)


def train_one(resolved: Resolved, ui: Progress, again: str, *, hand_on: bool = False, restart: bool = False) -> Run:
    """`train` for a recipe without stages, or for one stage.

    Args:
        hand_on: Keep what is measured of the result as measurements of its model: the next stage begins with it.
    """
    ranks = Ranks(resolved.recipe.device)
    work = prepare(resolved, ui, ranks, restart=restart)
    if work.folder.finished:
        ui.line(f"{work.folder.path}: already finished; the report is {work.folder.path / 'report.html'}")
        return Run(work.folder.path, work.folder.read_json("report.json"))
    with work.journal:
        if ranks.main:
            with work.folder.timed("curate"):
                rows = curate(work)
            with work.folder.timed("evaluate"):
                subject = subject_of(work, work.base.model, work.base.fingerprint)
                before = measured(work, "measure base", work.tasks, subject, "base", shared=True)
                work.reference = subject.recorded
        ranks.wait()
        if not ranks.main:
            rows, before = curate(work), {}
        with work.folder.timed("train"), marking_divergence(work.folder, ranks):
            result, table, plan = fit(resolved, work, rows, before, again)
        if not ranks.main:
            return Run(work.folder.path, {})
        result = replace(result, model=after_training(work, result.model))
        with work.folder.timed("evaluate"):
            subject = subject_of(work, result.model, f"{work.folder.state['recipe']}/final")
            after = measured(work, "measure tuned", work.tasks, subject, "final")
        save_model(work, result, after if hand_on else {})
        return finish(work, rows, result, table, plan, before, after)


class Ranks:
    """The processes `accelerate launch` started; one when there is no launcher.

    Args:
        device: The recipe's.
    """

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.world, self.rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
        self.main = self.rank == 0

    @classmethod
    def one(cls, device: str = "auto") -> Ranks:
        """This process, whatever others there are: for what is done by the first alone."""
        ranks = cls(device)
        ranks.world, ranks.rank, ranks.main = 1, 0, True
        return ranks

    def wait(self) -> None:
        """Until every process is here."""
        if self.world > 1:
            from holdfast.placement import choose_device
            from holdfast.trainer.machine import meet

            meet(choose_device(self.device))


@contextlib.contextmanager
def marking_divergence(folder: Folder, ranks: Ranks) -> Iterator[None]:
    """Write down that training diverged inside, so that a mended recipe is let in."""
    try:
        yield
    except Diverged:
        if ranks.main:
            folder.state["diverged"] = True
            folder.save()
        raise


def prepare(resolved: Resolved, ui: Progress, ranks: Ranks, *, trains: bool = True, restart: bool = False) -> Work:
    """Everything that can be refused is looked at here, before anything is written."""
    from holdfast.data.chat import Chat
    from holdfast.evaluation.probe import affordable
    from holdfast.evaluation.tasks import build_tasks, nothing_kept
    from holdfast.models import context_length, load
    from holdfast.placement import choose_device
    from holdfast.sampling.journal import Journal
    from holdfast.sources import read_sources

    recipe = resolved.recipe
    device = choose_device(recipe.device)
    ui.phase("load")
    for note in resolved.notes:
        ui.line(note)
    sources = read_sources(recipe, ui.line, ui.warn, resolved.sources)
    base = load(recipe.model, device=device)
    if trains:
        refuse_adapter(base.path, recipe.model)
    chat = Chat(base.tokenizer, recipe.data.system)
    tasks = affordable(build_tasks(recipe, sources.test, sources.judge, lab=base.lab, say=ui.line), base.model)
    if trains:
        refuse_unmeasured(recipe, tasks)
        if warning := nothing_kept(tasks):
            ui.warn(warning)
        context = context_length(base.model.config)
        for line in beyond_context(recipe, context):
            ui.line(line)
        for line in look_at_lengths(recipe, sources, chat, context):
            ui.warn(line)
    if ranks.main and not recipe.stages:
        look_ahead(recipe, sources.judge, base.model, samples=restart or not is_curated(recipe))
    folder = open_folder(resolved, ranks, ui, restart)
    aside = Path(tempfile.gettempdir()) / f"holdfast-{os.getpid()}.jsonl"  # other processes sample nothing
    journal = Journal(folder.path / "samples.jsonl" if ranks.main else aside)
    return Work(recipe, folder, ui, base, chat, sources, tasks, journal)


def open_folder(resolved: Resolved, ranks: Ranks, ui: Progress, restart: bool = False) -> Folder:
    """The run's directory, made by the first process and found by the others."""
    from holdfast.placement import choose_device

    if not ranks.main:
        ranks.wait()
    folder = Folder.open(resolved, restart=restart and ranks.main)
    if ranks.main:
        for note in folder.notes:
            ui.line(note)
        folder.write_json("env.json", environment(choose_device(resolved.recipe.device)))
        ranks.wait()
    return folder


def refuse_adapter(path: Path, name: str) -> None:
    """An adapter is stored without the weights below it, so that training beside or below it could not be kept."""
    if (path / "adapter_config.json").exists():
        raise UserError(
            f"model: {name} is an adapter, on which no other training can build; fold it into the weights "
            f"(holdfast export {name} MERGED --merge) and start from that, or make both runs stages of one recipe"
        )


def fit(
    resolved: Resolved, work: Work, rows: Rows, before: dict[str, list[Item]], again: str
) -> tuple[TrainResult, TableReport, Plan]:
    """Encode the rows and train on them, measuring a few questions of every task on the way."""
    from holdfast.models import context_length
    from holdfast.trainer.loop import Trainer
    from holdfast.trainer.plan import plan_training

    recipe, folder, ui = work.recipe, work.folder, work.ui
    rows = trained(recipe, rows)
    context = context_length(work.base.model.config)
    table, told = encode(recipe, rows, work.chat, context, folder.path / "cache")
    for line in told.lines():
        ui.line(line)
    plan = plan_training(recipe, work.base.model, table, told, resolved.sources)
    for line in plan.lines():
        ui.line(line)
    for line in plan.warnings:
        ui.warn(line)
    if Ranks().main and plan.size.derived:
        source = resolved.sources.get("train.batch_tokens", "default")
        folder.write_resolved(resolved, {"train.batch_tokens": f"{source}: {plan.size.text}"})
    ui.phase("train")
    trainer = Trainer(
        recipe, work.base.model, table, folder.path,
        pad_id=work.chat.pad_id, hooks=_hooks(work, before), again=again,
        name_row=lambda i: f"row {table.source[i] + 1} ({rows[table.source[i]].id})",
    )  # fmt: skip
    return trainer.fit(), told, plan


def after_training(work: Work, tuned: Any) -> Any:
    """The model that is measured and saved: settled, and what the recipe's inference method makes of it and the base.

    Memory that only training needed is given back first.
    """
    from holdfast.models import load, put, settle
    from holdfast.placement import give_back_memory, weights_dtype

    device, saved = work.base.device, work.base.dtype
    held, inference = weights_dtype(saved, device), work.recipe.inference
    give_back_memory(device)
    tuned = put(settle(tuned, saved, held), device)
    if inference is not None:
        base = load(work.recipe.model, device=device).model if inference.needs_base else None
        tuned = settle(inference.apply(base, tuned), saved, held)  # type: ignore[arg-type]
    give_back_memory(device)
    return tuned


def _hooks(work: Work, before: dict[str, list[Item]]) -> Any:
    """Log every step, show it, and measure the live tasks at the points the recipe asks for."""
    from holdfast.models import put, settled_copy
    from holdfast.placement import give_back_memory, weights_dtype
    from holdfast.trainer.events import Hooks

    live = live_tasks(work.recipe, work.tasks)
    base = _roles(live, before) if before else {}

    def on_step(log: StepLog) -> None:
        work.folder.append_log(
            {
                "step": log.step,
                "tokens": log.tokens,
                "loss": log.loss,
                "learning_rate": log.learning_rate,
                "grad_norm": log.grad_norm,
                **{f"term/{k}": v for k, v in log.terms.items()},
                **log.metrics,
            }
        )
        if work.ui.total is None:
            work.ui.phase("train", log.steps)
        work.ui.advance(
            log.step - work.ui.done,
            loss=log.loss, **work.shown, tokens_per_second=log.tokens_per_second, memory_gib=log.memory_gib,
        )  # fmt: skip

    def show(now: dict[str, float | None]) -> None:
        for role, value in now.items():
            name = _shown_as(role, live)
            if value is not None and name:
                work.shown[name] = (value, value - (base.get(role) or 0.0))

    def on_evaluate(step: int, model: Any) -> float | None:
        if not live:
            return None
        give_back_memory(work.base.device)
        saved = work.base.dtype
        model = put(settled_copy(model, saved, weights_dtype(saved, work.base.device)), work.base.device)
        subject = subject_of(work, model, f"{work.folder.state['recipe']}/step-{step:06d}")
        items = measured(work, f"measure step {step}", live, subject, f"step-{step:06d}")
        now = _roles(live, items)
        show(now)
        work.folder.append_log({"step": step, **{role: value for role, value in now.items() if value is not None}})
        work.ui.phase("train")
        return compared_by(live, now)

    show({"held_out": base.get("held_out")})
    return Hooks(on_step=on_step, on_evaluate=on_evaluate, on_note=work.ui.line)


def _shown_as(part: str, live: list[Task]) -> str | None:
    """What the live line calls a figure: a target in bits is no score, and held-out answers are shown as such."""
    if part != "target":
        return part
    targets = [task.info for task in live if task.role == "target"]
    if any(info.kind == "held_out" for info in targets):
        return None
    return part if all(info.unit is POINTS for info in targets) else "target_bits"


def save_model(work: Work, result: TrainResult, known: dict[str, list[Item]]) -> None:
    """Write `model/`. The items in `known`, measured of it, are kept for all runs that start from it."""
    from holdfast.evaluation.measure import measurement
    from holdfast.evaluation.store import shared_store
    from holdfast.models import fingerprint_of, save

    path = work.folder.path / "model"
    save(result.model, work.base.tokenizer, path, stop_ids=work.chat.stop_ids, dtype=work.base.dtype)
    subject = subject_of(work, result.model, fingerprint_of(path)) if known else None
    for task in work.tasks:
        if subject is not None and task.name in known:
            shared_store().write(task, measurement(task, subject), known[task.name])


def finish(
    work: Work,
    rows: Rows,
    result: TrainResult,
    told: TableReport,
    plan: Plan,
    before: dict[str, list[Item]],
    after: dict[str, list[Item]],
) -> Run:
    """Write report and card, and hold the result against the gate."""
    folder, recipe = work.folder, work.recipe
    summary, known = summarise(work.tasks, before, after), versions()
    report = {
        "holdfast": known["holdfast"],
        "name": folder.path.name,
        "created": folder.state["created"],
        "method": recipe.label,
        "recipe": recipe.model_dump(mode="json"),
        "versions": known,
        "model": {
            "name": recipe.model, "fingerprint": work.base.fingerprint, "trainable": result.trainable,
            "parameters": sum(p.numel() for p in result.model.parameters()), **_types(work),
        },
        **summary,
        "gate": gate(recipe.evaluate.gate, summary),
        "curves": curves(work, before, after, result.kept_step),
        "curation": _curation(work, rows),
        "training": {
            "rows": told.kept, "steps": result.steps, "planned_steps": plan.steps, "kept_step": result.kept_step,
            "stopped_early": result.stopped_early, "tokens": result.tokens, "trained_tokens": result.trained_tokens,
            "dropped": dict(told.dropped), "epochs": result.epochs,
            "batch_tokens": plan.size.tokens, "batch": plan.size.text, "learning_rate": plan.learning_rate,
            "windows": told.windows, "warnings": list(plan.warnings),
        },
        "cost": {
            "seconds": folder.state["seconds"], "tokens_per_second": result.tokens_per_second,
            "peak_memory_gib": result.peak_memory_gib, "sampled_tokens": work.journal.sampled_tokens,
            "sampled_for_training": folder.read_json("data.json")["sampled_tokens"],
        },
    }  # fmt: skip
    write_report(folder.path, report)
    folder.write_json("report.json", report)
    folder.state["finished"] = True
    folder.save()
    return Run(folder.path, report)


def _types(work: Work) -> dict[str, str]:
    """The type of the weights in the files, and in which they were measured."""
    from holdfast.placement import weights_dtype

    saved = work.base.dtype
    names = {"dtype": saved, "measured_dtype": weights_dtype(saved, work.base.device)}
    return {key: str(dtype).removeprefix("torch.") for key, dtype in names.items()}


def _curation(work: Work, rows: Rows) -> dict[str, Any]:
    known = work.folder.read_json("data.json")
    return {"counts": known["counts"], "notes": known["notes"], "examples": preview(rows)}


def curves(
    work: Work, before: dict[str, list[Item]], after: dict[str, list[Item]], kept_step: int
) -> list[dict[str, Any]]:
    """Loss of every step, with held-out loss, target and keep scores where they were measured.

    Step 0 is the base; the step whose weights were kept is the finished model, by its answers to the same questions.
    """
    from holdfast.evaluation.store import Store

    live = live_tasks(work.recipe, work.tasks)
    out = []
    if live:
        out.append({"step": 0, "tokens": 0, "loss": None, "learning_rate": None, **_roles(live, before)})
    for entry in work.folder.read_log():
        if "loss" not in entry:
            continue  # measured of a step that a killed run has not logged yet
        found = Store(work.folder.path / "eval" / f"step-{entry['step']:06d}").load() if live else {}
        scores = _roles(live, {name: items for name, (_, items) in found.items()})
        out.append({k: entry[k] for k in ("step", "tokens", "loss", "learning_rate")} | scores)
    for entry in out[1:] if live else ():
        if entry["step"] == kept_step:
            entry |= _roles(live, after)
    return out


LEAST_ANSWERS = 64
"""Held-out answers measured during training at least: they cost one forward pass, and their loss decides."""


def live_tasks(recipe: Recipe, tasks: list[Task]) -> list[Task]:
    """The few questions of every task that are asked during training, and of the held-out answers rather more."""
    few, beside = recipe.evaluate.live_items, held_out_of(tasks)
    counts = [max(few, LEAST_ANSWERS) if task is beside else min(few, task.meta.get("live", few)) for task in tasks]
    return [task.head(count) for task, count in zip(tasks, counts, strict=True) if count]


def compared_by(live: list[Task], now: dict[str, float | None]) -> float | None:
    """The loss by which steps are compared: that of the held-out answers, else the target, lower being better."""
    if now["held_out"] is not None or now["target"] is None:
        return now["held_out"]
    target = next(task for task in live if task.role == "target")
    return -now["target"] if target.info.unit.better == "higher" else now["target"]


def refuse_unmeasured(recipe: Recipe, tasks: list[Task]) -> None:
    """Refuse a gate, or a choice among steps, that nothing measured could decide.

    Raises:
        UserError: With what is missing.
    """
    refuse_gate(recipe.evaluate.gate, tasks)
    train, live = recipe.train, live_tasks(recipe, tasks)
    if train.keep == "last" and train.patience is None:
        return
    if not any(task.role == "target" for task in live) and held_out_of(live) is None:
        asked = "train.keep: best" if train.keep == "best" else "train.patience"
        raise UserError(
            f"{asked} compares steps by the held-out answers or the target, and neither is measured during training; "
            "give data.test some rows with answers, or evaluate.live_items more than 0"
        )


def _roles(live: list[Task], items: dict[str, list[Item]]) -> dict[str, float | None]:
    """Figures on the live questions by part; `items` may hold the answers to more of them."""
    few = {task.name: items[task.name][: len(task.rows)] for task in live if task.name in items}
    return figures(live, few)


def curate_only(
    recipe: Resolved | Recipe | dict[str, Any] | str | Path,
    *,
    out: str | Path | None = None,
    ui: Progress | None = None,
    restart: bool = False,
) -> Path:
    """Do everything up to training: the file of rows that would be trained on.

    Args:
        out: A copy of it; default: only `curated.jsonl` in the run's directory.
        restart: Begin anew where the output holds a run, which is kept as `OUTPUT.old-1`.
    """
    resolved = as_resolved(recipe)
    if resolved.recipe.stages:
        raise UserError(
            f"{resolved.name}: has stages, and each curates rows with the model of the one before; train it, then look "
            "at OUTPUT/stages/*/curated.jsonl"
        )
    ranks = Ranks(resolved.recipe.device)
    work = prepare(resolved, ui or Progress.silent(), ranks, trains=False, restart=restart)
    with work.journal, work.folder.timed("curate"):
        curate(work)
    path = work.folder.path / "curated.jsonl"
    if out is None:
        return path
    side = Path(f"{out}.{os.getpid()}")
    shutil.copyfile(path, side)
    os.replace(side, out)
    return Path(out)


def write_report(path: Path, report: dict[str, Any]) -> None:
    """`report.html` and the model card of a run directory."""
    from holdfast.report.card import render_card
    from holdfast.report.page import render_run, write_page

    write_page(path / "report.html", render_run(report))
    replace_text(path / "README.md", render_card(report))
    if (path / "model").is_dir():
        replace_text(path / "model" / "README.md", render_card(report, "."))
