"""`holdfast eval`: a model on tasks, alone or paired with another on the same items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.evaluation.gate import gate, refuse_gate
from holdfast.evaluation.summary import score, summarise
from holdfast.evaluation.tasks.by_name import Settings
from holdfast.evaluation.thought_counts import count_thoughts, count_unanswered, drop_unfit
from holdfast.models.loading import locate
from holdfast.pipeline.run_dir import replace_json, versions
from holdfast.recipe.schema import Gate
from holdfast.report.schema import RunReport, write_as

if TYPE_CHECKING:
    from holdfast.axes.judge import Judge
    from holdfast.data.chat.settings import ChatSettings
    from holdfast.evaluation.task import Item, Task
    from holdfast.evaluation.tasks.probe import Reference
    from holdfast.models.loading import Loaded


def evaluate(
    model: str,
    *,
    against: str | None = None,
    tasks: list[str] | None = None,
    judge: Judge | None = None,
    items: int = 200,
    max_tokens: int = 128,
    max_thinking_tokens: int = 1024,
    max_loss: float | None = None,
    max_bits: float | None = None,
    max_kl: float | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model, and with `against` the difference from another on the same items.

    Args:
        model, against: Names as in a recipe.
        tasks: Names as in `evaluate.keep`; default: a run's own tasks, all skills for a laboratory model,
            the probe for any other. Without `against`, a run or an adapter is compared on the probe with its own base.
        judge: For files; default: found from the rows.
        max_tokens, max_thinking_tokens: Longest answer, and longest thought before it.
        max_loss: Gate on the mean drop, in points.
        max_bits: Gate on the mean rise of the texts' bits, in per cent.
        max_kl: Gate on the divergence from the base on the probe, in bits per token.
        device: Where the models live, as in a recipe.
        out: Directory for items and report.
    Returns:
        The parts of `report.json` that come from measuring.
    """
    from holdfast.evaluation.tasks.probe import affordable
    from holdfast.models.loading import load

    ui = ui or Progress.silent()
    for name in (model, against):
        if name is not None:
            locate(name)  # what is no model is said first, not after the tasks
    wanted = _tasks(model, tasks, judge, Settings(items, max_tokens, max_thinking_tokens), ui.line)
    limits = Gate(max_loss=max_loss, max_bits=max_bits, max_kl=max_kl)
    for task in wanted:
        if "why" in task.meta:
            ui.line(task.meta["why"])
    if against is not None:
        refuse_gate(limits, wanted)
    base = against if against is not None else _own_base(model, wanted, ui)
    if base is not None:
        wanted = _comparable(model, base, wanted, ui)
    settings = _chat_settings(model, against)
    loaded = load(model if base is None else base, device=device)
    wanted = affordable(wanted, loaded.model)
    before: dict[str, list[Item]] = {}
    reference = None
    if base is not None:
        paired = [task for task in wanted if against is not None or task.kind == "probe"]
        before, reference = _measured(loaded, base, paired, "base", out, ui, settings=settings)
        loaded = load(model, device=device)
    after, _ = _measured(loaded, model, wanted, "tuned", out, ui, reference, settings)
    if against is not None:
        report = summarise(wanted, before, after) | {"gate": None}
        report["gate"] = gate(limits, report)
    else:
        report = _unpaired(wanted, before, after)
    if report["probe"]:
        report["probe"]["base"] = base
    report |= {"name": Path(model).name, "model": {"name": against or model}, "versions": versions()}
    report = write_as(RunReport, report)
    if out is not None:
        _write(Path(out), report, paired=against is not None)
    return report


def _chat_settings(*names: str | None) -> ChatSettings:
    """How the first among `names` was trained to be asked that says so; both models are measured like that."""
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.recipe.loader import read_recipe

    known = [name for name in names if name is not None]
    if found := next(filter(None, map(settings_of, known)), None):
        return found
    runs = [Path(name) for name in known if (Path(name) / "resolved.yaml").exists()]  # of a version that kept none
    return ChatSettings(read_recipe(runs[0]).recipe.data.system if runs else None)


def _own_base(model: str, tasks: Sequence[Task], ui: Progress) -> str | None:
    """The model that a run or an adapter started from, where the probe needs it and it is there."""
    from holdfast.models.files import is_adapter
    from holdfast.models.loading import adapter_base, locate

    if not any(task.kind == "probe" for task in tasks):
        return None
    if (Path(model) / "report.json").exists():
        from holdfast.recipe.loader import read_recipe

        base = read_recipe(Path(model)).recipe.model
    elif is_adapter(path := locate(model)):
        base = str(adapter_base(path))
    else:
        return None
    try:
        locate(base)
    except UserError as error:
        ui.warn(f"the probe is measured without its base: {error}; name one with --against")
        return None
    return base


