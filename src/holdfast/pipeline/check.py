"""`holdfast check`: what training would see and cost, without training."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.data.pictures.processor import count_picture_tokens
from holdfast.pipeline.curation_check import CurationPool
from holdfast.pipeline.readiness import (
    check_inference,
    check_prompt_lengths,
    check_readiness,
    describe_decoding,
    describe_engine,
    refuse_adapter,
)
from holdfast.pipeline.run_dir import check_output
from holdfast.recipe.data_entries import data_label
from holdfast.recipe.loader import ResolvedRecipe, resolve_any
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.batches import EncodedSequence, TokenTable
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.data.rows import Rows
    from holdfast.evaluation.task import Task
    from holdfast.models.loading import LoadedModel
    from holdfast.pipeline.sources import Sources
    from holdfast.training.plan import TrainingPlan

EXAMPLE_ROWS = 3


def check(
    recipe: ResolvedRecipe | Recipe | dict[str, Any] | str,
    *,
    ui: Progress | None = None,
    judge: bool = False,
    device_gib: float | None = None,
) -> dict[str, Any]:
    """Read everything, validate every row, and describe the plan.

    Args:
        judge: Also try the judge on the first rows' own answers; the part `judge` (see `judges.trial.try_judge`).
        device_gib: Plan the training for a CUDA GPU with this much memory, which need not be here.
    Returns:
        `rows` (counts), `lengths` (histogram), `measured` (tasks), `examples` (pieces of text, trained or not), `plan`
        (steps, micro-batch), `estimate` (seconds, memory) and `warnings`; of a recipe with stages `stages`, a list of
        these.
    Raises:
        UserError: Whatever a run would refuse.
    """
    resolved_recipe = resolve_any(recipe)
    other_run = check_output(resolved_recipe.recipe)
    if resolved_recipe.recipe.stages:
        stages = _check_stages(resolved_recipe, ui, judge, device_gib)
        findings, first = {"stages": stages}, stages[0]
    else:
        findings = first = check_one(resolved_recipe, ui or Progress.create_silent(), judge, device_gib)
    if other_run:
        first["warnings"].append(other_run)
    return findings


def _check_stages(
    resolved_recipe: ResolvedRecipe, ui: Progress | None, judge: bool, device_gib: float | None
) -> list[dict[str, Any]]:
    """Each stage with the model at the beginning of its chain, since those that stages leave are not there yet."""
    from holdfast.pipeline.multi_stage import check_stages, first_model_of_chain, plan_stage

    check_stages(resolved_recipe, each=False)
    recipe, checks = resolved_recipe.recipe, []
    for number, stage in enumerate(recipe.stages):
        plan = plan_stage(resolved_recipe, number, Path(recipe.output), first_model_of_chain(recipe, stage))
        what = f"method {stage.method_label}, data {data_label(stage.data)}, from {stage.model}"
        findings = check_one(plan, ui or Progress.create_silent(), judge, device_gib)
        checks.append({"name": stage.name, "what": what, **findings})
    return checks


def check_one(
    resolved_recipe: ResolvedRecipe, ui: Progress, judge: bool = False, device_gib: float | None = None
) -> dict[str, Any]:
    """`check` of a recipe without stages, or of one stage."""
    from holdfast.data.chat.settings import make_chat
    from holdfast.evaluation.tasks.by_name import build_tasks
    from holdfast.evaluation.tasks.probe import limit_probe_tasks
    from holdfast.models.loading import count_embeddings, load_model, tuned_context_length
    from holdfast.models.placement import choose_device
    from holdfast.pipeline.curation_key import open_replay_rows
    from holdfast.pipeline.estimate import estimate_costs
    from holdfast.pipeline.live_evaluation import refuse_unmeasured
    from holdfast.pipeline.phases import describe_context_limit
    from holdfast.pipeline.sources import read_sources

    recipe, warnings = resolved_recipe.recipe, list[str]()
    ui.start_phase("check data")
    sources = read_sources(recipe, ui.write_line, warnings.append, resolved_recipe.sources)
    every = (sources.train, sources.test, *open_replay_rows(recipe, ui.write_line))
    base = load_model(recipe.model, device=choose_device(recipe.device))
    refuse_adapter(base.path, recipe.model)
    chat = make_chat(recipe.data, base.tokenizer, *every, say=ui.write_line, warn=warnings.append)
    chat.limit_to(count_embeddings(base.model))
    tasks = build_tasks(recipe, sources.test, sources.judge, lab=base.lab, say=ui.write_line)
    tasks = limit_probe_tasks(tasks, base.model)
    refuse_unmeasured(recipe, tasks)
    warnings += list_early_warnings(recipe, base.path, sources, tasks)
    pool = CurationPool(sources.train, base.tokenizer)
    check_readiness(recipe, sources.judge, base.model, pool=pool, say=ui.write_line)
    context = tuned_context_length(base.model.config, recipe.tuner)
    write_lines(ui, [*describe_context_limit(recipe, context), *describe_engine(recipe, base.model, tasks)])
    describe = _describe_rounds if recipe.credit is not None else _describe_table
    table, token_report, plan, examples = describe(resolved_recipe, base, chat, sources, warnings)
    warnings += [*plan.warnings, *check_prompt_lengths(tasks, chat, context)]
    write_lines(ui, [*token_report.unrolled_lines(), *token_report.picture_lines(), *plan.remarks])
    thinks = chat.template.thoughts.allows_thought
    ui.start_phase("estimate")
    return {
        "rows": _row_counts(token_report, len(sources.test)),
        "lengths": _length_histogram(token_report),
        "measured": _task_entries(tasks),
        **examples,
        **estimate_costs(recipe, base.model, table, plan, tasks, len(sources.train), thinks, device_gib),
        "warnings": warnings, **(_try_judge(sources) if judge else {}),
    }  # fmt: skip


def _describe_table(
    resolved_recipe: ResolvedRecipe, base: LoadedModel, chat: Chat, sources: Sources, warnings: list[str]
) -> tuple[TokenTable, TableReport, TrainingPlan, dict[str, Any]]:
    """The rows as tokens, what became of them, the plan, and the first of them to be shown."""
    from holdfast.models.loading import tuned_context_length
    from holdfast.pipeline.phases import encode_rows, match_recipe_and_rows, rows_for_objective
    from holdfast.training.plan import plan_training

    recipe = resolved_recipe.recipe
    as_read, rows = match_recipe_and_rows(recipe, sources.train)
    if as_read is not recipe:
        warnings.append("rows are shown as they come; a curator makes pairs of them, which are then trained on")
    context = tuned_context_length(base.model.config, recipe.tuner)
    table, token_report = encode_rows(as_read, rows_for_objective(as_read, rows), chat, context)
    plan = plan_training(as_read, base.model, table, token_report, resolved_recipe.sources)
    return table, token_report, plan, _example_entries(as_read, table, chat)


def _describe_rounds(
    resolved_recipe: ResolvedRecipe, base: LoadedModel, chat: Chat, sources: Sources, warnings: list[str]
) -> tuple[TokenTable, TableReport, TrainingPlan, dict[str, Any]]:
    """Likewise of rounds, with the turns of an episode to be shown."""
    from holdfast.pipeline.rounds_check import describe_rounds

    table, token_report, plan, turns = describe_rounds(resolved_recipe, base, chat, sources)
    examples = {"examples": [split_by_mask(one, chat) for _, one in turns], "answers": [name for name, _ in turns]}
    return table, token_report, plan, examples


def write_lines(ui: Progress, lines: list[str]) -> None:
    """Say each of them."""
    for line in lines:
        ui.write_line(line)


def list_early_warnings(recipe: Recipe, model: Path, sources: Sources, tasks: list[Task]) -> list[str]:
    """What is to be said of the model and the rows before anything is encoded."""
    from holdfast.evaluation.tasks.by_name import warn_of_nothing_kept

    warning = warn_of_nothing_kept(tasks, trains=recipe.train.max_steps != 0)
    lines = (warning, describe_decoding(model), *check_inference(recipe, sources, tasks))
    return [*filter(None, lines), *describe_overlaps(recipe, sources.train, tasks)]


def describe_overlaps(recipe: Recipe, rows: Rows, tasks: list[Task]) -> list[str]:
    """A line when rows overlap with what is measured, and are left out for that by the recipe."""
    from holdfast.methods.curators.decontaminate import Decontaminate
    from holdfast.pipeline.curation_key import list_curators

    check = next((curator for curator in list_curators(recipe) if isinstance(curator, Decontaminate)), None)
    if check is None:
        return []
    reasons = check.find_reasons(rows, {task.name: task.rows for task in tasks})
    counts = Counter(reason.partition(":")[0] for reason in reasons.values())
    return [
        f"{data_label(recipe.data)}: {count:,} of {len(rows):,} rows are left out: each {reason}, which is measured "
        "(data.decontaminate: false trains on them)"
        for reason, count in counts.items()
    ]


def _try_judge(sources: Sources) -> dict[str, Any]:
    """How the judge reads the rows' own answers."""
    from holdfast.methods.judges.trial import try_judge

    if sources.judge is None:
        return {"judge": {"judge": None, "why": "the references are free text, for which no judge is named"}}
    return {"judge": try_judge(sources.judge, sources.train)}


