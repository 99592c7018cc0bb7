"""`holdfast eval`: a model on tasks, alone or paired with another on the same items."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.errors import UserError
from holdfast.evaluation.summary import gate, score, summarise
from holdfast.folder import replace_json, versions
from holdfast.recipe import Gate
from holdfast.shorthand import LAB_MODELS
from holdfast.ui import Progress

if TYPE_CHECKING:
    from holdfast.evaluation.base import Item, Task
    from holdfast.judges.base import Judge


def evaluate(
    model: str,
    *,
    against: str | None = None,
    tasks: list[str] | None = None,
    judge: Judge | None = None,
    items: int = 200,
    max_tokens: int = 128,
    max_loss: float | None = None,
    max_bits: float | None = None,
    out: str | Path | None = None,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model, and with `against` the difference from another on the same items.

    Args:
        model, against: Names as in a recipe.
        tasks: Names as in `evaluate.keep`; default: a run's own tasks, or all skills for a laboratory model.
        judge: For files; default: found from the rows.
        max_loss: Gate on the mean drop, in points.
        max_bits: Gate on the mean rise of the texts' bits, in per cent.
        out: Directory for items and report.
    Returns:
        The parts of `report.json` that come from measuring.
    """
    ui = ui or Progress.silent()
    wanted = _tasks(model, tasks, judge, items, max_tokens)
    for task in wanted:
        if "why" in task.meta:
            ui.line(task.meta["why"])
    tuned = _measured(model, wanted, "tuned", out, ui)
    if against is None:
        report: dict[str, Any] = {
            "tasks": [_alone(task, tuned[task.name]) for task in wanted],
            "gain": None,
            "loss": None,
            "text": None,
            "held_out": None,
            "gate": None,
        }
    else:
        base = _measured(against, wanted, "base", out, ui)
        report = summarise(wanted, base, tuned)
        report["gate"] = gate(Gate(max_loss=max_loss, max_bits=max_bits), report)
    report |= {"name": Path(model).name, "model": {"name": against or model}, "versions": versions()}
    if out is not None:
        _write(Path(out), report, paired=against is not None)
    return report


def _tasks(model: str, names: list[str] | None, judge: Judge | None, items: int, max_tokens: int) -> list[Task]:
    from holdfast.evaluation.tasks import Settings, build_tasks, named_tasks

    run = Path(model)
    if names:
        settings = Settings(items, max_tokens)
        return [task for name in names for task in named_tasks(name, settings, judge=judge)]
    if (run / "report.json").exists():
        from holdfast.recipe_file import read_recipe
        from holdfast.sources import read_sources

        recipe = read_recipe(run).recipe
        sources = read_sources(recipe, lambda text: None, lambda text: None)
        lab = recipe.model in LAB_MODELS
        return build_tasks(recipe, sources.test, sources.judge, lab=lab)
    if model not in LAB_MODELS:
        raise UserError(f"{model}: name the tasks to measure: files, lab, lab:SKILL, text:FILE or lm-eval tasks")
    return named_tasks("lab", Settings(items, max_tokens))


def _measured(name: str, tasks: list[Task], when: str, out: str | Path | None, ui: Progress) -> dict[str, list[Item]]:
    from holdfast.data.chat import Chat
    from holdfast.evaluation.measure import Subject, drawing, items_in, measure_all
    from holdfast.evaluation.store import Store, shared_store
    from holdfast.models import load
    from holdfast.policy import Policy
    from holdfast.sampling.native import NativeEngine

    loaded = load(name)
    chat = Chat(loaded.tokenizer)
    engine = NativeEngine(loaded.model, chat, fingerprint=loaded.fingerprint)
    subject = Subject(loaded.fingerprint, chat, drawing(engine), Policy(loaded.model))
    ui.phase(f"measure {name}", items_in(tasks))
    store = Store(Path(out) / "eval" / when) if out is not None else None
    return measure_all(tasks, subject, store=store, shared=shared_store(), progress=lambda n: ui.advance(n))


def _alone(task: Task, items: list[Item]) -> dict[str, Any]:
    """One task of a model that is compared with nothing."""
    unit = task.info.unit
    return {
        "name": task.name, "role": task.role, "kind": task.kind, "unit": unit.name, "better": unit.better,
        "judge": task.info.judge or None, "n": len(items), "tuned": score(task, items),
    }  # fmt: skip


def _write(out: Path, report: dict[str, Any], paired: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    replace_json(out / "report.json", report)
    if paired:
        from holdfast.report.page import render_run, write_page

        write_page(out / "report.html", render_run(report))