def _comparable(model: str, base: str, tasks: list[Task], ui: Progress) -> list[Task]:
    """The tasks without the probe, if the two models do not share the tokens it compares."""
    from holdfast.models.loading import load_tokenizer

    if not any(task.kind == "probe" for task in tasks):
        return tasks
    one, other = (load_tokenizer(name).get_vocab() for name in (model, base))
    if one == other:
        return tasks
    rest = [task for task in tasks if task.kind != "probe"]
    told = f"the probe compares token by token and needs one tokenizer, but those of {model} and {base} differ"
    if not rest:
        raise UserError(f"{told}; name other tasks")
    ui.warn(f"{told}; it is left out")
    return rest


def _unpaired(tasks: Sequence[Task], base: dict[str, list[Item]], items: dict[str, list[Item]]) -> dict[str, Any]:
    """The report of a model that is compared with nothing, but on the probe with its base if it has one."""
    from holdfast.evaluation.tasks.probe_summary import probe_part

    probes = [
        probe_part(base.get(t.name, items[t.name]), items[t.name]) for t in tasks if t.kind == "probe" and items[t.name]
    ]
    alone = [task for task in tasks if task.kind != "probe" or base.get(task.name)]
    return {
        "tasks": [_alone(task, items[task.name]) for task in alone],
        **dict.fromkeys(("gain", "loss", "text", "held_out", "gate")),
        "probe": probes[0] if probes else None,
    }


def _tasks(
    model: str, names: list[str] | None, judge: Judge | None, settings: Settings, say: Callable[[str], object]
) -> list[Task]:
    from holdfast.evaluation.tasks.by_name import build_tasks, named_tasks
    from holdfast.models.loading import is_lab

    run = Path(model)
    if names:
        return [task for name in names for task in named_tasks(name, settings, judge=judge, say=say)]
    if (run / "report.json").exists():
        from holdfast.pipeline.sources import read_sources
        from holdfast.recipe.loader import read_recipe

        recipe = read_recipe(run).recipe
        sources = read_sources(recipe, lambda text: None, lambda text: None)
        return build_tasks(recipe, sources.test, sources.judge, lab=is_lab(recipe.model))
    return named_tasks("lab" if is_lab(model) else "probe", settings)


def _measured(
    loaded: Loaded, name: str, tasks: list[Task], when: str, out: str | Path | None, ui: Progress,
    reference: Reference | None = None, settings: ChatSettings | None = None,
) -> tuple[dict[str, list[Item]], Reference | None]:  # fmt: skip
    """The items of every task, and what the model did on the probe if it is itself the reference."""
    from holdfast.data.chat.settings import ChatSettings
    from holdfast.evaluation.measure import items_in, measure_all
    from holdfast.evaluation.results_store import Store, shared_store
    from holdfast.evaluation.subject import Subject, precision_of
    from holdfast.generation.decoder import open_decoder
    from holdfast.generation.factory import drawing
    from holdfast.models.loading import embeddings_of

    chat = (settings or ChatSettings()).chat(loaded.tokenizer)
    chat.limit_to(embeddings_of(loaded.model))
    decoder = open_decoder(loaded)
    if setup := decoder.setup():
        ui.line(f"{name}: {setup.line}")
    subject = Subject(
        decoder.fingerprint(loaded.fingerprint), chat, drawing(decoder.engine(chat, fingerprint=loaded.fingerprint)),
        decoder.policy(), prompt=decoder.prompt, extra=precision_of(loaded.model), reference=reference,
    )  # fmt: skip
    ui.phase(f"measure {name}", items_in(tasks))
    store = Store(Path(out) / "eval" / when) if out is not None else None
    found = measure_all(tasks, subject, store=store, shared=shared_store(), progress=lambda n: ui.advance(n))
    return found, subject.recorded


def _alone(task: Task, items: list[Item]) -> dict[str, Any]:
    """One task of a model that is compared with nothing."""
    unit, figure, whole = task.info.unit, score(task, items), items
    (items,) = drop_unfit({task.name: whole})[0].values()
    return {
        "name": task.name, "role": task.role, "kind": task.kind, "unit": unit.name, "better": unit.better,
        "judge": task.info.judge or None, "n": len(items), "tuned": figure,
        "thoughts": {"tuned": count_thoughts(items)}, "unanswered": {"tuned": count_unanswered(whole)},
        "left_out": len(whole) - len(items),
        "unreadable_tuned": sum(item.unreadable for item in items) if task.kind == "generate" else None,
    }  # fmt: skip


def _write(out: Path, report: dict[str, Any], paired: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    replace_json(out / "report.json", report)
    if paired:
        from holdfast.report.html import render_run, write_page

        write_page(out / "report.html", render_run(report))
