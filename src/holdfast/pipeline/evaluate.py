"""`holdfast eval`: a model on tasks, alone or paired with another on the same items."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.errors import UserError
from holdfast.evaluation.answer_traces import summarise_traces
from holdfast.evaluation.gate import apply_gate, refuse_gate
from holdfast.evaluation.method_reach import describe_reach
from holdfast.evaluation.summary import compute_score, score_interval, summarise_run
from holdfast.evaluation.task import ANSWERED, PAIRS
from holdfast.evaluation.tasks.by_name import TaskSettings
from holdfast.evaluation.tasks.episode_summary import summarise_episodes
from holdfast.evaluation.thought_counts import count_thoughts, count_unanswered, drop_unfit
from holdfast.models.loading import locate_model
from holdfast.pipeline.compiled_passes import compile_passes, describe_arithmetic
from holdfast.pipeline.evaluation_shards import (
    EvaluationShard,
    begin_shard,
    describe_settings,
    join_measurements,
    require_out,
    select_measured_shards,
)
from holdfast.pipeline.inference_bench import settle_for_model
from holdfast.pipeline.readiness import open_draft, refuse_other_tokens
from holdfast.pipeline.run_dir import dependency_versions, replace_json
from holdfast.recipe.gate_section import Gate
from holdfast.report.schema import RunReport, validate_report

if TYPE_CHECKING:
    from holdfast.axes.inference import Inference
    from holdfast.axes.judge import Judge
    from holdfast.data.chat.settings import ChatSettings
    from holdfast.evaluation.task import ItemResult, Task
    from holdfast.evaluation.tasks.probe import Reference
    from holdfast.generation.decoder import Decoder
    from holdfast.generation.speculative_batch import Draft
    from holdfast.models.loading import LoadedModel
    from holdfast.models.reward_model import RewardModel


def evaluate(
    model: str,
    *,
    against: str | None = None,
    tasks: list[str] | None = None,
    judge: Judge | None = None,
    inference: Inference | None = None,
    draft: str | None = None,
    items: int = 200,
    max_tokens: int = 128,
    max_thinking_tokens: int = 1024,
    max_loss: float | None = None,
    max_bits: float | None = None,
    max_kl: float | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    shard: str | None = None,
    join: bool = False,
    ui: Progress | None = None,
) -> dict[str, Any]:
    """Measure a model, and with `against` the difference from another on the same items.

    Args:
        model, against: Names as in a recipe.
        tasks: Names as in `evaluate.keep`; default: a run's own tasks, all skills for a laboratory model,
            the probe for any other. Without `against`, a run or an adapter is compared on the probe with its own base.
        judge: For files; default: found from the rows.
        inference: How the model answers, whatever it was trained with; default for `against`: the model without it.
        draft: A small model with the same tokenizer that proposes tokens: the same answers in fewer passes.
        max_tokens, max_thinking_tokens: Longest answer, and longest thought before it.
        max_loss: Gate on the mean drop, in points.
        max_bits: Gate on the mean rise of the texts' bits, in per cent.
        max_kl: Gate on the divergence from the base on the probe, in bits per token.
        device: Where the models live, as in a recipe.
        out: Directory for items and report.
        shard: Ask only one of so many parts of the questions ("3/64"), beneath `out`.
        join: Make the report of what all parts have measured, which must be there.
    Returns:
        The parts of `report.json` that come from measuring; of a shard what it measured.
    """
    ui = ui or Progress.create_silent()
    against = model if against is None and inference is not None else against
    settings = describe_settings(judge, inference, items, [max_tokens, max_thinking_tokens])
    shards = select_measured_shards(require_out(out), settings) if join else []
    part = begin_shard(shard, require_out(out), settings) if shard else None
    _require_models(model, against, draft)
    chosen_tasks = _choose_tasks(
        model, tasks, judge, TaskSettings(items, max_tokens, max_thinking_tokens), ui.write_line
    )
    limits = Gate(max_loss=max_loss, max_bits=max_bits, max_kl=max_kl)
    _tell_of_tasks(chosen_tasks, inference, ui)
    if against is not None:
        refuse_gate(limits, chosen_tasks)
    base = against if against is not None else _find_own_base(model, chosen_tasks, ui)
    if base is not None:
        chosen_tasks = _keep_comparable_tasks(model, base, chosen_tasks, ui)
    if join:
        names = {"base": base, "tuned": model}
        chosen_tasks, results = join_measurements(require_out(out), shards, chosen_tasks, names)
    else:
        chosen_tasks, results = _measure_both(
            (model, base, against), chosen_tasks, out=out if part is None else part.directory, ui=ui, draft=draft,
            device=device, has_roles=not tasks, inference=inference, part=part,
        )  # fmt: skip
    if part is not None:
        return part.write_mark(results)
    before, after = results["base"], results["tuned"]
    if against is not None:
        report = summarise_run(chosen_tasks, before, after) | {"gate": None}
        report["gate"] = apply_gate(limits, report)
    else:
        report = _build_unpaired_report(chosen_tasks, before, after)
    if report["probe"]:
        report["probe"]["base"] = base
    report |= {"name": Path(model).name, "model": {"name": against or model}, "versions": dependency_versions()}
    report = validate_report(RunReport, report)
    if out is not None:
        _write_report(Path(out), report, is_paired=against is not None)
    return report


def _measure_both(
    names: tuple[str, str | None, str | None], tasks: list[Task], *, out: str | Path | None, ui: Progress,
    draft: str | None, device: str, has_roles: bool, inference: Inference | None, part: EvaluationShard | None,
) -> tuple[list[Task], dict[str, dict[str, list[ItemResult]]]]:  # fmt: skip
    """The tasks as far as the device goes, and the items of the base, where there is one, and of the model.

    Args:
        names: Of the model, its base, and what it is compared with.
        has_roles: Whether the tasks are a run's.
        part: Which questions are asked; `None`: all.
    """
    from holdfast.evaluation.tasks.probe import limit_probe_tasks
    from holdfast.models.loading import load_model

    model, base, against = names
    loaded_model = load_model(model if base is None else base, device=device)
    tasks = limit_probe_tasks(tasks, loaded_model.model)
    measure = partial(
        _measure_model, out=out, ui=ui, settings=_find_chat_settings(model, against), draft=open_draft(draft, device),
        part=part,
    )  # fmt: skip
    before: dict[str, list[ItemResult]] = {}
    reference = None
    if base is not None:
        paired_tasks = [task for task in tasks if against is not None or task.kind == "probe"]
        before, reference = measure(loaded_model, base, paired_tasks, "base")
        loaded_model = load_model(model, device=device)
    after, _ = measure(loaded_model, model, tasks, "tuned", reference=reference, has_roles=has_roles, method=inference)
    return tasks, {"base": before, "tuned": after}


def _require_models(model: str, against: str | None, draft: str | None) -> None:
    """See that all are there and go together; this is said first, not after the tasks."""
    for name in (model, against):
        if name is not None:
            locate_model(name)
            refuse_other_tokens(draft, name, "--draft")


def _tell_of_tasks(tasks: Sequence[Task], inference: Inference | None, ui: Progress) -> None:
    """Say how tasks are measured whose way was found from their rows, and which see nothing of a method."""
    for task in tasks:
        if "why" in task.meta:
            ui.write_line(task.meta["why"])
    for line in describe_reach(inference, tasks):
        ui.warn(line)


def _find_chat_settings(*names: str | None) -> ChatSettings:
    """How the first among `names` was trained to be asked that says so; both models are measured like that."""
    from holdfast.data.chat.settings import ChatSettings, settings_of
    from holdfast.recipe.loader import read_recipe

    given_names = [name for name in names if name is not None]
    if settings := next(filter(None, map(settings_of, given_names)), None):
        return settings
    runs = [
        Path(name) for name in given_names if (Path(name) / "resolved.yaml").exists()
    ]  # of a version that kept none
    return ChatSettings(read_recipe(runs[0]).recipe.data.system if runs else None)


def _find_own_base(model: str, tasks: Sequence[Task], ui: Progress) -> str | None:
    """The model that a run or an adapter started from, where the probe needs it and it is there."""
    from holdfast.models.own_base import find_own_base

    if not any(task.kind == "probe" for task in tasks) or (base := find_own_base(model)) is None:
        return None
    try:
        locate_model(base)
    except UserError as error:
        ui.warn(f"the probe is measured without its base: {error}; name one with --against")
        return None
    return base


def _keep_comparable_tasks(model: str, base: str, tasks: list[Task], ui: Progress) -> list[Task]:
    """The tasks without the probe, if the two models do not share the tokens it compares."""
    from holdfast.models.loading import load_tokenizer

    if not any(task.kind == "probe" for task in tasks):
        return tasks
    one, other = (load_tokenizer(name).get_vocab() for name in (model, base))
    if one == other:
        return tasks
    rest = [task for task in tasks if task.kind != "probe"]
    problem = f"the probe compares token by token and needs one tokenizer, but those of {model} and {base} differ"
    if not rest:
        raise UserError(f"{problem}; name other tasks")
    ui.warn(f"{problem}; it is left out")
    return rest


def _build_unpaired_report(
    tasks: Sequence[Task], base: dict[str, list[ItemResult]], items: dict[str, list[ItemResult]]
) -> dict[str, Any]:
    """The report of a model that is compared with nothing, but on the probe with its base if it has one."""
    from holdfast.evaluation.tasks.probe_summary import summarise_probe

    probes = [
        summarise_probe(base.get(t.name, items[t.name]), items[t.name])
        for t in tasks
        if t.kind == "probe" and items[t.name]
    ]
    alone = [task for task in tasks if task.kind != "probe" or base.get(task.name)]
    return {
        "tasks": [_build_task_entry(task, items[task.name]) for task in alone],
        **dict.fromkeys(("gain", "loss", "text", "held_out", "gate")),
        "probe": probes[0] if probes else None,
    }


def _choose_tasks(
    model: str, names: list[str] | None, judge: Judge | None, settings: TaskSettings, say: Callable[[str], object]
) -> list[Task]:
    from holdfast.evaluation.tasks.by_name import build_named_tasks, build_tasks
    from holdfast.models.loading import is_lab

    run = Path(model)
    if names:
        return [task for name in names for task in build_named_tasks(name, settings, judge=judge, say=say)]
    if (run / "report.json").exists():
        from holdfast.pipeline.sources import read_sources
        from holdfast.recipe.loader import read_recipe

        recipe = read_recipe(run).recipe
        sources = read_sources(recipe, lambda text: None, lambda text: None)
        return build_tasks(recipe, sources.test, sources.judge, lab=is_lab(recipe.model))
    return build_named_tasks("lab" if is_lab(model) else "probe", settings)


def _measure_model(
    loaded_model: LoadedModel, name: str, tasks: list[Task], when: str, out: str | Path | None, ui: Progress,
    reference: Reference | None = None, settings: ChatSettings | None = None, has_roles: bool = False,
    method: Inference | None = None, draft: Draft | None = None, part: EvaluationShard | None = None,
) -> tuple[dict[str, list[ItemResult]], Reference | None]:  # fmt: skip
    """The items of every task, and what the model did on the probe if it is itself the reference.

    Args:
        has_roles: Whether the tasks are a run's, some of them to be kept; tasks that somebody names are asked as `chat`
            asks.
        method: Through which it answers besides.
        draft: Who proposes tokens.
        part: Which questions are asked; `None`: all.
    """
    from holdfast.data.chat.settings import ChatSettings
    from holdfast.evaluation.measure import count_items, measure_all
    from holdfast.evaluation.results_store import ResultsStore, shared_store
    from holdfast.evaluation.subject import EvaluatedModel
    from holdfast.generation.chosen_method import open_chosen_decoder
    from holdfast.generation.factory import build_sample_fn
    from holdfast.models.loading import count_embeddings

    chat = (settings or ChatSettings()).build_chat(loaded_model.tokenizer)
    chat.limit_to(count_embeddings(loaded_model.model))
    decoder = open_chosen_decoder(loaded_model, name, settle_for_model(method, loaded_model, name, chat))
    if line := decoder.describe_answers():
        ui.write_line(f"{name}: {line}")

    def build_subject(decoder: Decoder, fingerprint: str) -> EvaluatedModel:
        policy = compile_passes(decoder.build_policy(chat), "auto", ui.write_once)
        return EvaluatedModel(
            decoder.answer_fingerprint(fingerprint), chat,
            build_sample_fn(decoder.build_engine(chat, fingerprint=fingerprint, say=ui.write_once, draft=draft)),
            policy, prompt=decoder.transform_prompt,
            choice_bias=decoder.choice_bias if decoder.methods else None,
            gives_judge=bool(decoder.methods_changing("attempts")),
            describe_sources=decoder.describe_sources if decoder.methods else None, rater=rater,
            extra=describe_arithmetic(policy), reference=reference,
        )  # fmt: skip

    rater = _open_rater(name, tasks, str(loaded_model.model.device))
    subject, fingerprint = build_subject(decoder, loaded_model.fingerprint), f"{loaded_model.fingerprint}/elsewhere"
    other = loaded_model.tuner.model_elsewhere(decoder.model) if has_roles else decoder.model
    if other is not decoder.model:
        subject.elsewhere = build_subject(replace(decoder, model=other), fingerprint)
    if part is not None:
        tasks = part.take_part(tasks, subject, when, loaded_model.fingerprint)
    ui.start_phase(f"measure {name}", count_items(tasks))
    store = ResultsStore(Path(out) / "eval" / when) if out is not None else None
    items = measure_all(tasks, subject, store=store, baselines=shared_store(), progress=lambda n: ui.advance(n))
    return items, subject.own_reference


def _open_rater(name: str, tasks: Sequence[Task], device: str) -> RewardModel | None:
    """What ranks the held-out pairs where a model is one that ranks."""
    from holdfast.models.reward_model import find_reward_problem, load_reward_model

    is_asked = any(task.name == PAIRS for task in tasks) and find_reward_problem(name) is None
    return load_reward_model(name, device) if is_asked else None


def _build_task_entry(task: Task, items: list[ItemResult]) -> dict[str, Any]:
    """One task of a model that is compared with nothing."""
    unit, figure, whole = task.info.unit, compute_score(task, items), items
    (items,) = drop_unfit({task.name: whole})[0].values()
    return {
        "name": task.name, "role": task.role, "kind": task.kind, "unit": unit.name, "better": unit.better_direction,
        "judge": task.info.judge or None, "n": len(items), "tuned": figure,
        "thoughts": {"tuned": count_thoughts(items)}, "unanswered": {"tuned": count_unanswered(whole)},
        "left_out": len(whole) - len(items),
        "unreadable_tuned": sum(item.unreadable for item in items) if task.kind in ANSWERED else None,
        **({"answering": answering} if (answering := summarise_traces(items)) else {}),
        **({"episodes": {"tuned": summarise_episodes(items)}} if task.kind == "episodes" else {}),
        **score_interval(task, items),
    }  # fmt: skip


def _write_report(out: Path, report: dict[str, Any], is_paired: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    replace_json(out / "report.json", report)
    if is_paired:
        from holdfast.report.html import render_run, write_page

        write_page(out / "report.html", render_run(report))