def _task_entries(tasks: list[Task]) -> list[dict[str, Any]]:
    """What is measured before and after."""
    return [{"role": t.role, "name": t.name, "kind": t.kind, "unit": t.info.unit.name, "n": len(t.rows)} for t in tasks]


def _row_counts(token_report: TableReport, test: int) -> dict[str, Any]:
    """What became of the rows."""
    share = "sampled answers" if token_report.are_prompts else f"{token_report.trained_share:.0%}"
    return {
        "train": token_report.rows, "kept": token_report.kept, "test": test, "tokens": token_report.tokens,
        "trained_share": share, "limit": token_report.limit,
        "truncated": token_report.truncated,
        **({"windows": token_report.windows} if token_report.windowed else {}), "dropped": token_report.dropped,
        **({"pictures": token_report.pictures, "picture_tokens": token_report.picture_tokens}
           if token_report.pictures else {}),
    }  # fmt: skip


def _length_histogram(token_report: TableReport) -> dict[str, list[int]]:
    """The histogram of row lengths: `edges` are n + 1 bounds, `counts` n numbers."""
    return {
        "edges": [1, *(upper + 1 for upper, _ in token_report.histogram)],
        "counts": [n for _, n in token_report.histogram],
    }


def _example_entries(recipe: Recipe, table: TokenTable, chat: Chat) -> dict[str, Any]:
    """The first rows as `examples`, every answer of them, and in `answers` which one of its row each is."""
    sequences = [sequence for i in _first_entries(table)[:EXAMPLE_ROWS] for sequence in table.row_sequences(i)]
    from holdfast.data.row_shapes import PAIR

    pairs = recipe.row_shape() is PAIR
    names = [("chosen", "rejected")[s.role] if pairs and s.role < 2 else f"answer {s.role + 1}" for s in sequences]
    return {"examples": [split_by_mask(sequence, chat) for sequence in sequences], "answers": names}


def _first_entries(table: TokenTable) -> list[int]:
    """The first entry of each row: of a text in windows its beginning."""
    import numpy as np

    return np.unique(table.source, return_index=True)[1].tolist()


def split_by_mask(sequence: EncodedSequence, chat: Chat) -> list[dict[str, Any]]:
    """A sequence as text, cut where training begins and ends."""
    out: list[dict[str, Any]] = []
    start, processor = 0, chat.pictures.processor
    for end in range(1, len(sequence.ids) + 1):
        if end == len(sequence.ids) or sequence.label_mask[end] != sequence.label_mask[start]:
            text = str(chat.tokenizer.decode(sequence.ids[start:end].tolist()))
            text = count_picture_tokens(text, processor.image_token) if processor and sequence.pictures else text
            out.append({"text": text, "trained": bool(sequence.label_mask[start])})
            start = end
    return out
