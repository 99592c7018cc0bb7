"""`holdfast check`: what training would see and cost, without training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from holdfast.core.progress import Progress
from holdfast.pipeline.readiness import decoding_note, engine_note, look_ahead, look_at_prompts
from holdfast.recipe.data_entries import data_label
from holdfast.recipe.loader import Resolved, as_resolved
from holdfast.recipe.schema import Recipe

if TYPE_CHECKING:
    from holdfast.data.batching.batches import Encoded, TokenTable
    from holdfast.data.batching.tokenize import TableReport
    from holdfast.data.chat.encoder import Chat
    from holdfast.evaluation.task import Task
    from holdfast.pipeline.sources import Sources

SHOWN = 3


def check(
    recipe: Resolved | Recipe | dict[str, Any] | str, *, ui: Progress | None = None, judge: bool = False
) -> dict[str, Any]:
    """Read everything, validate every row, and describe the plan.

    Args:
        judge: Also try the judge on the first rows' own answers; the part `judge` (see `judges.trial.try_judge`).
    Returns:
        `rows` (counts), `lengths` (histogram), `measured` (tasks), `examples` (pieces of text, trained or not), `plan`
        (steps, micro-batch), `estimate` (seconds, memory) and `warnings`; of a recipe with stages `stages`, a list of
        these.
    Raises:
        UserError: Whatever a run would refuse.
    """
    resolved = as_resolved(recipe)
    if resolved.recipe.stages:
        return {"stages": _stages(resolved, ui, judge)}
    return check_one(resolved, ui or Progress.silent(), judge)


def _stages(resolved: Resolved, ui: Progress | None, judge: bool) -> list[dict[str, Any]]:
    """Each stage with the model at the beginning of its chain, since those that stages leave are not there yet."""
    from holdfast.pipeline.multi_stage import descends, look_over, planned

    look_over(resolved, each=False)
    recipe, found = resolved.recipe, []
    for number, stage in enumerate(recipe.stages):
        plan = planned(resolved, number, Path(recipe.output), descends(recipe, stage))
        what = f"method {stage.chosen}, data {data_label(stage.data)}, from {stage.model}"
        found.append({"name": stage.name, "what": what, **check_one(plan, ui or Progress.silent(), judge)})
    return found


def check_one(resolved: Resolved, ui: Progress, judge: bool = False) -> dict[str, Any]:
    """`check` of a recipe without stages, or of one stage."""
    from holdfast.data.chat.settings import make_chat
    from holdfast.evaluation.tasks.by_name import build_tasks, nothing_kept
    from holdfast.evaluation.tasks.probe import affordable
    from holdfast.models.loading import context_length, embeddings_of, load
    from holdfast.models.placement import choose_device
    from holdfast.pipeline.curation_key import rows_beside
    from holdfast.pipeline.estimate import estimate_costs
    from holdfast.pipeline.live_evaluation import refuse_unmeasured
    from holdfast.pipeline.phases import before_curation, beyond_context, encode, trained
    from holdfast.pipeline.sources import read_sources
    from holdfast.training.plan import plan_training

    recipe, warnings = resolved.recipe, list[str]()
    ui.phase("check data")
    sources = read_sources(recipe, ui.line, warnings.append, resolved.sources)
    every = (sources.train, sources.test, *rows_beside(recipe, ui.line))
    base = load(recipe.model, device=choose_device(recipe.device))
    chat = make_chat(recipe.data, base.tokenizer, *every, say=ui.line, warn=warnings.append)
    chat.limit_to(embeddings_of(base.model))
    tasks = affordable(build_tasks(recipe, sources.test, sources.judge, lab=base.lab, say=ui.line), base.model)
    refuse_unmeasured(recipe, tasks)
    warnings += filter(None, (nothing_kept(tasks), decoding_note(base.path)))
    look_ahead(recipe, sources.judge, base.model, say=ui.line)
    as_read, rows = before_curation(recipe, sources.train)
    if as_read is not recipe:
        warnings.append("rows are shown as they come; a curator makes pairs of them, which are then trained on")
    context = context_length(base.model.config, recipe.tuner.virtual_tokens())
    for line in [*beyond_context(recipe, context), *engine_note(recipe, base.model, tasks)]:
        ui.line(line)
    table, told = encode(as_read, trained(as_read, rows), chat, context)
    plan = plan_training(as_read, base.model, table, told, resolved.sources)
    warnings += [*plan.warnings, *look_at_prompts(tasks, chat, context)]
    for line in [*told.unrolled_lines(), *plan.remarks]:
        ui.line(line)
    ui.phase("estimate")
    return {
        "rows": _counts(told, len(sources.test)),
        "lengths": _lengths(told),
        "measured": _measurements(tasks),
        **_examples(as_read, table, chat),
        **estimate_costs(recipe, base.model, table, plan, tasks, len(rows), chat.template.thoughts.thinks),
        "warnings": warnings, **(_trial(sources) if judge else {}),
    }  # fmt: skip


def _trial(sources: Sources) -> dict[str, Any]:
    """How the judge reads the rows' own answers."""
    from holdfast.methods.judges.trial import try_judge

    if sources.judge is None:
        return {"judge": {"judge": None, "why": "the references are free text, for which no judge is named"}}
    return {"judge": try_judge(sources.judge, sources.train)}


def _measurements(tasks: list[Task]) -> list[dict[str, Any]]:
    """What is measured before and after."""
    return [{"role": t.role, "name": t.name, "kind": t.kind, "unit": t.info.unit.name, "n": len(t.rows)} for t in tasks]


def _counts(told: TableReport, test: int) -> dict[str, Any]:
    """What became of the rows."""
    return {
        "train": told.rows, "kept": told.kept, "test": test, "tokens": told.tokens,
        "trained_share": f"{told.trained_share:.0%}", "limit": told.limit, "truncated": told.truncated,
        **({"windows": told.windows} if told.windowed else {}), "dropped": told.dropped,
    }  # fmt: skip


def _lengths(told: TableReport) -> dict[str, list[int]]:
    """The histogram of row lengths: `edges` are n + 1 bounds, `counts` n numbers."""
    return {
        "edges": [1, *(upper + 1 for upper, _ in told.histogram)],
        "counts": [n for _, n in told.histogram],
    }


def _examples(recipe: Recipe, table: TokenTable, chat: Chat) -> dict[str, Any]:
    """The first rows as `examples`, every answer of them, and in `answers` which one of its row each is."""
    shown = [sequence for i in _first_of_each(table)[:SHOWN] for sequence in table.sequences(i)]
    from holdfast.data.row_shapes import PAIR

    pairs = recipe.objective.kind() is PAIR
    names = [("chosen", "rejected")[s.role] if pairs and s.role < 2 else f"answer {s.role + 1}" for s in shown]
    return {"examples": [pieces(sequence, chat) for sequence in shown], "answers": names}


def _first_of_each(table: TokenTable) -> list[int]:
    """The first entry of each row: of a text in windows its beginning."""
    import numpy as np

    return np.unique(table.source, return_index=True)[1].tolist()


def pieces(sequence: Encoded, chat: Chat) -> list[dict[str, Any]]:
    """A sequence as text, cut where training begins and ends."""
    out: list[dict[str, Any]] = []
    start = 0
    for end in range(1, len(sequence.ids) + 1):
        if end == len(sequence.ids) or sequence.trained[end] != sequence.trained[start]:
            text = chat.tokenizer.decode(sequence.ids[start:end].tolist())
            out.append({"text": text, "trained": bool(sequence.trained[start])})
            start = end
    return out
